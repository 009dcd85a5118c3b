"""Shapes of requests and answers at the edge, for validation and OpenAPI; examples included.

Inside, data are plain values: nothing here is used on a hot path.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
)

#: What a status means, wherever it is answered.
PROBLEMS = {
    401: "The API key is missing or wrong",
    403: "Without a key, a page of another site may not write, nor one who uses a foreign name",
    404: "There is no such thing; `near` may name what was meant",
    409: "It contradicts what is there; `remedy` says what to do",
    413: "The request's body is too large",
    415: "The body's encoding is not understood",
    422: "A field is not what it must be; `field` names it",
    500: "An error nobody foresaw",
    503: "The log or the store cannot be reached; try again after Retry-After",
}

ShortName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
#: Any word that is written as UTF-8: half a surrogate pair is none.
Word = Annotated[str, StringConstraints(max_length=1000)]
#: Taken as what they are: no text for a number, no number for yes or no, none for a time.
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict()]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


def _written(value: object) -> object:
    """A time as it must be written: pydantic would take a number, of seconds or of more."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("give ISO 8601 with a zone, such as 2026-11-30T00:00:00+01:00")
    if isinstance(value, (int, float)):
        raise ValueError("a number is no time: give ISO 8601 with a zone")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]


class Problem(BaseModel):
    """An error, by RFC 9457."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/unknown-series",
                    "title": "Unknown series",
                    "status": 404,
                    "detail": "store `S1` has no product `P-1O2`",
                    "field": "product",
                    "remedy": "choose one of `near`, or search with GET /v1/series?q=",
                    "near": ["S1/P-102"],
                }
            ]
        },
    )

    type: str = Field(description="A stable URI reference of the kind of problem")
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="The field or parameter it is about")
    remedy: str | None = Field(None, description="What to do")
    near: list[str] | None = Field(None, description="What may have been meant")


class Accepted(BaseModel):
    """An item that is durable in the log."""

    status: Literal["accepted"]
    receipt: str = Field(examples=["2-1045-0"], description="Partition, offset and item")


class Refused(BaseModel):
    """An item that was not appended."""

    status: Literal["refused"]
    index: int | None = Field(None, description="Place in the request, where `brief`")
    reason: str = Field(examples=["invalid_field"])
    field: str = Field(examples=["quantity"])
    detail: str
    remedy: str


class Ingested(BaseModel):
    """What became of each item, in order."""

    accepted: int = Field(examples=[1])
    refused: int = Field(examples=[0])
    items: list[Accepted | Refused]


class Receipt(BaseModel):
    """What became of an accepted event."""

    receipt: str = Field(examples=["2-1045-0"])
    state: Literal["waiting", "folded", "dead_letter"] = Field(
        description="waiting: in no snapshot yet; folded: in a snapshot; dead_letter: kept aside"
    )
    reason: str | None = None
    detail: str | None = None
    remedy: str | None = None
    served: bool = Field(description="Whether the snapshot that is served has taken note of it")
    snapshot: str | None = None


class SeriesItem(BaseModel):
    """One series."""

    store: str = Field(examples=["330"])
    product: str = Field(examples=["P-102"])
    category: str
    partition: int
    listed: str | None = Field(description="Start of its first bucket")
    recent: float = Field(
        description="Units a bucket over the last season; a missing bucket counts for none"
    )


class SeriesPage(BaseModel):
    """Series by recent volume."""

    total: int
    items: list[SeriesItem]
    next_offset: int | None


POINT = (
    "The one number you are judged by: `mean` for squared error and totals, `median` for absolute "
    "error, `mape` for absolute percentage error (the median once the density is reweighted by "
    "1/y: it is biased low, and where nothing is sold it has no opinion)"
)


class Step(BaseModel):
    """The forecast of one bucket, in units."""

    start: str = Field(examples=["2025-03-02T00:00:00+01:00"])
    end: str = Field(examples=["2025-03-03T00:00:00+01:00"])
    mean: float = Field(examples=[4.2], description="For totals")
    median: float = Field(examples=[4.0], description="For absolute error")
    quantiles: dict[str, float] = Field(examples=[{"0.1": 1.5, "0.5": 4.0, "0.9": 7.3}])
    sold: float | None = Field(description="Sold so far, where the bucket is open")
    remains: float | None = Field(
        description="Mean of what is still to come of an open bucket: mean = sold + remains"
    )
    point: float | None = Field(None, description="There where `point` was asked for")


class Total(BaseModel):
    """The total over some steps, in units: a distribution of its own, calibrated directly."""

    first: int = Field(alias="from", examples=[3], description="First step, from 1")
    last: int = Field(alias="to", examples=[9], description="Last step")
    start: str
    end: str
    mean: float
    median: float
    quantiles: dict[str, float]
    sold: float | None = Field(description="Sold so far of it, where a bucket of it is open")
    remains: float | None = Field(description="Mean of what is still to come: mean - sold")


class Forecast(BaseModel):
    """The forecast of one series."""

    store: str
    product: str
    category: str
    origin: str = Field(description="Start of the last closed bucket")
    bucket: Literal["hour", "day", "week"]
    timezone: str
    model: str
    basis: Literal["own", "group", "retired"] = Field(
        description="What it stands on: the series' own demand, or that of its kind while it is "
        "young; retired: delisted, or silent far beyond its own gaps"
    )
    snapshot: str
    as_of: str = Field(description="The watermark: event time up to which sales are in")
    age_s: float
    stale: bool
    frozen: bool
    metric: Literal["RMSSE", "WAPE", "MAPE"] | None = Field(
        None, description="What `point` is for; there where it was asked for"
    )
    sum: Total | None = Field(None, description="Where `sum` is asked for")
    steps: list[Step]


class BatchRequest(BaseModel):
    """Series to forecast: `series`, or `all` (of one `store`, if given)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"series": [["330", "P-102"]], "horizon": 7, "quantiles": [0.1, 0.9]}]
        },
    )

    series: list[tuple[str, str]] | None = Field(None, max_length=100_000)
    all: bool = False
    store: str | None = None
    horizon: int | None = None
    quantiles: list[float] | None = None
    point: Literal["mean", "median", "mape"] | None = Field(None, description=POINT)
    sum: str | None = Field(None, examples=["3..9"], description="Steps to sum, first and last")


