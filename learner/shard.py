"""The fold of one partition: records in, state and what is to be done about it out.

State is a pure fold over the log: the same records give the same state, whatever they came
packed in. A bucket's close goes: facts, score, learn, forecast. Leaves out: reading the log,
keeping snapshots, clocks (``worker``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from learner import habits, intervals, usual
from learner.accuracy import Accuracy
from learner.digest import digest_of
from learner.evaluation import Evaluation, learn_difference, seasonal_difference, slices_of
from learner.features import features
from learner.findings import Finding, identity
from learner.groups import Came, Groups
from learner.guard import Guard
from learner.levels import levels
from learner.losses import Losses
from learner.names import known_as, named
from learner.open_bucket import OpenBucket, OpenPart, open_part
from learner.panel import Panel
from learner.replay import (
    Effect,
    Exclusion,
    Promote,
    Promotion,
    Replay,
    Resolve,
    Rollback,
    Rule,
    Turn,
    category_of,
    fit,
    judge,
    names,
    only,
)
from learner.serving import OBSERVED
from learner.spread import Spread
from learner.totals import Totals, demand
from learner.twin import make_models, rearrange, renew, take_anew
from learner.watch import Watch
from stream.brought import Open
from stream.buckets import Calendar
from stream.event import MICRO, AnyEvent, Availability, Marker, Plan, Product, Refusal
from stream.gaps import Passed
from stream.log import Record
from stream.settings import LEARN_LAG, Settings, ring_length
from stream.window import OUTCOMES, Closed, Key, Letter, Window

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What came of some records: items to keep aside, buckets closed, operations carried out.

    ``operations`` pairs each operation's id with its marker's offset and ``None``, or why it
    was refused. ``findings`` are the guard's, with the offset at which each was made. ``turn``
    says that another shard takes over, here; later records were not folded.
    """

    letters: Sequence[Letter]
    closes: int
    operations: Sequence[tuple[str, int, str | None]]
    findings: Sequence[tuple[Finding, int]] = ()
    turn: Turn | None = None


