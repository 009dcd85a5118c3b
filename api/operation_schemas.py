"""Shapes of operations at the edge: asked, carried out, in force; and where all stands."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Flag, Moment, ShortName, Standstill, Text, Word
from learner.operations import Kind
from learner.replay import MAX_OFFSET

OperationKind = Literal["freeze", "resume", "rollback", "quarantine", "readmit", "skip", "promote"]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]


class Exclude(BaseModel):
    """Which items are passed over: those that match every kind of criterion that is given."""

    model_config = ConfigDict(extra="forbid")

    sources: list[ShortName] = Field([], max_length=1000)
    stores: list[ShortName] = Field([], max_length=1000)
    products: list[ShortName] = Field([], max_length=1000)
    categories: list[ShortName] = Field([], max_length=1000)
    since: Moment | None = Field(None, description="Event time from which on")
    until: Moment | None = Field(None, description="Event time up to which, itself not")
    offsets: dict[Offset, tuple[Offset, Offset]] = Field(
        {}, description="Partition: first offset, and the one after the last"
    )
    surplus: Flag = Field(
        False, description="What remains is whole: buckets are not missing for it"
    )


class OperationRequest(BaseModel):
    """What an operator asks for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "kind": "freeze",
                    "who": "ada",
                    "reason": "prices of the feed look wrong",
                    "to": "2025-03-01T06:00:00+01:00",
                }
            ]
        },
    )

    kind: OperationKind
    reason: Text
    who: Text
    id: ShortName | None = Field(None, description="Repeat it to repeat the request safely")
    snapshots: list[Word] = Field([], max_length=10_000, description="Ids, one a partition")
    to: Moment | None = Field(None, description="The newest snapshots up to this event time")
    replay: Flag = Field(False, description="Roll back facts too, and learn again what came after")
    exclude: Exclude | None = Field(
        None, description="What a replay, quarantine or skip passes over"
    )
    admit_late: Flag = Field(False, description="Learn late items too, in a replay")
    readmits: ShortName | None = Field(None, description="The operation whose exclusion to lift")
    model: str | None = Field(
        None, max_length=300, description="The challenger that a promotion lets be champion"
    )
    dry_run: Flag = Field(False, description="Only answer what would be done")


class OutcomeItem(BaseModel):
    """What became of an operation in a partition."""

    partition: int
    outcome: Literal["applied", "refused"]
    time: str
    detail: str
    offset: int | None


class Progress(BaseModel):
    """How far a replay has come: it learns [start, until) again."""

    start: int
    until: int
    position: int


class Preview(BaseModel):
    """What a replay would learn again, and pass over of it."""

    records: int
    excluded: dict[str, int] = Field(description="Items by source")
    complete: bool = Field(description="False: counted in the first records only")


class GateTest(BaseModel):
    """A comparison of challenger and champion on what they lost, block by block."""

    slice: Literal["all", "volume_class", "category"]
    value: str
    horizon: int
    loss: Literal["squared", "pinball"]
    blocks: int
    effective: int = Field(description="Series times blocks")
    champion: float = Field(description="Mean loss")
    challenger: float
    change: float = Field(description="The challenger's over the champion's, less 1")
    p: float = Field(description="Of the one-sided test")
    level: float = Field(description="Below which `p` decides, by Holm's method")
    rejected: bool = Field(description="Whether the difference is more than chance")


class GateItem(BaseModel):
    """A condition of a promotion, and whether it holds."""

    gate: Literal["evidence", "better", "worthwhile", "floor", "nowhere_worse", "fair"]
    passed: bool
    detail: str
    tested: int
    tests: list[GateTest] = Field(description="The most telling first; at most 20 of slices")


class ModelItem(BaseModel):
    """A model that learns, or once did, and is scored."""

    model: str
    role: Literal["champion", "challenger", "twin"]
    promotable: bool = Field(description="Whether every gate holds now")
    gates: list[GateItem] = Field(description="Of a challenger")


class Models(BaseModel):
    """Champion, challengers and twin, as the heads of all partitions have them."""

    champion: str
    items: list[ModelItem]


class OperationItem(BaseModel):
    """An operation and what became of it."""

    id: str
    kind: Kind
    who: str
    reason: str
    time: str
    cut: dict[str, str] = Field(examples=[{"0": "p0-l0-o1045-1f0c9a2e"}])
    state: Literal["pending", "applied", "refused"]
    outcomes: list[OutcomeItem]
    replay: bool
    exclude: Exclude | None
    admit_late: bool
    readmits: str | None
    model: str = Field(description="Of a promotion: which model is served from its marker on")
    over: str = Field(description="Of a promotion: the champion it was judged against")
    about: str = Field(
        description="Of dead letters: which, and how they were mended; of a promotion: what the "
        "gates found"
    )
    progress: dict[str, Progress] = Field(description="Replays that are under way, by partition")
    preview: dict[str, Preview] | None = Field(None, description="Of a dry run of a replay")
    dry_run: bool


class Operations(BaseModel):
    """Operations, newest first."""

    items: list[OperationItem]


class Replaying(Progress):
    """A replay under way."""

    operation: str


class RuleItem(BaseModel):
    """An exclusion or quarantine in force over the offsets [start, end) of a partition."""

    operation: str
    kind: Literal["excluded", "quarantined", "skipped"]
    partition: int
    start: int
    end: int | None
    what: Exclude


