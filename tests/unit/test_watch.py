"""The champion judged beside others: a holiday is hard for all, a broken model is alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from learner.findings import Finding, identity
from learner.ownership import Owned, take
from learner.watch import RUN, Watch, watched
from stream.buckets import Calendar
from tests.learner_parts import chosen, sale
from tests.unit.test_worker import Place, home, hurried, two_stores

__all__ = ["hurried"]  # a fixture that snapshots wait for
NAMES = ("ensemble", "seasonal_naive", "twin")
SERIES, BUCKETS = 40, 90
SPREAD = np.full(SERIES, 40.0)  # mean squared seasonal difference


def errors(bucket: int) -> np.ndarray:
    """Demand, and what three models say of it; the champion errs least, all err on holidays."""
    drawn = np.random.default_rng(bucket)
    actual = drawn.poisson(20.0, SERIES).astype(float)
    hard = 4.0 if bucket % 30 == 0 else 1.0
    noise = hard * drawn.normal(0.0, 1.0, (3, SERIES)) * np.array([[4.0], [6.0], [4.2]])
    return np.concatenate([[actual], actual + noise])


def seen(worse: dict[str, float], since: int = 62, *, hold: bool = True) -> list[Finding]:
    """What is found if some models' errors are multiplied from a bucket on."""
    watch, found = Watch(Calendar(chosen()), 0), []
    for bucket in range(BUCKETS):
        actual, *said = errors(bucket)
        if bucket >= since:
            said = [
                actual + worse.get(name, 1.0) * (one - actual)
                for name, one in zip(NAMES, said, strict=True)
            ]
        found += [watch.see(bucket, NAMES, "ensemble", np.array(said), actual, SPREAD, hold)]
    return [one for one in found if one is not None]


def test_calm_buckets_and_holidays_trip_nothing() -> None:
    assert seen({}) == []


def test_what_is_hard_for_all_trips_nothing() -> None:
    assert seen(dict.fromkeys(NAMES, 5.0)) == []


def test_a_champion_gone_wrong_trips_after_two_buckets_and_once() -> None:
    (finding,) = seen({"ensemble": 5.0})
    assert finding.champion and finding.held and finding.statistic == "twin"
    assert finding.bucket == 62  # the first that it was out in
    assert finding.id == identity(0, "", 62)
    assert finding.found > 2 * finding.usual
    assert finding.text.startswith("error over that of the twin ")


def test_a_trip_tells_the_last_bucket_that_was_no_worse_than_usual() -> None:
    watch, scores, found = Watch(Calendar(chosen()), 0), {}, []
    for bucket in range(BUCKETS):
        actual, *said = errors(bucket)
        # Worse by less than the band at first, and then by much.
        said[0] = actual + {62: 1.5, 63: 1.5}.get(bucket, 5.0 if bucket > 63 else 1.0) * (
            said[0] - actual
        )
        found.append(watch.see(bucket, NAMES, "ensemble", np.array(said), actual, SPREAD, True))
        scores[bucket] = watched(watch.arrays).score
    (finding,) = [one for one in found if one is not None]
    assert 0 < scores[62] < 1 and 0 < scores[63] < 1
    assert finding.bucket == 64
    assert finding.sound == max(one for one in range(62) if scores[one] <= 0)


def test_it_is_held_against_its_twin_whatever_seasonal_naive_does() -> None:
    assert seen({"ensemble": 5.0, "twin": 5.0}) == []
    assert len(seen(dict.fromkeys(("ensemble", "seasonal_naive"), 5.0))) == 1


def test_without_a_twin_it_is_held_against_seasonal_naive() -> None:
    watch, found = Watch(Calendar(chosen()), 0), []
    for bucket in range(BUCKETS):
        actual, own, naive, _ = errors(bucket)
        own = own if bucket < 62 else actual + 5.0 * (own - actual)
        said = np.array([own, naive])
        found.append(watch.see(bucket, NAMES[:2], "ensemble", said, actual, SPREAD, True))
    (finding,) = [one for one in found if one is not None]
    assert (finding.bucket, finding.statistic) == (62, "seasonal_naive")
    assert finding.text.startswith("error over that of seasonal naive ")