class Shard:
    """All state of a partition. Mutable; ``fold`` is the only way it changes.

    Parameters
    ----------
    settings
        Of the deployment.
    partition
        Which of the log's partitions.
    """

    def __init__(self, settings: Settings, partition: int) -> None:
        self.settings = settings
        self.partition = partition
        self.calendar = Calendar(settings)
        self.panel = Panel(settings, self.calendar)
        self.window = Window(
            settings,
            self.calendar,
            partition,
            listed=self.panel.rows.__contains__,
            reach=ring_length(settings),
        )
        self.models = make_models(settings)
        self.champion = settings.champion
        self.promotions: list[Promotion] = []  # that stand, in order
        self.scored = settings.scored_horizons
        names = tuple(self.models)
        self.evaluation = Evaluation(names, self.scored, settings.bucket)
        self.accuracy = Accuracy(names, self.scored, settings.bucket)
        self.losses = Losses(len(names), self.scored, settings.bucket)
        self.spread = Spread((len(names), len(self.scored)), settings.bucket)
        self.open_bucket = OpenBucket(self.calendar)
        self.totals = Totals(self.scored[1:], settings.bucket)
        self.groups = Groups(len(self.scored) + len(self.totals.lengths), settings.bucket)
        self.guard = Guard(self.calendar, partition)
        self.watch = Watch(self.calendar, partition)
        self._findings: list[tuple[Finding, int]] = []
        self.position = 0  # next offset to fold
        self.operations: dict[str, int] = {}  # id → offset of its marker
        self.order = -1  # control offset of the last operation carried out
        self.rules: list[Rule] = []
        self.replay: Replay | None = None
        self._turn: Turn | None = None
        self._mean: npt.NDArray[np.float32] | None = None

    # -- folding ---------------------------------------------------------------------------

    def fold(
        self,
        records: Sequence[Record],
        resolve: Resolve | None = None,
        after_close: Callable[[int], None] | None = None,
    ) -> Folded:
        """Fold records of this partition, in the log's order, from ``position`` on.

        Parameters
        ----------
        resolve
            Says what a marker's operation is, or why there is none to carry out.
        after_close
            Told of each bucket that was closed with a series, once its forecasts are made; it
            may read the shard, and must not change it.
        """
        return self._fold(records, resolve, self._passes(records), after_close=after_close)

    def admit(self, records: Sequence[Record], late: Sequence[tuple[int, int]]) -> Folded:
        """Fold the late items of a replay, as (offset, item), before all others; time stands.

        Parameters
        ----------
        records
            Those that hold the items, in the log's order.
        """
        assert self.replay is not None
        passes = only(late, self._passes(records))
        position = self.position
        folded = self._fold(records, None, passes=passes, still=True)
        self.position = position
        self.replay = msgspec.structs.replace(self.replay, admitted=tuple(late))
        return folded

    def _fold(
        self,
        records: Sequence[Record],
        resolve: Resolve | None,
        passes: Callable[[AnyEvent, Record, int], Passed | None] | None,
        still: bool = False,
        after_close: Callable[[int], None] | None = None,
    ) -> Folded:
        closes = 0
        done: list[tuple[str, int, str | None]] = []
        findings = self._findings = list[tuple[Finding, int]]()

        def judged(bucket: int, here: Open) -> Sequence[str]:
            found = self._judge(bucket, here)
            findings.extend((one, self.position) for one in found)
            self.window.passes = self._passes(records)
            return [one.source for one in found if one.held]

        def close(closed: Closed) -> Sequence[Key]:
            nonlocal closes
            closes += 1
            refused = self._close(closed)
            if after_close is not None and self.panel.last == closed.bucket:
                after_close(closed.bucket)
            return refused

        def apply(event: AnyEvent, record: Record) -> Refusal | bool:
            if not isinstance(event, Marker):
                return self._know(event)
            rules = len(self.rules)
            said = self._mark(event, record, resolve, done)
            if len(self.rules) > rules:
                self.window.passes = self._passes(records)
            return said

        def until_turn() -> Iterator[Record]:
            for record in records:
                self.position = record.offset
                yield record
                self.position = record.offset + 1
                if self._turn is not None:
                    return

        letters = self.window.fold(
            until_turn(), close=close, apply=apply, passes=passes, still=still,
            judge=None if self.settings.guard == "off" else judged,
        )  # fmt: skip
        return Folded(
            letters=letters, closes=closes, operations=done, findings=findings, turn=self._turn
        )

    def _judge(self, bucket: int, here: Open) -> list[Finding]:
        """Let the guard judge a bucket; whom it holds is passed over from this record on."""
        panel, offset = self.panel, self.position
        follows = panel.last is not None and bucket == panel.last + 1
        expected = self._awaited(bucket, 1) if follows else None

        def kept_out(source: str) -> bool:
            own = identity(self.partition, source, bucket)  # in a replay it stands already
            rules = [rule for rule in self.rules if rule.operation != own]
            return names(rules, ("quarantined", "excluded"), source, offset)

        found = self.guard.judge(
            bucket, here, self.window, panel, expected,
            kept_out=kept_out,
            pardoned=lambda name: names(self.rules, ("readmitted",), name, offset),
            hold=self.settings.guard == "quarantine",
        )  # fmt: skip
        for one in found:
            if one.held and one.id not in self.operations:
                self.operations[one.id] = offset
            if one.held and all(rule.operation != one.id for rule in self.rules):
                self.rules.append(
                    Rule(
                        operation=one.id, kind="quarantined", start=offset,
                        what=Exclusion(sources=(one.source,)),
                    )
                )  # fmt: skip
        return found

    def _passes(
        self, records: Sequence[Record]
    ) -> Callable[[AnyEvent, Record, int], Passed | None] | None:
        """What is passed over among some records, by the rules that cover any of them."""
        if not records or not (self.rules or self.replay):
            return None
        first, last = records[0].offset, records[-1].offset
        rules = [
            rule
            for rule in self.rules
            if rule.start <= last and (rule.end is None or rule.end > first)
        ]
        return judge(rules, self.replay, self.partition, self._category)

    def _category(self, event: AnyEvent) -> str | None:
        return category_of(event, lambda *key: self.panel.products.about(*key).category)

    def _know(self, event: AnyEvent) -> bool:
        """Take in a fact that is no sale; ``False``: a plan that was known already."""
        self._mean = None
        if isinstance(event, Plan):
            return self.panel.plans.add(event, known=self.window.open_from)
        if isinstance(event, Product | Availability):
            self.panel.know(event)
        return True

    def _mark(
        self,
        event: Marker,
        record: Record,
        resolve: Resolve | None,
        done: list[tuple[str, int, str | None]],
    ) -> Refusal | bool:
        if event.id in self.operations:
            here = self.operations[event.id] == record.offset
            for promotion in self.promotions if here and self.replay is not None else ():
                if promotion.operation == event.id:
                    self.crown(promotion.model)
            if here and self.replay is not None and self.replay.operation == event.id:
                self.replay = None  # caught up: this is what it should have been
                done.append((event.id, record.offset, None))
            return here
        found = resolve(event.id) if resolve is not None else "no operations here"
        if not isinstance(found, str):
            found = self._refused(found) or found
        if isinstance(found, str):
            done.append((event.id, record.offset, found))
            return Refusal("unknown_operation", found, "id")
        self.order = found.order
        self.operations[event.id] = record.offset
        if isinstance(found, Turn):
            found.shard.take_over(self, found, event.id)
            self._turn = found
            return True  # it is done once the replay has come here again
        if isinstance(found, Rollback):
            self._go_back(found)
        elif isinstance(found, Promote):
            self.promotions.append(Promotion(operation=event.id, model=found.model))
            self.crown(found.model)
        else:
            self.rules.append(
                Rule(
                    operation=event.id, kind="quarantined", what=found.what,
                    start=record.offset + 1,
                )
            )  # fmt: skip
        done.append((event.id, record.offset, None))
        return True

    def _go_back(self, to: Rollback) -> None:
        """Take back what was learned; each series, and group, gets its own of the cut's.

        Rows and codes of another lineage are its own: a replay lists no series of a source that
        is excluded, or lists it later.
        """
        stores, products = ([key[at] for key in self.panel.keys] for at in (0, 1))
        now, then = named(stores, products, self.panel.categories.texts), to.learned["named"]
        known = {kind: known_as(names, then[kind]) for kind, names in now.items()}
        self.models = {name: to.models[name] for name in self.models}
        for model in self.models.values():
            rearrange(model, known["series"])
        self.spread.return_to(to.learned["spread"], known["series"])
        self.groups.return_to(to.learned["groups"], known)
        self.totals.return_to(to.learned["totals"])
        self.open_bucket.return_to(to.learned["open_bucket"])
        self.promotions = list(to.promotions)
        self.crown(to.champion)
        self._mean = None

    def crown(self, model: str) -> None:
        """Let a model be champion. Single series' accuracy begins anew: it is the champion's."""
        if model == self.champion:
            return
        self.champion, self._mean = model, None
        self.watch = Watch(self.calendar, self.partition)  # what was usual was another's
        models = (model, *self.evaluation.models)
        self.accuracy = Accuracy(models, self.scored, self.settings.bucket)
        self.accuracy.grow(self.panel.capacity)

    def _refused(self, found: Effect) -> str:
        """Why an operation is not carried out, as far as the shard's own state says."""
        if found.order <= self.order:
            return "a later operation is in force"
        if isinstance(found, Promote) and found.over != self.champion:
            return f"it was judged against {found.over}, and the champion is {self.champion} by now"
        if isinstance(found, Turn):
            if found.readmits is not None and found.readmits not in {
                rule.operation for rule in self.rules
            }:
                return f"nothing is passed over here by the operation {found.readmits}"
            standing = [rule for rule in self.rules if rule.operation != found.readmits]
            if not fit(found.shard.rules, found.shard.position, standing):
                return f"{found.snapshot} has learned otherwise than what is excluded by now says"
        return ""

    def take_over(self, other: Shard, turn: Turn, operation: str) -> None:
        """Become what ``other`` should have been: what operations said so far goes on to hold."""
        until = other.operations[operation]
        rules = [rule for rule in other.rules if rule.operation != turn.readmits]
        again = [rule for rule in other.rules if rule.operation == turn.readmits]
        rules += [
            msgspec.structs.replace(
                rule, operation=operation, kind="readmitted", start=self.position, end=until
            )
            for rule in again
            if rule.what.sources
        ]
        if turn.exclude is not None:
            rules.append(
                Rule(
                    operation=operation, kind="excluded", what=turn.exclude,
                    start=self.position, end=until,
                )
            )  # fmt: skip
        self.obey(operation, other.operations, rules, other.promotions, other.order)

    def obey(
        self, operation: str, operations: Mapping[str, int], rules: Iterable[Rule],
        promotions: Iterable[Promotion], order: int,
    ) -> None:  # fmt: skip
        """Begin a replay: what stood at its marker, stands from here on, promotions each from
        its own marker on.

        Parameters
        ----------
        operations, rules, promotions
            All that are known; those that came after the marker are left out.
        order
            The operation's offset in the control log.
        """
        until = operations[operation]
        self.operations = {name: at for name, at in operations.items() if at <= until}
        self.rules = [rule for rule in rules if operations[rule.operation] <= until]
        self.promotions = [one for one in promotions if operations[one.operation] <= until]
        before = [one.model for one in self.promotions if operations[one.operation] < self.position]
        self.crown(before[-1] if before else self.settings.champion)
        self.order = order
        self.replay = Replay(operation=operation, start=self.position, until=until)

    def _close(self, closed: Closed) -> list[Key]:
        panel, bucket = self.panel, closed.bucket
        refused = panel.close(closed)
        if panel.last != bucket:
            return refused
        self._mean = None
        for part in (self.evaluation, self.accuracy, self.spread, self.totals):
            part.grow(panel.capacity)
        self.evaluation.skip_to(bucket)
        self.spread.see(panel.units(bucket))
        retired = usual.retired(panel)
        actual = self._observed(bucket, retired)
        self._score(bucket, actual)
        self._watch(bucket, actual)
        self.open_bucket.learn(
            panel, closed, self.window.early, self._awaited(bucket, 1), actual,
            self._traits().grain,
        )  # fmt: skip
        self._score_wholes(bucket, actual, retired)
        self._learn_told(bucket, actual, retired)
        if np.isfinite(actual).any():  # silence says nothing of who is good
            self._renew_twin(bucket)
        usual.learn(panel, bucket)
        self._forecast_scored(bucket)
        learn_difference(panel, bucket, actual)
        if self.totals.due(bucket):
            self.totals.put(bucket, self.forecast())
        return refused

    def _watch(self, bucket: int, actual: Floats) -> None:
        """Hold the champion's errors against what is usual of them beside others'."""
        settings = self.settings
        if settings.guard == "off":
            return
        said = self.evaluation.waiting(bucket, 1, self.panel.size)
        found = self.watch.see(
            bucket, self.evaluation.models, self.champion, said, actual, self._difference(),
            hold=settings.guard == "quarantine",
        )  # fmt: skip
        if found is not None:
            self._findings.append((found, self.position))

    def _score(self, bucket: int, actual: Floats) -> None:
        """Hold waiting forecasts against what came, before anything is learned from it."""
        all_scored = self.evaluation.score(
            bucket, actual, self._difference(), self.spread.tables(), self._traits(),
            slices_of(self.panel, bucket), self.accuracy.models,
        )  # fmt: skip
        for scored in all_scored:
            self.spread.learn((slice(None), self.scored.index(scored.horizon)), scored.gained)
            if len(scored.own):
                self.spread.learn_own(scored.rows, scored.own)
            self.accuracy.learn(scored, actual[scored.rows])
            self.losses.learn(bucket, scored)

    def _score_wholes(self, bucket: int, actual: Floats, retired: npt.NDArray[np.bool_]) -> None:
        """Hold the champion's totals, and the sums of groups, against what came."""
        panel, traits = self.panel, self.traits(self.champion)
        came = [
            Came(at, self._awaited(bucket, horizon), actual)
            for at, horizon in enumerate(self.scored)
        ]
        for length in self.totals.lengths:
            mean = self.totals.take(bucket, length, panel.size)
            if mean is not None:
                total = np.where(retired, np.nan, demand(panel, bucket, length))
                came.append(Came(len(self.scored) + self.totals.place(length), mean, total))
                self.totals.learn(length, mean, total, traits)
        self.groups.learn(panel, came, traits.whole)

    def _difference(self) -> Floats:
        """Mean squared seasonal difference of each series, shape (S,); ``nan`` where unknown."""
        return seasonal_difference(self.panel.column("error_sum"), self.panel.column("error_n"))

    def _observed(self, bucket: int, retired: npt.NDArray[np.bool_]) -> Floats:
        """Demand to learn from and to score by, shape (S,); ``nan`` elsewhere."""
        observed = (self.panel.status(bucket) == OBSERVED) & ~retired
        return np.where(observed, self.panel.units(bucket), np.nan)

    def relearn(self) -> int:
        """Make all models anew from what the rings hold; how many buckets were learned.

        Near to what they had learned, if the rings reach back to the first bucket; else they have
        learned the newest only. The twin is taken anew: nobody knows when the champion was good.
        """
        self.models, self._mean = make_models(self.settings), None
        first, last = self.panel.first, self.panel.last
        if first is None or last is None:
            return 0
        # An older ring's first origins lack what their levels were made of.
        oldest = self.panel.oldest
        start = first if first >= oldest else oldest + self.panel.short
        retired = usual.retired(self.panel)
        for bucket in range(start + 1, last + 1 - LEARN_LAG[self.settings.bucket]):
            self._learn({bucket: self._observed(bucket, retired)}, start)
        take_anew(self.models, self.champion, last)
        return max(last - start, 0)

    def _learn_told(self, bucket: int, actual: Floats, retired: npt.NDArray[np.bool_]) -> None:
        """Learn what a close makes known.

        Of days and weeks that is the bucket, and what came late of earlier ones; of hours it is
        the hour a day before, whose business day is over, with what came late.
        """
        lag = LEARN_LAG[self.settings.bucket]
        if lag:
            if self.panel.kept(bucket - lag):
                self._learn({bucket - lag: self._observed(bucket - lag, retired)})
            return
        demand = {}
        for earlier, rows in sorted(self.panel.told.items()):
            of_it = np.full(self.panel.size, np.nan)
            of_it[rows] = self._observed(earlier, retired)[rows]
            demand[earlier] = of_it
        self._learn(demand | {bucket: actual})

    def _learn(self, demand: Mapping[int, Floats], start: int | None = None) -> None:
        """Let each model learn buckets, each as seen from each scored horizon's origin.

        Parameters
        ----------
        demand
            By bucket, shape (S,); ``nan`` where it is not to be learned.
        """
        batches = []
        start = self.panel.first if start is None else start
        usually = habits.level(self.panel)
        for bucket, actual in demand.items():
            if not np.isfinite(actual).any():
                continue
            for horizon in self.scored:
                origin = bucket - horizon
                if start is None or origin < start:
                    continue
                at = levels(self.panel, origin, usual=usually)
                batch = features(self.panel, origin, horizon, at=at)
                rows = batch.known & ~batch.closed & np.isfinite(actual)
                if rows.any():
                    batches.append((batch.take(rows), actual[rows]))
        if batches:
            for model in self.models.values():
                model.learn(batches)

    def _renew_twin(self, bucket: int) -> None:
        if self.watch.suspect:
            return  # of a champion that looks wrong no copy is taken
        first = bucket if self.panel.first is None else self.panel.first
        sums = dict(zip(self.evaluation.models, self.evaluation.sums, strict=True))
        renew(self.models, self.champion, bucket, first=first,
              every=self.settings.twin_buckets, sums=sums)  # fmt: skip

    def _forecast_scored(self, bucket: int) -> None:
        """Forecast at the scored horizons with every model, to be scored later."""
        now = levels(self.panel, bucket)
        for horizon in self.scored:
            batch = features(self.panel, bucket, horizon, at=now)
            for at, model in enumerate(self.models.values()):
                mean = np.where(batch.closed, 0.0, model.predict(batch))
                self.evaluation.put(bucket, horizon, at, mean)

    # -- reading ---------------------------------------------------------------------------

    def _awaited(self, bucket: int, horizon: int) -> Floats:
        """What the model that is champion now has forecast of a bucket, shape (S,)."""
        at = self.evaluation.models.index(self.champion)
        found: Floats = self.evaluation.waiting(bucket, horizon, self.panel.size)[at]
        return found

    def traits(self, model: str) -> intervals.Traits:
        """How each series' demand comes, shape (S,): what its distribution needs beside a mean."""
        at = self.evaluation.models.index(model)
        traits = self._traits()
        return traits._replace(factor=traits.factor[at])

    def _traits(self) -> intervals.Traits:
        return self.spread.traits(self.panel.column("unit_size"))

    def tables(self, model: str, horizon: int) -> intervals.Tables:
        """What a model's distributions at a horizon are made of, as the spread stands now."""
        of_model = self.spread.tables().at(self.evaluation.models.index(model))
        return intervals.horizon_tables(of_model, self.scored, horizon)

    def forecast(self) -> npt.NDArray[np.float32]:
        """The champion's means for the next buckets, shape (H, S), in units."""
        if self._mean is None:
            horizons, size = self.settings.horizons, self.panel.size
            mean = np.zeros((horizons, size), np.float32)
            last = self.panel.last
            if last is not None and size:
                champion, now = self.models[self.champion], levels(self.panel, last)
                for horizon in range(1, horizons + 1):
                    # A plan shows at once; it is learned from only at the closes after it.
                    batch = features(self.panel, last, horizon, known=last + 1, at=now)
                    mean[horizon - 1] = batch.served(champion.predict(batch))
            self._mean = mean
        return self._mean

    def predict(self, model: str, horizon: int) -> Floats:
        """A model's means as made at the last close, shape (S,), in units.

        At a scored horizon they are those that wait to be scored. Plans count that were known at
        the close; one that came since does not (``forecast`` shows it at once).

        Parameters
        ----------
        model
            The champion or a challenger.
        horizon
            Buckets ahead, from 1.
        """
        last, size = self.panel.last, self.panel.size
        if last is None or not size:
            return np.zeros(size)
        if horizon in self.scored:
            at = self.evaluation.models.index(model)
            waiting: Floats = self.evaluation.waiting(last + horizon, horizon, size)[at]
            return waiting
        batch = features(self.panel, last, horizon)
        mean: Floats = np.where(batch.closed, 0.0, self.models[model].predict(batch))
        return mean

    def basis(self) -> npt.NDArray[np.int8]:
        """What the forecasts stand on, shape (S,): see ``usual.basis``."""
        return np.zeros(0, np.int8) if self.panel.last is None else usual.basis(self.panel)

    def open_part(self) -> OpenPart:
        """What is sold so far in the buckets after the last closed one, and what remains."""
        if self.panel.last is None:
            return OpenPart(*(np.zeros((0, 0), np.float32) for _ in OpenPart._fields))
        return open_part(
            self.open_bucket, self.panel, self.window, self.forecast(),
            self.tables(self.champion, 1), self.traits(self.champion),
            mark_us=self.window.watermark_us + self.settings.grace_s * MICRO,
            net=self.settings.target == "net",
        )  # fmt: skip

    def restore_forecast(self, mean: npt.NDArray[np.float32]) -> None:
        """Take up a forecast that was made from this very state."""
        self._mean = mean

    def counts(self) -> dict[str, int]:
        """Items by outcome, over all sources."""
        sums = np.array(list(self.window.counts.values()), np.int64).reshape(-1, len(OUTCOMES))
        return dict(zip(OUTCOMES, sums.sum(axis=0).tolist(), strict=True))

    def digest(self) -> str:
        """SHA-256 over canonical values of everything learned and remembered.

        Of rings and waiting forecasts it sees a fast hash of each row: they are most of the state.

        Not over position, counts, operations or lineage, nor over what the guard remembers of
        sources, which knows of events sent twice and of what was kept out: the same sales, in any
        order within grace and any packing, give the same digest.
        """
        return digest_of(self)
