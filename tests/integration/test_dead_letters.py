"""Dead letters of a deployment that runs: seen, mended, sent again, discarded, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stream.adapters import open_log
from stream.log import Entry, partition_of
from stream.settings import Settings
from tests.integration.deployment import Deployment, days_of_sales, deployment, until


def append(one: Deployment, values: list[bytes], store: str) -> None:
    """As a producer does that writes to the log by itself."""
    settings = Settings(data_dir=one.environ["SALESCAST_DATA_DIR"])
    log = open_log(settings, "events")
    partition = partition_of(store, settings.partitions)
    offsets = log.append([Entry(partition, store.encode(), value) for value in values])
    log.close()
    one.sent[partition] = max(offsets)


def counts(one: Deployment) -> dict[str, int]:
    """Items by outcome, over all partitions; they add up to the items of the log."""
    found: dict[str, int] = {}
    for item in one.api.get("/v1/snapshots", params={"limit": 200}).json()["items"]:
        if item["head"]:
            detail = one.api.get(f"/v1/snapshots/{item['id']}").json()
            for line in detail["counts"].values():
                for outcome, n in line.items():
                    found[outcome] = found.get(outcome, 0) + n
    return found


def learned(found: dict[str, int]) -> int:
    """Sales that became facts, in time or after their bucket's close."""
    return found["learned"] + found.get("revised", 0)


def test_refused_items_are_mended_sent_again_or_discarded(tmp_path: Path) -> None:
    sales: list[dict[str, Any]] = [
        {**sale, "source": "old[/7]", "id": f"old-{sale['id']}"}
        for sale in days_of_sales(range(3, 5), stores=2)
        if sale["store"] == "store-1"
    ]
    with deployment(tmp_path, "learner", "api") as one:
        one.send(days_of_sales(range(5)))
        wrong = [
            json.dumps({("qty" if k == "quantity" else k): v for k, v in sale.items()}).encode()
            for sale in sales
        ]
        append(one, [*wrong, b"no event at all"], "store-1")
        one.settle()
        before = counts(one)
        assert before["refused"] == len(wrong) + 1
        (old, torn) = until(
            lambda: (
                found if len(found := json.loads(one.cli("dead-letters", "--json"))) == 2 else None
            ),
            "the letters",
        )
        assert old == {"reason": "unknown_field", "source": "old[/7]", "letters": len(wrong)}
        assert torn == {"reason": "malformed", "source": "", "letters": 1}
        assert "old[/7]" in one.cli("dead-letters")
        shown = one.cli("dead-letters", "show", "--refused-for", "malformed")
        assert "no event at all" in shown and "send valid UTF-8 JSON" in shown

        rule = (
            "--refused-for",
            "unknown_field",
            "--rename",
            "qty=quantity",
            "--reason",
            "old till",
        )
        assert f"{len(wrong)} of {len(wrong)} would be" in one.cli(
            "dead-letters", "send", *rule, "--dry-run"
        )
        assert counts(one) == before
        said = one.cli("dead-letters", "send", "--refused-for", "unknown_field", "--rename",
                       "qty=amount", "--reason", "a wrong rule", status=1)  # fmt: skip
        assert f"0 of {len(wrong)} sent again" in said and "unknown_field" in said
        assert f"{len(wrong)} of {len(wrong)} sent again" in one.cli("dead-letters", "send", *rule)
        after = until(
            lambda: now if learned(now := counts(one)) > learned(before) else None,
            "what was mended",
        )
        assert learned(after) == learned(before) + len(wrong)
        assert after["refused"] == before["refused"]

        (letter,) = one.api.get("/v1/dead-letters").json()["items"]
        assert "1 of 1 discarded" in one.cli(
            "dead-letters", "discard", letter["receipt"], "--reason", "noise"
        )
        assert "no dead letters" in one.cli("dead-letters")
        kept = one.api.get("/v1/dead-letters", params={"settled": True}).json()["items"]
        assert len(kept) == len(wrong) + 1
        assert {item["settled"].partition(" by ")[0] for item in kept} == {
            "sent again",
            "discarded",
        }
        trail = one.api.get("/v1/operations").json()["items"]
        assert [(each["kind"], each["reason"], each["state"]) for each in trail] == [
            ("discard", "noise", "applied"), ("resend", "old till", "applied"),
        ]  # fmt: skip
        assert "qty renamed quantity" in trail[1]["about"]
        answer = one.api.post(
            "/v1/dead-letters", json={"action": "discard", "reason": "x", "who": "x"}
        )
        assert (answer.status_code, answer.json()["field"]) == (422, "receipts")
