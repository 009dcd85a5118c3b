"""Snapshots of another release or River, and such as cannot be read: it never starts empty."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learner import manifest as manifests
from learner import snapshot
from learner import worker as module
from learner.digest import facts
from learner.effects import AuditTrail, Effects
from learner.file_store import FileStore
from learner.keys import KeyFile, load_signer
from learner.manifest import FORMAT, Manifest, Signer, Verifier, outdated, read_manifest
from learner.operations import Outcome
from learner.ownership import take
from learner.recall import read_forecaster
from learner.replay import Exclusion, Rollback
from learner.shard import Shard
from learner.snapshot import reaches_back, read_shard
from learner.store import Pointer
from stream.dead_letters import DeadLetters
from stream.errors import CutLost, FingerprintMismatch, SnapshotCorrupt
from stream.log import Entry
from tests.golden.make import HERE, SETTINGS, story
from tests.learner_parts import day, sale
from tests.unit.test_worker import Place, home, running, two_stores, until
from tests.unit.test_worker_replay import operate, poison

GOLDEN = sorted(HERE.glob("*.zip"))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)


# -- golden snapshots ----------------------------------------------------------------------


class Golden:
    """A golden snapshot, unpacked."""

    def __init__(self, file: Path, folder: Path) -> None:
        shutil.unpack_archive(file, folder)
        self.said = json.loads((folder / "said.json").read_text())
        self.store = FileStore(folder / "store")
        self.verifier: Verifier = KeyFile(folder / "verify.pem")

    def manifest(self) -> Manifest:
        return read_manifest(self.store, 0, self.said["snapshot"], self.verifier)

    def forged(self, **versions: str) -> Manifest:
        """The same, as if other versions had made it."""
        manifest = self.manifest()
        return msgspec.structs.replace(manifest, versions=manifest.versions | versions)


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    return Golden(HERE / f"format-{FORMAT}.zip", tmp_path)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_a_golden_snapshot_restores_as_it_was_or_says_that_it_cannot(
    file: Path, tmp_path: Path
) -> None:
    """If this fails, the format has changed: give it a new number if it was ever released, and
    make a golden snapshot of it by `python -m tests.golden.make`."""
    one = Golden(file, tmp_path)
    if file.stem != f"format-{FORMAT}":
        with pytest.raises(SnapshotCorrupt, match=r"is of format \d+, this release reads"):
            one.manifest()
        return
    shard = read_shard(one.store, one.manifest(), SETTINGS)
    assert shard.digest() == one.said["digest"] == one.manifest().digest
    assert shard.counts() == one.said["counts"]
    assert [list(key) for key in shard.panel.keys] == one.said["keys"]
    assert np.array_equal(shard.forecast(), np.array(one.said["mean"], np.float32))
    last = shard.position
    again = story()
    assert list(facts(again)) == list(facts(shard)), "a fold of the same sales knows the same"
    assert again.position == last


@pytest.mark.parametrize("versions", [{"river": "0.22.0"}, {"numpy": "1.26.4"}], ids=str)
def test_models_of_another_river_are_made_anew_from_facts(
    golden: Golden, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not unpickled, and say nearly what those before said."""
    whole = read_shard(golden.store, golden.manifest(), SETTINGS)
    manifest = golden.forged(**versions)
    assert outdated(manifest) == versions
    assert reaches_back(golden.store, manifest, SETTINGS)

    def refuse(*args: Any) -> Any:
        raise AssertionError("unpickled")

    monkeypatch.setattr(snapshot, "load_models", refuse)
    anew = read_shard(golden.store, manifest, SETTINGS)
    assert list(facts(anew)) == list(facts(whole))
    assert list(anew.models) == list(whole.models)
    before, after = whole.forecast(), anew.forecast()
    assert before.min() > 0.3 and np.abs(after - before).max() < 0.25 * before.max()
    assert np.abs(after.sum() / before.sum() - 1) < 0.05
    fresh = Shard(SETTINGS, 0)
    fresh.panel = whole.panel
    assert np.abs(fresh.forecast() - before).max() > 0.0, "models that know nothing say otherwise"
    anew.fold([])
    assert anew.position == whole.position


def test_a_numpy_of_the_same_kind_is_no_reason_to_learn_anew(golden: Golden) -> None:
    assert outdated(golden.forged(numpy="2.0.0", python="3.12.1", holidays="0.1")) == {}


# -- the worker ----------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place.at(tmp_path, snapshots_kept=1000)
    yield one
    one.close()


