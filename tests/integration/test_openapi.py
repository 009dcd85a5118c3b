"""What the OpenAPI document allows, and what it does not, is asked: there is no server error.

`SCHEMATHESIS_EXAMPLES` says how many requests an operation gets (8 here, many with `make fuzz`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from api.app import create_app
from learner import worker as module
from learner.keys import load_verifier
from tests.api_parts import running
from tests.learner_parts import plan
from tests.unit.test_worker import Place, two_stores

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "8"))
#: A stream that ends when its reader goes.
ENDLESS = {"/v1/updates"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API over what a learner has published."""
    place = Place.at(tmp_path_factory.mktemp("api"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
            patch.setattr(module, name, 0.02)
        place.put(*two_stores(10))
        for partition in range(2):
            place.put(plan("offer", 11, 14, product="p1", promotion=1.0), partition=partition)
        place.fold()
    app = create_app(
        place.settings, events=place.events, control=place.control, dead_letters=place.letters,
        store=place.store, verifier=load_verifier(place.settings),
    )  # fmt: skip
    with running(app) as client:
        yield str(client.base_url)
    place.close()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, methods in document["paths"].items():
        if path not in ENDLESS:
            yield from ((path, method) for method in methods if method in {
                "get", "put", "post", "delete", "patch"})  # fmt: skip


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_a_server_error(url: str, mode: GenerationMode) -> None:
    document = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    schema = schemathesis.openapi.from_dict(document)
    wrong: list[str] = []
    asked = 0

    def ask(case: Any) -> None:
        nonlocal asked
        asked += 1
        answer = case.call(base_url=url)
        if answer.status_code >= 500:
            wrong.append(f"{case.as_curl_command()}\n{answer.status_code} {answer.text}")

    tries = settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for path, method in operations(document):
        made = schema[path][method.upper()].as_strategy(generation_mode=mode)
        with suppress(Unsatisfiable):  # nothing can be wrong with what takes no input
            seeded(11)(tries(given(case=made)(ask)))()
    assert asked > len(list(operations(document)))
    assert wrong == [], "\n\n".join(wrong)
