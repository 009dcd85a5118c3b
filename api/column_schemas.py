"""Shapes of answers that hold many series as columns, for OpenAPI."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from api.schemas import PartitionState


class Totals(BaseModel):
    """Totals over some steps, as columns: a value a series."""

    first: int = Field(alias="from")
    last: int = Field(alias="to")
    start: str
    end: str
    mean: list[float]
    median: list[float]
    quantiles: dict[str, list[float]]
    sold: list[float | None]


class Group(BaseModel):
    """Forecasts from one origin, as columns: a row a step, a column a series."""

    start: list[str]
    end: list[str]
    store: list[str]
    product: list[str]
    partition: list[int]
    mean: list[list[float]]
    median: list[list[float]]
    quantiles: dict[str, list[list[float]]]
    point: list[list[float]] | None = Field(None, description="There where `point` was asked for")
    metric: Literal["RMSSE", "WAPE", "MAPE"] | None = Field(
        None, description="What `point` is for; there where it was asked for"
    )
    partitions: dict[str, PartitionState]
    sum: Totals | None = Field(None, description="Where `sum` is asked for")


class Batch(BaseModel):
    """A group an origin."""

    groups: list[Group]
    unknown: list[tuple[str, str]]
