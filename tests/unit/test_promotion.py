"""A promotion in the fold: from its marker on, through snapshots, and through every replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from learner.models import Simple
from learner.replay import Effect, Exclusion, Promote, Promotion, Rollback, Turn
from learner.shard import Folded, Shard
from learner.snapshot import lay_down, take_up, take_up_learned
from stream.event import AnyEvent, Marker
from tests.learner_parts import Told, chosen, day, market, sale

NAMES = ("level_phase", "phase_mean", "seasonal_naive")


def fresh() -> Told:
    return Told(Shard(chosen(champion=NAMES[0], challengers=NAMES[1:]), 0))


@dataclass
class Story:
    """A log with operations in it, and what they mean."""

    one: Told = field(default_factory=fresh)
    effects: dict[str, Effect] = field(default_factory=dict)

    def days(self, first: int, end: int, bad: bool = False) -> None:
        self.one.tell(*between(first, end))
        if bad:
            self.one.tell(*spoilt(first, end))

    def mark(self, id: str, at: int, effect: Effect) -> Folded:
        self.effects[id] = effect
        return self.one.tell(marker(id, at), resolve=self.effects.__getitem__)


def between(first: int, end: int) -> list[AnyEvent]:
    return list(market(end - first, first=first, seed=first))


def spoilt(first: int, end: int) -> list[AnyEvent]:
    return [sale(n, 90, product="p1", source="bad", hour=23) for n in range(first, end)]


def marker(id: str, at: int) -> Marker:
    return Marker(id=id, source="salescast", time=day(at, 0))


def copy(shard: Shard) -> Shard:
    return take_up(shard.settings, shard.partition, lay_down(shard))


def learned(shard: Shard) -> dict[str, Any]:
    """What a rollback to a shard takes of it beside its models."""
    return take_up_learned(shard.settings, lay_down(shard))._asdict()


def promote(order: int, model: str, over: str) -> Promote:
    return Promote(order=order, model=model, over=over)


def outcomes(folded: Folded) -> Sequence[str | None]:
    return [why for _, _, why in folded.operations]


def test_a_promotion_changes_what_is_served_from_its_marker_on() -> None:
    story = Story()
    story.days(0, 15)
    before = story.one.shard.forecast().copy()
    assert outcomes(story.mark("up", 15, promote(1, "phase_mean", "level_phase"))) == [None]
    shard = story.one.shard
    assert shard.champion == "phase_mean"
    assert (shard.forecast()[0] != before[0]).any()
    assert (shard.forecast()[0] == shard.predict("phase_mean", 1).astype("float32")).all()
    roles = {row["model"]: row["role"] for row in shard.evaluation.summary(shard.champion)}
    assert roles == {"phase_mean": "champion", "level_phase": "challenger",
                     "seasonal_naive": "challenger", "twin": "twin"}  # fmt: skip


def test_the_accuracy_of_single_series_begins_anew_with_a_champion() -> None:
    story = Story()
    story.days(0, 20)
    assert story.one.shard.accuracy.columns["count"].any()
    story.mark("up", 20, promote(1, "phase_mean", "level_phase"))
    accuracy = story.one.shard.accuracy
    assert accuracy.models == ("phase_mean", "seasonal_naive")
    assert not accuracy.columns["count"].any()
    story.days(20, 23)
    assert accuracy.columns["count"].max() == 3, "the day before closes after it"


def test_of_two_promotions_judged_at_once_one_wins() -> None:
    story = Story()
    story.days(0, 5)
    story.mark("first", 5, promote(1, "phase_mean", "level_phase"))
    (why,) = outcomes(story.mark("second", 5, promote(2, "seasonal_naive", "level_phase")))
    assert why is not None
    assert "the champion is phase_mean by now" in why
    assert story.one.shard.champion == "phase_mean"


def test_a_promotion_goes_through_a_snapshot() -> None:
    story = Story()
    story.days(0, 12)
    story.mark("up", 12, promote(1, "phase_mean", "level_phase"))
    story.days(12, 16)
    again = copy(story.one.shard)
    assert again.champion == "phase_mean"
    assert again.promotions == [Promotion(operation="up", model="phase_mean")]
    assert again.digest() == story.one.shard.digest()
    assert again.accuracy.models == story.one.shard.accuracy.models
    story.one.shard = again
    story.days(16, 20)
    plain = Story()
    plain.days(0, 12)
    plain.mark("up", 12, promote(1, "phase_mean", "level_phase"))
    plain.days(12, 16)
    plain.days(16, 20)
    assert again.digest() == plain.one.shard.digest()


def test_the_digest_says_which_model_is_served() -> None:
    story = Story()
    story.days(0, 5)
    before = story.one.shard.digest()
    story.one.shard.champion = "phase_mean"
    assert story.one.shard.digest() != before


def test_promotions_hold_through_a_replay_each_from_its_own_marker_on() -> None:
    """As a shard that never saw the bad source, and was promoted at the same places."""
    story = Story()
    story.days(0, 8)
    base = copy(story.one.shard)
    cut = len(story.one.log)
    story.days(8, 11, bad=True)
    story.mark("up", 11, promote(1, "phase_mean", "level_phase"))
    story.days(11, 16, bad=True)
    story.mark("again", 16, promote(2, "seasonal_naive", "phase_mean"))
    story.days(16, 22)
    what = Exclusion(sources=("bad",), surplus=True)
    turn = Turn(order=3, snapshot="s", shard=base, exclude=what, readmits=None, admit_late=False)
    assert story.mark("back", 22, turn).turn is turn
    assert base.champion == "level_phase", "as it was then"
    halfway = cut + (len(story.one.log) - cut) // 2
    base.fold(story.one.log[cut:halfway])
    assert base.champion == "phase_mean"
    base = copy(base)  # killed and taken up in the midst of it
    done = base.fold(story.one.log[halfway:])
    assert base.replay is None
    assert [id for id, _, _ in done.operations] == ["back"]

    plain = Story()
    plain.days(0, 8)
    plain.days(8, 11)
    plain.mark("up", 11, promote(1, "phase_mean", "level_phase"))
    plain.days(11, 16)
    plain.mark("again", 16, promote(2, "seasonal_naive", "phase_mean"))
    plain.days(16, 22)
    assert base.champion == plain.one.shard.champion == "seasonal_naive"
    assert base.digest() == plain.one.shard.digest()
    assert base.forecast().tobytes() == plain.one.shard.forecast().tobytes()


def test_a_rollback_brings_the_champion_of_its_cut_back_for_good() -> None:
    story = Story()
    story.days(0, 8)
    start = copy(story.one.shard)
    story.days(8, 9)
    good = copy(story.one.shard)
    story.days(9, 12)
    story.mark("up", 12, promote(1, "phase_mean", "level_phase"))
    story.days(12, 15)
    undo = Rollback(
        order=2, models=good.models, learned=learned(good), champion=good.champion,
        promotions=good.promotions,
    )  # fmt: skip
    story.mark("undo", 15, undo)
    shard = story.one.shard
    assert (shard.champion, shard.promotions) == ("level_phase", [])
    story.days(15, 17)
    what = Exclusion(sources=("nobody",), surplus=True)
    turn = Turn(order=3, snapshot="s", shard=start, exclude=what, readmits=None, admit_late=False)
    story.mark("back", 17, turn)
    start.fold(story.one.log[start.position :])
    assert start.champion == "level_phase", "a promotion that was undone does not come again"


def test_a_replay_from_a_snapshot_of_after_an_undone_promotion_serves_as_it_stands() -> None:
    story = Story()
    story.days(0, 8)
    good = copy(story.one.shard)
    story.mark("up", 8, promote(1, "phase_mean", "level_phase"))
    story.days(8, 12)
    later = copy(story.one.shard)
    story.mark("undo", 12, Rollback(order=2, models=good.models, learned=learned(good),
                                    champion=good.champion, promotions=()))  # fmt: skip
    turn = Turn(order=3, snapshot="s", shard=later, exclude=Exclusion(sources=("nobody",)),
                readmits=None, admit_late=False)  # fmt: skip
    story.mark("back", 12, turn)
    assert later.champion == "level_phase"
    assert isinstance(later.models["level_phase"], Simple)
