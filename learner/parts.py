"""Parts of a snapshot: values and arrays as bytes, and bytes as chunks.

Parts are cut into chunks, compressed and named by their SHA-256, written once and reused: what has
not changed since the last snapshot is known by a fast hash, and costs no more than that. Nothing
is copied on the way. Leaves out: what the parts are (``snapshot``).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lz4.block  # type: ignore[import-untyped]
import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

#: A chunk before compression; arrays are cut between rows, so that a new row is a new chunk.
CHUNK_BYTES = 4_000_000
#: A piece from this size on shares its chunk with no other.
ALONE_BYTES = 1_000_000
#: Arrays begin at multiples of it within their part.
ALIGN = 64

Array = npt.NDArray[Any]
#: A part in pieces that are not copied: views of the shard itself, good until it folds on.
Pieces = Sequence[bytes | memoryview]
#: Chunks by a fast hash of what is in them: of the last snapshot, by which the next knows them.
Known = dict[bytes, str]


class Part(msgspec.Struct, frozen=True):
    """A named part of a shard: its size, and its chunks' digests in order."""

    size: int
    chunks: tuple[str, ...]


def pack(meta: Any, arrays: Mapping[str, Array] | None = None) -> Pieces:
    """Values and arrays in pieces: a length and a msgpack header, then the arrays' raw bytes."""
    arrays = arrays or {}
    shapes = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    header = msgspec.msgpack.encode((meta, shapes))
    head = struct.pack("<I", len(header)) + header
    pieces: list[bytes | memoryview] = [head + bytes(-len(head) % ALIGN)]
    for array in arrays.values():
        whole = np.ascontiguousarray(array)
        if whole.nbytes:
            rows = max(1, CHUNK_BYTES // (whole.nbytes // len(whole)))
            pieces += [
                whole[at : at + rows].reshape(-1).view(np.uint8).data
                for at in range(0, len(whole), rows)
            ]
            pieces.append(bytes(-whole.nbytes % ALIGN))
    return pieces


def joined(data: bytes | bytearray | Pieces) -> bytearray:
    """A part in one piece; a ``bytearray`` is one already."""
    if isinstance(data, bytearray):
        return data
    return bytearray().join([data] if isinstance(data, bytes) else data)


def unpack(data: bytes | bytearray | Pieces) -> tuple[Any, dict[str, Array]]:
    """What ``pack`` was given; arrays may be written to, and share a ``bytearray``'s memory."""
    data = joined(data)
    (length,) = struct.unpack_from("<I", data)
    meta, shapes = msgspec.msgpack.decode(memoryview(data)[4 : 4 + length])
    at, arrays = 4 + length + -(4 + length) % ALIGN, {}
    for name, dtype, shape in shapes:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += arrays[name].nbytes + -arrays[name].nbytes % ALIGN
    return meta, arrays


def cut(parts: Mapping[str, Pieces]) -> tuple[dict[str, Part], dict[str, bytes]]:
    """Cut parts into chunks: the parts' tables, and the chunks by digest."""
    tables, chunks, _ = cut_new(parts, {})
    return tables, chunks


def cut_new(
    parts: Mapping[str, Pieces], known: Known
) -> tuple[dict[str, Part], dict[str, bytes], Known]:
    """Cut parts into chunks, and make only those that the last snapshot did not have.

    Parameters
    ----------
    known
        What the last snapshot's chunks hold; they are in the store.

    Returns
    -------
    The parts' tables, new chunks by digest, and what all chunks of these parts hold.
    """
    tables: dict[str, Part] = {}
    chunks: dict[str, bytes] = {}
    now: Known = {}
    for name, pieces in parts.items():
        digests = []
        for piece in _chunked(pieces):
            hold = xxh3_128_digest(piece) + len(piece).to_bytes(4, "big")
            digest = now.get(hold) or known.get(hold)
            if digest is None:
                chunk = lz4.block.compress(piece)
                digest = hashlib.sha256(chunk).hexdigest()
                chunks[digest] = chunk
            now[hold] = digest
            digests.append(digest)
        tables[name] = Part(sum(map(len, pieces)), tuple(digests))
    return tables, chunks, now


def _chunked(pieces: Pieces) -> Iterator[bytes | memoryview]:
    """What goes into each chunk: a large piece has its own, small neighbours share one."""
    small: list[memoryview] = []
    for piece in pieces:
        view = memoryview(piece)
        alone = len(view) >= ALONE_BYTES
        if small and (alone or sum(map(len, small)) + len(view) > CHUNK_BYTES):
            yield b"".join(small)
            small = []
        if alone:
            yield from (view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES))
        elif view:
            small.append(view)
    if small:
        yield b"".join(small)


def restored(chunks: Iterator[bytes]) -> bytearray:
    """A part from its chunks, in order.

    Raises
    ------
    ValueError
        One is no chunk.
    """
    try:
        return bytearray().join(map(lz4.block.decompress, chunks))
    except lz4.block.LZ4BlockError as error:
        raise ValueError(str(error)) from None
