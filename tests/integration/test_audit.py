"""What an auditor asks, of a deployment that runs: who did what, where it led, is it true."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from tests.integration.deployment import days_of_sales, deployment, poisoned


def test_an_auditor_is_answered(tmp_path: Path) -> None:
    with deployment(tmp_path, "learner", "api") as one:
        one.send(days_of_sales(range(20)))
        good = [part["snapshot"] for part in one.settle() if part["snapshot"]]
        request = "/v1/forecasts/store-1/product-2?horizon=5&quantiles=0.05,0.95"
        given = one.api.get(request)
        assert given.status_code == 200
        (tmp_path / "answer.json").write_bytes(given.content)
        then = given.json()["snapshot"]
        one.send(poisoned(days_of_sales(range(20, 23)), "bad"))
        one.settle()
        one.cli("freeze", "--reason", "looks odd [/x]", "--who", "ann")
        one.cli("resume", "--reason", "seen", "--who", "ann")
        one.cli("rollback", *good, "--replay", "--exclude-source", "bad", "--reason",
                "twelvefold [/7]", "--who", "bob")  # fmt: skip
        one.send(days_of_sales(range(20, 22)))
        one.settle()

        trail = one.cli("audit")
        assert "twelvefold [/7]" in trail and "looks odd [/x]" in trail and "sources bad" in trail
        assert "twelvefold [/7]" in one.cli("operations")
        rows = [json.loads(line) for line in one.cli(
            "audit", "--who", "bob", "--export", "ndjson").splitlines()]  # fmt: skip
        assert {row["kind"] for row in rows} == {"rollback"}
        assert {row["outcome"] for row in rows} == {"applied"}
        assert all(row["offset"] is not None and row["snapshot"] in good for row in rows)
        table = list(csv.DictReader(io.StringIO(one.cli("audit", "--export", "csv"))))
        assert [row["kind"] for row in table] == sorted(
            (row["kind"] for row in table), key=["freeze", "resume", "rollback"].index
        )
        assert "no such operations" in one.cli("audit", "--until", "2020-01-01")

        drawn = one.cli("lineage")
        assert "twelvefold [/7]" in drawn and "head active" in drawn
        head = given.json()["snapshot"].split("-")[0][1:]
        (tree,) = [
            each
            for each in one.api.get("/v1/lineage").json()["partitions"]
            if each["partition"] == int(head)
        ]
        by_name = {node["id"]: node for node in tree["snapshots"]}
        second = [node for node in tree["snapshots"] if node["lineage"] == 2]
        assert by_name[second[0]["parent"]]["lineage"] == 1
        assert all(node["made_by"] == rows[0]["id"] for node in second)
        assert all(node["parent"] in by_name for node in second)

        served = next(node["id"] for node in second if node["head"])
        for arguments in ((served,), (served, "--from-start"), (then,)):
            assert "identical" in one.cli("verify", *arguments)
        again = one.cli("verify", "--forecast", request, "--snapshot", then,
                        "--body", str(tmp_path / "answer.json"))  # fmt: skip
        assert "identical, to the byte" in again
        assert "identical, to the byte" in one.cli(
            "verify", "--forecast", request, "--snapshot", served
        )
        other = (tmp_path / "answer.json").read_text().replace('"mean":', '"mean":1')
        (tmp_path / "answer.json").write_text(other)
        spoilt = ("verify", "--forecast", request, "--snapshot", then,
                  "--body", str(tmp_path / "answer.json"))  # fmt: skip
        said = one.cli(*spoilt, status=1)
        assert "different" in said and "steps.0.mean: given 1" in said
        told = json.loads(one.cli(*spoilt, "--json", status=1))
        assert (told["verdict"], told["given_by"]) == ("different", then)
        assert told["answer"]["snapshot"] == then
        (tmp_path / "answer.json").write_text("no answer")
        for body in ("nowhere.json", "answer.json"):
            assert f"--body {tmp_path / body}" in one.cli(
                "verify", "--forecast", request, "--snapshot", then,
                "--body", str(tmp_path / body), status=2,
            )  # fmt: skip
        assert "answer it is compared with" in one.cli(
            "verify", "--forecast", request, "--snapshot", then, status=1
        )