def test_an_unusual_bucket_of_one_series_trips_nothing() -> None:
    watch = Watch(Calendar(chosen()), 0)
    for bucket in range(BUCKETS):
        actual, *said = errors(bucket)
        use = np.array(said)
        use[0, 0] += 1e6 * (bucket >= 60)
        assert watch.see(bucket, NAMES, "ensemble", use, actual, SPREAD, True) is None


@pytest.mark.parametrize("names", [("ensemble",), ("seasonal_naive", "river_plain")])
def test_without_anybody_beside_it_nothing_is_judged(names: tuple[str, ...]) -> None:
    watch = Watch(Calendar(chosen()), 0)
    for bucket in range(BUCKETS):
        actual, *said = errors(bucket)
        use = np.array(said[: len(names)]) * (1.0 if bucket < 60 else 9.0)
        assert watch.see(bucket, names, names[0], use, actual, SPREAD, True) is None


def test_a_bucket_alone_does_not_trip_and_it_is_let_off_after_three_good_ones() -> None:
    watch = Watch(Calendar(chosen()), 0)
    states = []
    for bucket in range(BUCKETS):
        actual, *said = errors(bucket)
        bad = bucket in (50, 62, 63)
        use = np.array([said[0] + 40.0 * bad, *said[1:]])
        found = watch.see(bucket, NAMES, "ensemble", use, actual, SPREAD, True)
        assert (found is not None) == (bucket == 62 + RUN - 1)
        states.append(watched(watch.arrays).state)
    assert states[50:63] == ["ok"] * 13
    assert states[63:67] == ["suspect"] * 3 + ["ok"]


def test_a_trip_freezes_on_the_newest_snapshot_of_before_and_is_written_once(
    tmp_path: Path,
) -> None:
    place = Place.at(tmp_path)
    try:
        for day in range(0, 9, 3):
            place.put(*two_stores(3, first=day))
            worker = place.fold()
        partition = home()
        bucket = place.shard(partition).panel.last
        assert bucket is not None
        good = max(
            (one for name in place.store.snapshots(partition)
             if (one := worker.suspects._manifest(partition, name)).origin is not None
             and one.origin < bucket - 3),
            key=lambda one: (one.lineage, one.position),
        )  # fmt: skip
        finding = Finding(
            id=identity(partition, "", bucket - 2), source="", partition=partition,
            bucket=bucket - 2, state="suspect", statistic="seasonal_naive", found=3.0, usual=0.8,
            score=2.0, held=True,
        )  # fmt: skip
        head = place.head(partition).snapshot
        for _ in range(2):
            owned = Owned(shard=place.shard(partition), head=head, lineage=1)
            owned.findings = [(finding, 7)]
            worker.suspects.name(owned, datetime(2024, 2, 1, tzinfo=UTC))
            assert owned.findings == []
        pointers = place.store.pointers(partition)
        assert pointers.active is not None and pointers.active.snapshot == good.snapshot
        assert pointers.frozen_by == finding.id and pointers.head is not None
        assert pointers.head.snapshot == head
        assert place.outcomes() == [(finding.id, partition, "applied", "")]
        # Learning goes on, and what is served stays.
        place.put(*two_stores(3, first=9))
        place.fold()
        after = place.store.pointers(partition)
        assert after.active == pointers.active and after.head != pointers.head
    finally:
        place.close()


