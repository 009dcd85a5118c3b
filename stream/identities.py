"""What makes an event the same as another: who sent it under which id, and what it says.

Hashes are stable across processes and releases: they are in every snapshot.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from stream.event import MICRO, Sale, Void

#: The bits of a content's hash; the three low ones are left to the state of its identity.
CONTENT = ~7


def identify(source: str, id: str) -> bytes:
    """128-bit identity of (source, id), length-prefixed so that no two pairs run together."""
    return xxh3_128_digest(f"{len(source)}:{source}{id}".encode())


def content_hash(event: Sale | Void, at: int) -> int:
    """What a sale or void says, as ``content_of``; ``at`` is its time, µs since 1970 UTC."""
    kind = f"void {len(event.voids)}:{event.voids}" if isinstance(event, Void) else "sale"
    return content_of(kind, event.store, event.product, at, event.quantity, event.price)


def content_of(
    kind: str, store: str, product: str, at: int, quantity: float, price: float | None
) -> int:
    """61-bit hash of canonical values, with room for the bits of state."""
    micro = "" if price is None else round(price * MICRO)
    text = f"{kind}{len(store)}:{store}{product}\n{at},{round(quantity * MICRO)},{micro}"
    return xxh3_64_intdigest(text.encode()) & CONTENT


def amounts_of(quantity: float, price: float | None) -> tuple[int, int, int, int]:
    """Gross, returns, revenue and priced quantity in millionths."""
    micro = round(quantity * MICRO)
    if micro <= 0:
        return 0, -micro, 0, 0
    if price is None:
        return micro, 0, 0, 0
    return micro, 0, round(quantity * price * MICRO), micro
