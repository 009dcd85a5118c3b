"""Signing keys of snapshots: made at first start in embedded mode, given in distributed mode.

Owners need the private key; replicas only the public one, and cannot forge.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from learner.snapshot import Signer, Verifier
from stream.errors import SettingsError
from stream.settings import Settings

_MAKE = "Make a pair with: salescast keys"


def key_files(settings: Settings) -> tuple[Path, Path]:
    """Where the private and the public key are, or would be made."""
    folder = Path(settings.data_dir) / "keys"
    return (
        Path(settings.signing_key_file or folder / "signing.pem"),
        Path(settings.verify_key_file or folder / "verify.pem"),
    )


def make_keys(private_file: Path, public_file: Path) -> None:
    """Make a pair: the private key for its owner's eyes only (mode 0600).

    Raises
    ------
    SettingsError
        A key is there already; it is never overwritten.
    """
    for file in (private_file, public_file):
        if file.exists():
            raise SettingsError(f"{file} exists; a key is never overwritten")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    # The public key goes first: who sees the private one may count on both.
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write(public_file, public, 0o644)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(private_file, private, 0o600)


def ensure_keys(settings: Settings) -> None:
    """Make the embedded mode's pair at first start; elsewhere, leave it to `salescast keys`."""
    embedded = settings.log == "sqlite" and settings.store == "folder"
    private_file, public_file = key_files(settings)
    if embedded and not settings.signing_key_file and not private_file.exists():
        make_keys(private_file, public_file)


def load_signer(settings: Settings) -> Signer:
    """The owner's key.

    Raises
    ------
    SettingsError
        There is none, or the file is no Ed25519 key.
    """
    file = key_files(settings)[0]
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise SettingsError(
            f"cannot read the signing key {file}: {error.strerror}", remedy=_MAKE
        ) from None
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{file} is not an Ed25519 private key in PEM", remedy=_MAKE)
    return Signer(key)


def load_verifier(settings: Settings) -> Verifier:
    """The replicas' key.

    Raises
    ------
    SettingsError
        There is none, or the file is no Ed25519 key.
    """
    file = key_files(settings)[1]
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"cannot read the public key {file}: {error.strerror}", remedy=_MAKE
        ) from None
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{file} is not an Ed25519 public key in PEM", remedy=_MAKE)
    return Verifier(key)


def _write(file: Path, data: bytes, mode: int) -> None:
    """Make a file that appears whole: another process may be waiting for it."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.link(part, file)  # never over another one
    finally:
        part.unlink()