def other_river(monkeypatch: pytest.MonkeyPatch, version: str = "0.99.0") -> None:
    """From here on another River is installed, as far as manifests say."""
    monkeypatch.setattr(manifests, "river_version", version)


def test_a_worker_with_another_river_learns_anew_from_facts_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.put(*two_stores(20))
    place.fold()
    head, before = place.head(home()), place.shard(home())
    other_river(monkeypatch)
    verifier = load_signer(place.settings).verifier
    with pytest.raises(FingerprintMismatch, match=r"made with river 0\.26.*next snapshot"):
        read_forecaster(place.store, home(), head.snapshot, verifier)
    place.put(*two_stores(2, first=20))
    with caplog.at_level(logging.WARNING):
        place.fold()
    assert f"{head.snapshot} was made with river 0.26" in caplog.text
    assert "models were made anew from its facts in" in caplog.text
    manifest = read_manifest(place.store, home(), place.head(home()).snapshot, verifier)
    assert manifest.versions["river"] == "0.99.0" and manifest.parent == head.snapshot
    after = place.shard(home())
    assert list(facts(after)) == list(facts(place.undisturbed(home())))
    assert before.forecast().max() > 1 and after.forecast().max() > 1
    read_forecaster(place.store, home(), place.head(home()).snapshot, verifier)


def test_where_facts_do_not_reach_back_the_log_is_learned_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is served stays until it has caught up, and it ends as if nothing had been."""
    monkeypatch.setattr(snapshot, "ring_length", lambda settings: 10)
    place.put(*two_stores(20))
    place.fold()
    before = place.store.pointers(home())
    other_river(monkeypatch)
    with caplog.at_level(logging.ERROR):
        place.put(sale(20))
        place.fold()
    assert "all is learned again from the log's beginning: 61 records" in caplog.text
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()
    assert before.head is not None and place.head(home()).lineage == before.head.lineage + 1


def test_where_neither_reaches_the_newest_facts_do_and_that_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshot, "ring_length", lambda settings: 10)
    place.put(*two_stores(20))
    place.fold()
    other_river(monkeypatch)
    monkeypatch.setattr(type(place.events), "begin", lambda self: {0: 1, 1: 1})
    with caplog.at_level(logging.WARNING):
        owned = take(place.settings, place.events, place.store,
                     load_signer(place.settings).verifier, home())  # fmt: skip
    assert "over the newest buckets only" in caplog.text and "`archive`" in caplog.text
    assert owned.shard.position == place.head(home()).position


def test_a_rollback_to_models_of_another_river_makes_them_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(*two_stores(20))
    place.fold()
    place.operate("rollback", {home(): place.head(home()).snapshot})
    other_river(monkeypatch)
    found = effects_of(place).of(home())("op")
    assert isinstance(found, Rollback) and list(found.models) == list(place.settings.models)


# -- snapshots that cannot be read ---------------------------------------------------------


def chunk(place: Place, snapshot: str, part: str) -> Path:
    verifier = load_signer(place.settings).verifier
    digest = read_manifest(place.store, home(), snapshot, verifier).parts[part].chunks[0]
    return Path(place.settings.data_dir) / "snapshots" / "chunks" / digest[:2] / digest


def manifest_file(place: Place, snapshot: str) -> Path:
    folder = Path(place.settings.data_dir) / "snapshots" / f"p{home()}"
    (found,) = folder.glob(f"*.{snapshot}.manifest")
    return found


SPOILS: dict[str, Callable[[Place, str], Any]] = {
    "a chunk is gone": lambda place, name: chunk(place, name, "window").unlink(),
    "a chunk is cut short": lambda place, name: chunk(place, name, "window").write_bytes(b"x"),
    "the manifest is gone": lambda place, name: manifest_file(place, name).unlink(),
    "the manifest is cut short": lambda place, name: manifest_file(place, name).write_bytes(b"x"),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_head_that_cannot_be_read_is_come_to_again_from_an_older_one(
    place: Place, spoil: Callable[[Place, str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    place.put(*two_stores(6))
    place.fold()
    older = place.head(home()).snapshot
    place.put(*two_stores(3, first=6))
    place.fold()
    head = place.head(home())
    spoil(place, head.snapshot)
    seen: list[tuple[int, int]] = []
    move = place.store.move_head

    def watched(partition: int, parent: Any, to: Any, replaying: Any = None) -> bool:
        seen.append((partition, to.position))
        return move(partition, parent, to, replaying)

    place.store.move_head = watched  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        worker = place.worker()
        with running(worker):
            until(lambda: place.head(home()) != head, "another head")
    assert f"going on from {older}" in caplog.text
    assert all(position >= head.position for partition, position in seen if partition == home())
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()
    place.put(*two_stores(1, first=9))
    place.fold()
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()
    assert place.kept_aside() == []


def test_where_no_older_one_can_be_read_all_is_learned_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.put(*two_stores(6))
    place.fold()
    head = place.head(home())
    for name in place.store.snapshots(home()):
        manifest_file(place, name).write_bytes(b"x")
    with caplog.at_level(logging.ERROR), running(place.worker()):
        until(lambda: place.head(home()) != head, "another head")
    assert "all is learned again from the log's beginning" in caplog.text
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def test_where_nothing_leads_back_the_way_out_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(*two_stores(6))
    place.fold()
    head = place.head(home())
    for name in place.store.snapshots(home()):
        manifest_file(place, name).write_bytes(b"x")
    monkeypatch.setattr(type(place.events), "begin", lambda self: {0: 1, 1: 1})
    worker = place.worker()
    with running(worker):
        until(lambda: home() in worker.held, "it to stand still")
    assert re.search(
        r"No older .* can be read.*backup, or set `archive`", worker.held[home()]
    )  # fmt: skip
    assert place.head(home()) == head


def _sign_by_another(place: Place, name: str) -> None:
    manifest = read_manifest(place.store, home(), name, load_signer(place.settings).verifier)
    envelope = Signer(Ed25519PrivateKey.generate()).seal(manifest)
    place.store.put_manifest(home(), name, envelope)


def _of_the_other_partition(place: Place, name: str) -> None:
    other = place.head(1 - home()).snapshot
    place.store.put_manifest(home(), name, place.store.get_manifest(1 - home(), other))


def _past_the_end(place: Place, name: str) -> None:
    """A head that leads to a manifest of another's, which says it has folded more than there is."""
    head = place.head(home())
    envelope = place.store.get_manifest(home(), name)
    place.store.put_manifest(home(), f"{name}x", envelope)
    far = Pointer(f"{name}x", head.lineage, 10**9)
    assert place.store.move_head(home(), name, far)


