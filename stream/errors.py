"""Every error Salescast raises on purpose.

```
SalescastError
├── SettingsError            fix the setting it names; not retriable
├── LogError
│   ├── LogUnavailable       retriable: the log cannot be reached now
│   ├── TopicMismatch        not retriable: recreated topic, other partition count, wrong settings
│   ├── OffsetExpired        not retriable: the position is no longer in the log
│   └── AlreadyOwned         not retriable: another process folds this log
├── StoreError
│   ├── StoreUnavailable     retriable: the snapshot store cannot be reached now
│   ├── SnapshotMissing      not retriable: no such snapshot or chunk
│   ├── SnapshotCorrupt      not retriable: digest or format is wrong; an older one may do
│   │   └── SnapshotForeign  not retriable: not what its owner signed; an older one may do
│   ├── CutLost              not retriable: nothing leads to an operation's cut any more
│   └── FingerprintMismatch  not retriable: the state was made under other settings
├── OperationRefused         not retriable: the request cannot be carried out as asked
└── ShardStopped             not retriable: the fold met something no reason names
```

An item of the log that is refused is not an exception but a value: see ``stream.event``.
"""

from __future__ import annotations


class SalescastError(Exception):
    """Base of all. ``remedy`` says what the operator should do; ``retriable`` whether to wait."""

    retriable = False
    remedy = ""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message.removesuffix('.')}. {self.remedy}" if self.remedy else message


class SettingsError(SalescastError):
    """A setting is unknown, ill-typed or contradicts another."""


class LogError(SalescastError):
    """Something is wrong with the event log."""


class LogUnavailable(LogError):
    """The log cannot be reached now."""

    retriable = True
    remedy = "Check that the log is up; Salescast goes on trying"


class TopicMismatch(LogError):
    """The topic is not the one a position belongs to, or its settings would lose events."""


class OffsetExpired(LogError):
    """The log no longer holds the position to go on from."""

    remedy = (
        "Set `archive` to where `salescast archive` keeps them; without one, begin anew under "
        "another `topic_prefix` and `redis_prefix` (embedded: another `data_dir`)"
    )


class AlreadyOwned(LogError):
    """Another process folds this log."""

    remedy = "Stop the other learner first; an embedded log has one"


class StoreError(SalescastError):
    """Something is wrong with the snapshot store."""


class StoreUnavailable(StoreError):
    """The store cannot be reached now."""

    retriable = True
    remedy = "Check that the store is up; Salescast goes on trying"


class SnapshotMissing(StoreError):
    """No such snapshot or chunk."""

    remedy = "List what there is with: salescast snapshots"


class SnapshotCorrupt(StoreError):
    """A snapshot's signature, digest or format is wrong; nothing of it was unpickled."""

    remedy = "Roll back to an older snapshot, and find out who can write to the store"


class SnapshotForeign(SnapshotCorrupt):
    """A snapshot is not what its owner signed, or names what no model is; it was not unpickled."""

    remedy = (
        "Check `verify_key_file`, and find out who can write to the store. Once its manifest is "
        "deleted there, a learner goes on from an older snapshot, or from the log"
    )


class CutLost(StoreError):
    """Nothing leads any more to the snapshot that an operation went back to."""

    remedy = "Bring the store back, or the log's beginning by the setting `archive`"


class FingerprintMismatch(StoreError):
    """State was made under other settings than these."""

    remedy = (
        "Set the settings back, or learn anew under these from the log: salescast reshard --help"
    )


class OperationRefused(SalescastError):
    """An operation cannot be carried out as asked."""


class ShardStopped(SalescastError):
    """The fold met an exception that no reason names; the shard stands still at that position."""

    remedy = "Go on without it with: salescast skip PARTITION:OFFSET --reason ..."
