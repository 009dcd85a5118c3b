"""What the guard says of inputs and models, where the API has one."""

from __future__ import annotations

from api.console.page import Page

PATH = "/v1/guard"


def add(page: Page) -> None:
    """Add the guard's section."""
