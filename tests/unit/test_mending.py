"""A rule mends what it can, and says of the rest why it is refused still."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from api.mending import Rule, mend
from stream.event import Refusal, Sale, decode

LATEST_S = 2e9


def bytes_of(**changed: Any) -> bytes:
    fields = {
        "type": "sale", "id": "1", "source": "till", "store": "s", "product": "p",
        "time": "2024-01-01T09:00:00Z", "quantity": 2, **changed,
    }  # fmt: skip
    return msgspec.json.encode({k: v for k, v in fields.items() if v is not None})


def test_a_field_is_renamed_and_a_value_set() -> None:
    rule = Rule(rename={"qty": "quantity"}, set={"store": "t"})
    made = mend(bytes_of(quantity=None, qty=3), rule, LATEST_S)
    assert isinstance(made, bytes)
    (sale,) = decode(made)
    assert isinstance(sale, Sale)
    assert (sale.quantity, sale.store, sale.id) == (3.0, "t", "1")


def test_without_a_rule_the_bytes_are_those_that_were() -> None:
    odd = b" " + bytes_of().replace(b'":', b'" :  ')
    assert mend(odd, Rule(), LATEST_S) == odd


@pytest.mark.parametrize(
    ("value", "rule", "reason"),
    [
        (b"not json", Rule(set={"a": 1}), "malformed"),
        (b"[1]", Rule(set={"a": 1}), "malformed"),
        (bytes_of(qty=1), Rule(), "unknown_field"),
        (bytes_of(quantity="two"), Rule(set={"store": "t"}), "invalid_field"),
        (bytes_of(time="2199-01-01T00:00:00Z"), Rule(), "future_dated"),
        (
            b'{"type": "tick", "id": "1", "source": "s", "time": "2024-01-01T09:00:00Z"}',
            Rule(),
            "unknown_type",
        ),
    ],
)
def test_what_a_rule_does_not_mend_is_refused_as_if_it_were_new(
    value: bytes, rule: Rule, reason: str
) -> None:
    made = mend(value, rule, LATEST_S)
    assert isinstance(made, Refusal)
    assert made.reason == reason