def test_what_an_operator_has_frozen_stays_and_the_trail_says_so(tmp_path: Path) -> None:
    """Though the store may not have heard of that freeze yet."""
    place, at = Place.at(tmp_path), datetime(2024, 2, 1, tzinfo=UTC)
    try:
        place.put(*two_stores(4))
        place.fold()
        place.put(*two_stores(5, first=4))
        worker, partition = place.fold(), home()
        shard, frozen = place.shard(partition), place.store.snapshots(partition)[0]
        assert shard.panel.last is not None
        trips = [_trip(partition, shard.panel.last - n) for n in (2, 1, 0)]
        place.operate("freeze", {partition: frozen}, id="look")
        before = place.store.pointers(partition)
        owned = Owned(shard=shard, head=place.head(partition).snapshot, lineage=1)
        owned.findings = [(trips[0], 7)]
        worker.suspects.name(owned, at)
        assert place.store.pointers(partition) == before
        why = "it stays as `look` by tester has frozen it, until it is resumed"
        assert place.outcomes() == [(trips[0].id, partition, "refused", why)]
        # A resume lets the next one take effect, and that one stands against a third.
        place.operate("resume", {partition: frozen}, id="seen")
        owned.findings = [(one, 7) for one in trips[1:]]
        worker.suspects.name(owned, at)
        assert place.store.pointers(partition).frozen_by == trips[1].id
        assert [one[2] for one in place.outcomes()] == ["refused", "applied", "refused"]
    finally:
        place.close()


def test_snapshots_that_cannot_be_read_are_no_ground_for_a_freeze_and_stop_nothing(
    tmp_path: Path,
) -> None:
    place = Place.at(tmp_path)
    try:
        place.put(*two_stores(4))
        place.fold()
        place.put(*two_stores(5, first=4))
        worker, partition = place.fold(), home()
        shard, head = place.shard(partition), place.head(partition).snapshot
        assert shard.panel.last is not None
        place.store.put_manifest(partition, "p1-older", b"of a key that was forgotten")
        for bucket, last in ((shard.panel.last, "applied"), (shard.panel.last - 1, "refused")):
            finding = _trip(partition, bucket)
            if last == "refused":  # it was written down, and then its snapshot was damaged
                place.operate("freeze", {partition: "p1-older"}, id=finding.id)
            owned = Owned(shard=shard, head=head, lineage=1)
            owned.findings = [(finding, 7)]
            worker.suspects.name(owned, datetime(2024, 2, 1, tzinfo=UTC))
            assert place.outcomes()[-1][:3] == (finding.id, partition, last)
            assert place.store.pointers(partition).frozen_by is not None
    finally:
        place.close()


def _trip(partition: int, bucket: int) -> Finding:
    return Finding(
        id=identity(partition, "", bucket), source="", partition=partition, bucket=bucket,
        state="suspect", statistic="twin", found=3.0, usual=0.8, score=2.0, held=True,
    )  # fmt: skip


@pytest.mark.parametrize("mean", [20, 80])
def test_a_champion_whose_weights_are_spoilt_is_frozen_before_a_week_is_over(
    tmp_path: Path, mean: int
) -> None:
    """From sales through the log to what is served; the owner itself signed the spoilt weights.

    Where series sell little, the first bucket that the spoilt weights forecast is within the band.
    """
    place = Place.at(tmp_path, guard="quarantine", horizon=2, challengers=("seasonal_naive",))
    drawn, partition = np.random.default_rng(5), home()
    world = [
        [sale(n, float(1 + drawn.poisson(mean)), product=f"p{k}") for k in range(12)]
        for n in range(70)
    ]
    try:
        for first in range(0, 60, 20):
            place.put(*(one for some in world[first : first + 20] for one in some))
            place.fold()
        worker, good = place.worker(), place.head(partition).snapshot
        owned = take(place.settings, place.events, place.store, worker.signer.verifier, partition)
        owned.shard.models["ensemble"].balance[:, 0] *= 1.3  # type: ignore[attr-defined]
        place.put(*world[60])
        owned.shard.fold(place.records(partition)[owned.shard.position :])
        assert worker.publish(owned)
        place.put(*(one for some in world[61:67] for one in some))
        place.fold()
        pointers = place.store.pointers(partition)
        assert pointers.frozen_by is not None and pointers.frozen_by.startswith("guard-")
        assert pointers.active is not None and pointers.active.snapshot == good
        assert pointers.head is not None
        assert pointers.head.position == place.events.end()[partition]  # learning goes on
    finally:
        place.close()