class PartitionState(BaseModel):
    """What a partition's forecasts stand on."""

    origin: str
    as_of: str
    snapshot: str
    stale: bool
    frozen: bool = Field(description="Whether an operation keeps it from following the head")
    age_s: float


class PastBucket(BaseModel):
    """A closed bucket."""

    start: str
    end: str
    units: float | None
    returns: float
    price: float | None
    promotion: float
    status: Literal["observed", "missing", "censored"]


class History(BaseModel):
    """Closed buckets of a series, oldest first."""

    store: str
    product: str
    category: str
    bucket: Literal["hour", "day", "week"]
    timezone: str
    items: list[PastBucket]


class Score(BaseModel):
    """Recent errors of a model at a horizon; `value` is the slice's, where there is one."""

    value: str | None = Field(None, examples=["DAIRY"])
    model: str = Field(examples=["ensemble"])
    role: Literal["champion", "challenger", "twin"]
    horizon: int = Field(examples=[7])
    n: float
    rmsse: float | None = Field(description="Of the mean, pooled")
    bias: float | None = Field(description="Of the mean: forecast less demand, over demand")
    wape: float | None = Field(description="Of the median: absolute errors over demand")
    pinball: float | None = Field(
        description="Mean pinball loss at 0.1, 0.5 and 0.9, over the root mean squared seasonal "
        "difference"
    )
    hits: dict[str, float | None] = Field(
        description="By level, the share of demand below it; a count that straddles the level "
        "counts in part. Calibrated is: the level itself",
        examples=[{"0.1": 0.101, "0.5": 0.507, "0.9": 0.901, "0.975": 0.974}],
    )
    covered: dict[str, float | None] = Field(
        description="By level, how often demand did not pass the quantile; of counts more often "
        "than the level says",
        examples=[{"0.1": 0.16, "0.5": 0.56, "0.9": 0.92, "0.975": 0.98}],
    )