class ExcludedItem(BaseModel):
    """An item that is passed over; it is kept in the log."""

    receipt: str
    source: str
    type: str
    value: str = Field(description="Its original bytes, as text")


class ExcludedPage(BaseModel):
    """Rules in force, and, of one operation, the items they pass over."""

    rules: list[RuleItem]
    items: list[ExcludedItem]
    next: str | None = Field(description="Give it as `after` to go on")


class Naming(BaseModel):
    """An operation that names a snapshot in its cut."""

    id: str
    kind: OperationKind
    who: str
    reason: str


class LineageNode(BaseModel):
    """A kept snapshot in the tree."""

    id: str
    parent: str | None = Field(description="The nearest kept one that it comes from")
    lineage: int
    position: int
    as_of: str | None
    published_at: str
    head: bool
    active: bool
    unfinished: bool = Field(description="A replay had not caught up yet")
    made_by: str | None = Field(description="The last replay it stands on")
    champion: str = Field(description="The model that it serves")
    promotions: list[str] = Field(description="Operations that made models champion, in order")
    excluded: list[str] = Field(description="Operations whose items it has passed over")
    named_by: list[Naming]


class LineageTree(BaseModel):
    """The snapshots of a partition, oldest first."""

    partition: int
    snapshots: list[LineageNode]


class Lineage(BaseModel):
    """Where snapshots come from."""

    partitions: list[LineageTree]


class LetterGroup(BaseModel):
    """How many dead letters there are of a reason and a source."""

    reason: str
    source: str = Field(description="Empty where the bytes do not say")
    letters: int


class LetterItem(BaseModel):
    """A dead letter."""

    receipt: str
    reason: str
    detail: str
    remedy: str
    source: str
    settled: str | None = Field(description="How it was dealt with")
    value: str = Field(description="Its original bytes, as text")


class Letters(BaseModel):
    """Dead letters; the newest 200,000 a deployment are known."""

    groups: list[LetterGroup]
    items: list[LetterItem]


class LettersRequest(BaseModel):
    """What is to be done with dead letters: those named, or all open ones that match."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["resend", "discard"]
    reason: Text
    who: Text
    id: ShortName | None = Field(None, description="Of the operation, in the trail")
    receipts: list[Word] = Field([], max_length=10_000)
    refused_for: Word | None = Field(None, description="Those kept aside for this reason")
    source: Word | None = None
    rename: dict[Word, Word] = Field({}, description="Fields to rename, old: new")
    set: dict[str, Any] = Field({}, description="Values to set, after renaming")
    dry_run: Flag = False


class LettersDone(BaseModel):
    """What was done."""

    operation: str | None
    action: Literal["resend", "discard"]
    chosen: int
    done: int
    receipts: list[str] = Field(description="Of what was sent again")
    refused: list[dict[str, Any]] = Field(description="What stays a letter, and why")
    dry_run: bool


class PartitionStatus(BaseModel):
    """Where a partition stands."""

    partition: int
    snapshot: str | None
    lineage: int | None
    position: int | None
    log_end: int | None
    lag: int | None
    catching_up: bool = Field(
        description="Served, and more than 1,000 records, or a twentieth of a small log, behind it"
    )
    as_of: str | None
    published_at: str | None
    age_s: float | None
    stale: bool
    frozen: bool
    frozen_by: str | None
    replaying: Replaying | None = Field(description="The head learns again, and is not served yet")
    series: int
    standstill: Standstill | None = Field(
        description="Nothing is learned of it until what stops it is mended or passed"
    )


class GuardedSource(BaseModel):
    """Where a source stands with the guard of a partition."""

    partition: int
    source: str
    state: Literal["ok", "suspect", "quarantined", "silent"] = Field(
        description="suspect: out of its band, and learned from; quarantined: withheld; silent: "
        "it sends nothing"
    )
    learning: bool = Field(description="Its past is too short to judge it by")
    since: str | None = Field(description="Start of the bucket that the state began in")
    statistic: str = Field(description="The one that is nearest to its band's edge, or past it")
    found: float = Field(description="What it was, when last judged")
    usual: float
    score: float = Field(description="Distance from what is usual; 1 is the band's edge")
    text: str
    operation: str | None = Field(description="The finding, in the audit trail")
    commands: list[str] = Field(description="What to run about it")


class GuardedChampion(BaseModel):
    """Where the champion of a partition stands beside seasonal naive and the twin."""

    partition: int
    model: str
    state: Literal["ok", "suspect"]
    since: str | None = Field(description="Start of the bucket that the state began in")
    found: float = Field(description="Its absolute error over that of seasonal naive, last bucket")
    usual: float
    score: float = Field(description="Distance from what is usual; 1 is the band's edge")
    text: str
    operation: str | None = Field(description="The finding, in the audit trail")
    commands: list[str] = Field(description="What to run about it")


class GuardStatus(BaseModel):
    """What the guard says of all sources."""

    mode: Literal["off", "warn", "quarantine"]
    sources: list[GuardedSource]
    champions: list[GuardedChampion]


class Status(BaseModel):
    """Where everything stands."""

    partitions: list[PartitionStatus]
    version: str
    log: Literal["sqlite", "kafka"]
    log_up: bool = Field(description="Whether the log answered when it was last looked at")
    store: Literal["folder", "redis"]
    store_up: bool = Field(description="Whether the store answered when it was last looked at")