@pytest.mark.parametrize("forge", [_sign_by_another, _of_the_other_partition, _past_the_end])
def test_a_head_that_its_owner_did_not_sign_is_come_to_again_from_one_that_it_did(
    place: Place, forge: Callable[[Place, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    place.put(*two_stores(6))
    place.fold()
    older = place.head(home())
    place.put(*two_stores(3, first=6))
    place.fold()
    forge(place, place.head(home()).snapshot)
    head = place.head(home())
    worker = place.worker()
    with caplog.at_level(logging.ERROR), running(worker):
        until(lambda: place.head(home()) != head, "another head")
    assert re.search(r"is not signed by|holds another one", caplog.text)
    assert "going on from" in caplog.text
    counted = f'salescast_heads_refused_total{{partition="{home()}"}} 1.0'
    assert counted.encode() in worker.telemetry.render()
    assert place.head(home()).lineage == older.lineage + 1
    assert place.head(home()).position == place.events.end()[home()]
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def test_an_owner_that_moved_its_head_meanwhile_is_not_overruled(place: Place) -> None:
    """What is made again in the place of a forged head loses the compare-and-set, as any zombie."""
    place.put(*two_stores(6))
    place.fold()
    place.put(*two_stores(3, first=6))
    place.fold()
    head = place.head(home())
    _sign_by_another(place, head.snapshot)
    signer = load_signer(place.settings)
    again = take(place.settings, place.events, place.store, signer.verifier, home())
    assert again.foreign
    again.shard.fold(place.records(home())[again.shard.position :])
    place.put(*two_stores(2, first=9))
    place.fold()  # the owner
    now = place.head(home())
    assert now != head
    assert not place.worker().publish(again)
    assert place.head(home()) == now


# -- operations on the way back ------------------------------------------------------------


def another_format(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (manifests, snapshot):
        monkeypatch.setattr(one, "FORMAT", FORMAT + 1)


def lost_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(place.settings.data_dir) / "snapshots"
    place.store.close()
    shutil.rmtree(folder)
    place.store = FileStore(folder)


def replayed(place: Place) -> str:
    """Poison is taken back; the cut."""
    place.put(*two_stores(6))
    place.fold()
    cut = place.head(home()).snapshot
    place.put(*poison(2, first=6), *two_stores(2, first=8))
    place.fold()
    operate(place, "op", {home(): cut}, replay=True, exclude=Exclusion(sources=("bad",)))
    place.put(*two_stores(2, first=10))
    place.fold()
    return cut


def replayed_from_within_a_replay(place: Place) -> None:
    """A second one goes back to where the first one was half-way."""
    replayed(place)
    verifier = load_signer(place.settings).verifier
    all_of_it = [
        read_manifest(place.store, home(), name, verifier) for name in place.store.snapshots(home())
    ]
    half = [one for one in all_of_it if one.replay and one.position > one.replay.start]
    what = Exclusion(products=("a",))
    operate(place, "again", {home(): half[0].snapshot}, replay=True, exclude=what)
    place.put(*two_stores(1, first=12))
    place.fold()


def models_went_back(place: Place) -> None:
    """Once to what a replay has come to, once to before it."""
    cut = replayed(place)
    last = place.head(home()).snapshot
    place.put(*two_stores(2, first=12))
    operate(place, "to after", {home(): last})
    place.put(*two_stores(1, first=14))
    operate(place, "to before", {home(): cut})
    place.put(*two_stores(1, first=15))
    place.fold()


@pytest.mark.parametrize(
    "story, lose",
    [
        (replayed, another_format),
        (replayed_from_within_a_replay, lost_store),
        (models_went_back, lost_store),
    ],
)
def test_operations_hold_though_the_store_leads_to_none_of_their_cuts(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    story: Callable[[Place], Any], lose: Callable[[Place, pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    """All is learned again from the log's beginning, and ends as if nothing had been lost."""
    with monkeypatch.context() as hurry:
        hurry.setattr(module, "SLICE", 4)
        place.settings = replace(place.settings, snapshot_interval_s=0.0)
        story(place)
    before, said = place.shard(home()), place.outcomes()
    lose(place, monkeypatch)
    # On the way back no snapshot is put where one stood: it would be the same, and found.
    monkeypatch.setattr(module, "MIN_INTERVAL_S", 3600.0)
    place.settings = replace(place.settings, snapshot_interval_s=3600.0)
    place.put(*two_stores(1, first=20))
    worker, end = place.worker(), place.events.end()[home()]
    with caplog.at_level(logging.WARNING), running(worker):
        until(lambda: home() in worker.owned and worker.owned[home()].shard.position == end, "all")
    assert "folded again from the log's beginning" in caplog.text
    before.fold(place.records(home())[before.position :])
    after = place.shard(home())
    assert after.digest() == before.digest() != place.undisturbed(home()).digest()
    assert (after.counts(), after.rules, after.operations, after.promotions) == (
        before.counts(), before.rules, before.operations, before.promotions,
    )  # fmt: skip
    assert {one[2] for one in said} == {one[2] for one in place.outcomes()} == {"applied"}
    assert place.kept_aside() == []


def effects_of(place: Place) -> Effects:
    return Effects(
        place.settings, events=place.events, control=AuditTrail(place.control), store=place.store,
        verifier=load_signer(place.settings).verifier,
        dead_letters=DeadLetters(place.letters, place.events),
    )  # fmt: skip


def tell(place: Place, outcome: Any, detail: str = "") -> None:
    told = Outcome(operation="op", partition=home(), outcome=outcome, time=day(0), detail=detail)
    place.control.append([Entry(0, None, msgspec.json.encode(told))])


def test_what_was_carried_out_is_not_left_out_where_nothing_leads_to_its_cut(place: Place) -> None:
    """The partition stands still at its marker instead, until somebody comes."""
    place.put(*two_stores(2))
    place.operate("rollback", {home(): f"p{home()}-l1-o99-abcdef12"})
    resolve = effects_of(place).of(home())
    assert "there is no snapshot" in str(resolve("op"))
    tell(place, "applied")
    with pytest.raises(CutLost, match="op was carried out here, and cannot be again"):
        resolve("op")


def test_what_was_refused_stays_refused(place: Place) -> None:
    place.put(*two_stores(2))
    place.fold()
    place.operate("rollback", {home(): place.head(home()).snapshot})
    resolve = effects_of(place).of(home())
    assert isinstance(resolve("op"), Rollback)
    tell(place, "refused", "it could not be read then")
    assert resolve("op") == "it could not be read then"