class Quality(BaseModel):
    """Scores summed over the partitions served."""

    partitions: list[int]
    slice: Literal["store", "category", "volume_class"] | None
    rows: list[Score]


class ModelAccuracy(BaseModel):
    """How good one model's forecasts of one series were."""

    model: str
    rmsse: float | None = Field(description="Of the mean, by the series' own seasonal difference")
    bias: float | None = Field(description="Of the mean; it and `wape`: null without demand")
    wape: float | None = Field(description="Of the median")
    coverage_80: float = Field(
        description="Share of demand in the band from 0.1 to 0.9; a count at its edge counts in "
        "part, so 0.8 is right for counts too"
    )


class HorizonAccuracy(BaseModel):
    """Accuracy of one series at one horizon."""

    horizon: int = Field(examples=[7])
    n: int = Field(description="Forecasts scored, in all")
    demand: float = Field(description="Mean demand of those buckets, in units")
    champion: ModelAccuracy | None
    naive: ModelAccuracy | None = Field(description="Seasonal naive, where it is scored")


class SeriesAccuracy(BaseModel):
    """Accuracy of one series."""

    store: str
    product: str
    category: str
    origin: str
    snapshot: str
    memory: int = Field(description="Scored buckets that the means reach back over")
    horizons: list[HorizonAccuracy]


class SnapshotItem(BaseModel):
    """A snapshot of a partition."""

    id: str
    partition: int
    position: int
    lineage: int
    parent: str | None
    as_of: str | None
    published_at: str
    origin: str | None
    size_bytes: int
    head: bool
    active: bool
    scores: list[Score]
    digest: str


class UnreadableItem(BaseModel):
    """A snapshot that cannot be read, and why."""

    id: str
    partition: int
    reason: str


class Snapshots(BaseModel):
    """Snapshots, newest first."""

    items: list[SnapshotItem]
    unreadable: list[UnreadableItem]


class PartItem(BaseModel):
    """A part of a snapshot."""

    name: str
    size: int
    chunks: int


class SnapshotDetail(SnapshotItem):
    """A snapshot with all that its manifest says."""

    versions: dict[str, str]
    settings: dict[str, Any]
    parts: list[PartItem]
    counts: dict[str, dict[str, int]]


class Standstill(BaseModel):
    """What keeps a partition from being folded on; what is served of it stays served."""

    offset: int | None = Field(
        description="The record that cannot be folded; null: its head cannot be taken up"
    )
    why: str
    since: str
    remedy: str = Field(description="What to do, with the command that lets it pass the record")


class Shard(BaseModel):
    """Who folds a partition, and how far the published head has come."""

    partition: int
    owner: str | None = Field(
        description="host:process id; null while nobody folds it, "
        "and while the log cannot be asked (`log_end` is null)"
    )
    lineage: int | None
    position: int
    log_end: int | None
    lag: int | None = Field(description="Records of the log that the head has not folded")
    lag_s: float | None = Field(description="How long the oldest of them has been in the log")
    snapshot: str | None
    published_at: str | None
    age_s: float | None
    as_of: str | None
    series: int
    standstill: Standstill | None


class Shards(BaseModel):
    """All partitions."""

    items: list[Shard]


class Live(BaseModel):
    """That the process answers."""

    live: Literal[True]


class Ready(BaseModel):
    """Whether requests can be answered."""

    ready: bool
    reasons: list[str]
