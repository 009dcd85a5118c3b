"""Why a forecast moved between two snapshots: facts, plans and model, where the API has it."""

from __future__ import annotations

from api.console.page import Page


def add_diff(page: Page, store: str, product: str) -> None:
    """Placeholder filled once shape is known."""
