"""partition_of: the one function that producers, the API and the fold must agree on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2  # type: ignore[import-untyped]

from stream.log import partition_of


@given(store=st.text(max_size=40), partitions=st.integers(1, 64))
def test_partition_is_the_one_kafkas_own_clients_choose(store: str, partitions: int) -> None:
    expected = (murmur2(store.encode()) & 0x7FFFFFFF) % partitions
    assert partition_of(store, partitions) == expected


def test_partitions_of_the_java_clients_test_vectors() -> None:
    """Hashes that Apache Kafka's UtilsTest lists for murmur2."""
    hashes = {
        "21": -973932308,
        "foobar": -790332482,
        "a-little-bit-long-string": -985981536,
        "a-little-bit-longer-string": -1486304829,
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        "abc": 479470107,
    }
    for store, expected in hashes.items():
        assert partition_of(store, 997) == (expected & 0x7FFFFFFF) % 997


def test_many_stores_spread_over_all_partitions() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of(f"store-{number}", 8)] += 1
    assert min(counts) > 800
