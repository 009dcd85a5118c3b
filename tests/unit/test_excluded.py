"""A look at what a rule passes over costs no more than the records it looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from api import excluded
from api.catalog import Catalog
from learner.manifest import read_manifest
from learner.replay import Exclusion, Rule
from stream.event import encode, item_values
from stream.log import Entry
from tests.api_parts import Deployment
from tests.learner_parts import sale


def test_a_record_of_many_excluded_items_is_split_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Deployment(tmp_path)
    events = [
        encode(sale(1, quantity=n, source=source)) for n in range(200) for source in ("bad", "good")
    ]
    place.events.append([Entry(0, None, b"[" + b",".join(events) + b"]") for _ in range(2)])
    splits, inner = [0], item_values

    def split(value: bytes) -> list[bytes]:
        splits[0] += 1
        return inner(value)

    monkeypatch.setattr(excluded, "item_values", split)
    catalog = Catalog(place.store, place.signer.verifier, read_manifest)
    rule = Rule(operation="op", kind="excluded", what=Exclusion(sources=("bad",)), start=0)
    scan = excluded.Excluded(place.events, catalog).look(rule, 0, limit=300)
    assert [one.value for one in scan.items] == (events[::2] * 2)[:300]
    assert (scan.next, splits) == ((1, 200), [2])
    place.close()
