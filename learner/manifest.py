"""What a snapshot is: a manifest that lists every chunk of every part, signed (Ed25519).

It is verified before a byte of a part is read. Leaves out: what the parts hold (``snapshot`` lays
them down; ``served`` and ``recall`` read some of them).
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from river.__version__ import __version__ as river_version

from learner.parts import Part, restored
from learner.replay import Promotion, Replay, Rule
from learner.store import SnapshotStore
from stream.errors import FingerprintMismatch, SnapshotCorrupt, SnapshotForeign
from stream.settings import Settings

FORMAT = 7
VERSION = version("salescast")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is. ``position`` is the next offset to fold; times are µs since 1970 UTC."""

    format: int
    snapshot: str
    partition: int
    topic_id: str
    position: int
    watermark_us: int
    origin: int | None
    lineage: int
    parent: str | None
    created_us: int
    digest: str
    champion: str
    scores: list[dict[str, Any]]
    counts: dict[str, dict[str, int]]
    operations: dict[str, int]
    settings: dict[str, Any]
    versions: dict[str, str]
    series: int
    parts: dict[str, Part]
    rules: tuple[Rule, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    replay: Replay | None = None

    @property
    def size_bytes(self) -> int:
        """Size of all parts."""
        return sum(part.size for part in self.parts.values())

    @property
    def chunks(self) -> set[str]:
        """Digests of all chunks."""
        return {digest for part in self.parts.values() for digest in part.chunks}


class Envelope(msgspec.Struct, frozen=True):
    """A manifest's bytes with their signature and the key that made it."""

    key: str
    signature: bytes
    manifest: bytes


class Signer:
    """Signs manifests; owners hold one. ``verifier`` takes its key, and others if it is given."""

    def __init__(self, key: Ed25519PrivateKey, verifier: Verifier | None = None) -> None:
        self._key = key
        self.verifier = verifier or Verifier(key.public_key())

    def key(self) -> Ed25519PrivateKey:
        """The key to sign with now."""
        return self._key

    def seal(self, manifest: Manifest) -> bytes:
        """A signed manifest, as it is kept."""
        body, key = msgspec.json.encode(manifest), self.key()
        return msgspec.msgpack.encode(Envelope(name_of(key.public_key()), key.sign(body), body))


def name_of(key: Ed25519PublicKey) -> str:
    """What a key is called: the beginning of its SHA-256."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def signed_by(envelope: bytes) -> str:
    """The name of the key that a manifest says it is signed by; empty if it is none."""
    try:
        return msgspec.msgpack.decode(envelope, type=Envelope).key
    except msgspec.MsgspecError:
        return ""


class Verifier:
    """Checks manifests' signatures by any of some keys; replicas hold no more than this."""

    def __init__(self, *keys: Ed25519PublicKey) -> None:
        self._keys = {name_of(key): key for key in keys}

    def known(self) -> Mapping[str, Ed25519PublicKey]:
        """The keys that are taken now, by name."""
        return self._keys

    @property
    def name(self) -> str:
        """Names of the keys that are taken now."""
        return ", ".join(self.known())

    def open(self, envelope: bytes, partition: int, snapshot: str) -> Manifest:
        """The manifest in an envelope, if it is signed, whole, and the one asked for.

        Raises
        ------
        SnapshotCorrupt
            It cannot be read; ``SnapshotForeign``: it is not what an owner has signed.
        """
        try:
            sealed = msgspec.msgpack.decode(envelope, type=Envelope)
            key = self.known().get(sealed.key)
            if key is None:
                raise InvalidSignature
            key.verify(sealed.signature, sealed.manifest)
            manifest = msgspec.json.decode(sealed.manifest, type=Manifest)
        except InvalidSignature:
            raise SnapshotForeign(
                f"snapshot {snapshot} is not signed by the key {self.name}"
            ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SnapshotCorrupt(f"snapshot {snapshot} cannot be read: {error}") from None
        if (manifest.partition, manifest.snapshot) != (partition, snapshot):
            raise SnapshotForeign(f"snapshot {snapshot} holds another one, {manifest.snapshot}")
        if manifest.format != FORMAT:
            raise SnapshotCorrupt(
                f"snapshot {snapshot} is of format {manifest.format}, this release reads {FORMAT}"
            )
        return manifest


def versions() -> dict[str, str]:
    """Versions that a snapshot's bytes depend on."""
    return {
        "salescast": VERSION,
        "river": river_version,
        "numpy": np.__version__,
        "holidays": version("holidays"),
        "python": platform.python_version(),
    }


def outdated(manifest: Manifest) -> dict[str, str]:
    """Versions by which models are not to be unpickled here: River's, and numpy's major."""
    theirs, ours = manifest.versions, versions()
    found = {"river": theirs["river"] != ours["river"],
             "numpy": theirs["numpy"].split(".")[0] != ours["numpy"].split(".")[0]}  # fmt: skip
    return {name: theirs[name] for name, differs in found.items() if differs}


def settings_of(manifest: Manifest) -> Settings:
    """The settings that a snapshot was made under, as far as they change its state."""
    values = manifest.settings.items()
    found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values}
    return Settings(**found)


def check_settings(manifest: Manifest, settings: Settings) -> None:
    """Refuse a snapshot that was made under other settings than these, and name them.

    Raises
    ------
    FingerprintMismatch
    """
    ours, theirs = settings.fingerprint(), manifest.settings
    changed = sorted(name for name in ours.keys() | theirs.keys()
                     if ours.get(name) != theirs.get(name))  # fmt: skip
    if changed:
        shown = ", ".join(f"{n}: {theirs.get(n)!r}, now {ours.get(n)!r}" for n in changed)
        raise FingerprintMismatch(f"snapshot {manifest.snapshot} was made with {shown}")


def read_manifest(
    store: SnapshotStore, partition: int, snapshot: str, verifier: Verifier
) -> Manifest:
    """A snapshot's manifest, verified.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    return verifier.open(store.get_manifest(partition, snapshot), partition, snapshot)


def read_parts(
    store: SnapshotStore, manifest: Manifest, names: Iterable[str]
) -> dict[str, bytearray]:
    """Some parts of a snapshot, each chunk checked against its digest.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    found = {}
    for name in names:
        part = manifest.parts.get(name)
        if part is None:
            raise SnapshotCorrupt(f"snapshot {manifest.snapshot} has no part `{name}`")
        try:
            data = restored(map(store.get_chunk, part.chunks))
        except ValueError as error:
            raise SnapshotCorrupt(f"part `{name}` of {manifest.snapshot}: {error}") from None
        if len(data) != part.size:
            raise SnapshotCorrupt(f"part `{name}` of {manifest.snapshot} has another size")
        found[name] = data
    return found
