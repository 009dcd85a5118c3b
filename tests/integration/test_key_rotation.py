"""Signing keys change while learner and API run: no request fails, and no snapshot is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from typer.testing import CliRunner

from learner.adapters import open_store
from learner.keys import key_files, read_public
from learner.manifest import name_of, signed_by
from scripts.cli import make
from stream.settings import load
from tests.integration.deployment import Deployment, days_of_sales, deployment


@contextmanager
def asking(running: Deployment, path: str) -> Iterator[list[int]]:
    """Ask for a path over and over; the statuses."""
    stop, found = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=running.api.base_url, timeout=10.0, trust_env=False) as client:
            while not stop.is_set():
                try:
                    found.append(client.get(path).status_code)
                except httpx.HTTPError:
                    found.append(0)
                stop.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def test_keys_rotate_under_load(tmp_path: Path) -> None:
    with deployment(tmp_path, "learner", "api") as running:
        settings = load(running.environ).settings
        store = open_store(settings)
        public = key_files(settings)[1]

        def keys(*words: str, status: int = 0) -> str:
            ran = CliRunner().invoke(make(), ["keys", *words], env=running.environ)
            assert ran.exit_code == (1 if status else 0), ran.output
            return ran.output + str(ran.exception or "")

        def signers() -> set[str]:
            return {
                signed_by(store.get_manifest(p, name))
                for p in store.partitions()
                for name in store.snapshots(p)
            }

        running.send(days_of_sales(range(6)))
        running.settle()
        (old,) = map(name_of, read_public(public))
        with asking(running, "/v1/forecasts/store-1/product-2") as found:
            keys("--rotate")
            running.send(days_of_sales(range(6, 8)))
            running.settle()
            assert signers() == {old}
            keys("--switch")
            running.send(days_of_sales(range(8, 10)))
            running.settle()
            (new,) = signers() - {old}
            told = keys("--list")
            assert f"{new}  needed by" in told and "signed with now" in told
            refused = keys("--forget", old, status=1)
            assert f"kept snapshots are signed by {old}" in refused
            served = [one["id"] for one in running.api.get("/v1/snapshots").json()["items"]]
            assert {running.api.get(f"/v1/snapshots/{one}").status_code for one in served} == {200}
        assert len(found) > 20 and set(found) == {200}
        for name in ("learner", "api"):
            assert "not signed" not in running.log(name)

        keys("--forget", old, "--force")
        running.send(days_of_sales(range(10, 12)))
        running.settle()
        assert running.api.get("/v1/forecasts/store-1/product-2").status_code == 200
        store.close()
