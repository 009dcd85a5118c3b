"""Signing keys of snapshots: made at first start in embedded mode, given in distributed mode.

Owners need the private key; replicas only the public ones, and cannot forge. Both follow their
files, so keys rotate while all runs: 1. a new public key joins the file, everywhere
(``rotate_keys``); 2. owners sign with the new private key (``switch_keys``); 3. once no kept
snapshot needs it, the old public key is taken away (``forget_key``).
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
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

from learner.manifest import Signer, Verifier, name_of
from stream.adapters import made
from stream.errors import SettingsError
from stream.settings import Settings

logger = logging.getLogger(__name__)

_MAKE = "Make a pair with: salescast keys"
_BLOCK = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\s*", re.DOTALL)


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
    if private_file.exists():
        raise SettingsError(f"{private_file} exists; a key is never overwritten")
    _make(private_file, public_file)
    _tell(private_file, public_file)


def _make(private_file: Path, public_file: Path) -> None:
    """Write a private key; ``FileExistsError``: another process was faster."""
    if public_file.exists() and not private_file.exists():
        raise SettingsError(f"{public_file} exists; a key is never overwritten")
    for file, setting in ((private_file, "signing_key_file"), (public_file, "verify_key_file")):
        made(file.parent, f"data_dir` or `{setting}")
    _write(private_file, _private_pem(Ed25519PrivateKey.generate()), 0o600)


def ensure_keys(settings: Settings) -> None:
    """Make the embedded mode's pair at first start; elsewhere, leave it to `salescast keys`.

    Learner and API may start at once: the first private key counts, and either tells its public
    one.
    """
    embedded = settings.log == "sqlite" and settings.store == "folder"
    private_file, public_file = key_files(settings)
    if not embedded or settings.signing_key_file:
        return
    with suppress(FileExistsError):
        if not private_file.exists():
            _make(private_file, public_file)
    if not public_file.exists():
        _tell(private_file, public_file)


def _tell(private_file: Path, public_file: Path) -> None:
    """Write a private key's public half, unless another process was faster."""
    with suppress(FileExistsError):
        _write(public_file, _pem(read_private(private_file).public_key()), 0o644)


def rotate_keys(private_file: Path, public_file: Path) -> tuple[str, Path]:
    """Make the pair to come: its public key joins the file, its private one waits beside.

    Returns
    -------
    The new key's name, and where its private half waits for ``switch_keys``.

    Raises
    ------
    SettingsError
        There are no keys yet, or a pair waits already.
    """
    following = _following(private_file)
    if following.exists():
        raise SettingsError(
            f"{following} waits already",
            remedy="Take it up with: salescast keys --switch",
        )
    read_private(private_file)
    before = read_public(public_file)
    key = Ed25519PrivateKey.generate()
    # The public key goes first: what is signed by the other one is never refused.
    _replace(public_file, _pem(*before, key.public_key()), 0o644)
    _write(following, _private_pem(key), 0o600)
    return name_of(key.public_key()), following


def switch_keys(private_file: Path, public_file: Path) -> str:
    """Sign with the pair to come from now on; its name. Running learners notice.

    Raises
    ------
    SettingsError
        None waits, or its public key was taken away.
    """
    following = _following(private_file)
    if not following.exists():
        raise SettingsError("no key waits", remedy="Make one with: salescast keys --rotate")
    name = name_of(read_private(following).public_key())
    if name not in {name_of(key) for key in read_public(public_file)}:
        raise SettingsError(f"{public_file} does not hold the key {name} that waits")
    following.replace(private_file)
    return name


def forget_key(private_file: Path, public_file: Path, name: str) -> None:
    """Take a public key away: what it signed is refused from now on.

    Raises
    ------
    SettingsError
        There is no such key, or it is the one that is signed with.
    """
    keys = read_public(public_file)
    if name not in {name_of(key) for key in keys}:
        raise SettingsError(f"{public_file} holds no key {name}")
    if name == name_of(read_private(private_file).public_key()):
        raise SettingsError(f"{name} is signed with; rotate first")
    _replace(public_file, _pem(*(key for key in keys if name_of(key) != name)), 0o644)


class KeyFile(Verifier):
    """The keys of a PEM file as it is now: one that was added is taken, one taken away is not."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = _stamp(file)
        super().__init__(*read_public(file))

    def known(self) -> Mapping[str, Ed25519PublicKey]:
        """The file's keys by name; those of before while it cannot be read."""
        stamp = _stamp(self._file)
        if stamp != self._stamp:
            try:
                self._keys = {name_of(key): key for key in read_public(self._file)}
                self._stamp = stamp
            except SettingsError as error:
                logger.warning("going on with the keys %s: %s", ", ".join(self._keys), error)
        return self._keys


class SigningKey(Signer):
    """The private key of a PEM file as it is now, once replicas take it."""

    def __init__(self, file: Path, verifier: Verifier | None) -> None:
        self._file = file
        self._stamp = _stamp(file)
        super().__init__(read_private(file), verifier)

    def key(self) -> Ed25519PrivateKey:
        """The file's key; the one of before while its public half is not known here."""
        stamp = _stamp(self._file)
        if stamp != self._stamp:
            try:
                key = read_private(self._file)
                name = name_of(key.public_key())
                if name in self.verifier.known():
                    self._key, self._stamp = key, stamp
                    logger.info("signing with the key %s from now on", name)
                else:
                    logger.warning("the key %s is not among the public ones: not taken up", name)
            except SettingsError as error:
                logger.warning("signing with the key of before: %s", error)
        return self._key


def load_signer(settings: Settings) -> Signer:
    """The owner's key, which follows its file; it takes what the public keys beside it signed.

    Raises
    ------
    SettingsError
        There is none, the file is no Ed25519 key, or replicas would refuse what it signs.
    """
    private_file, public_file = key_files(settings)
    verifier = KeyFile(public_file) if public_file.exists() else None
    signer = SigningKey(private_file, verifier)
    name = name_of(signer.key().public_key())
    if name not in signer.verifier.known():
        raise SettingsError(
            f"{public_file} does not hold the public half of {private_file}, {name}: "
            "what it signs would be refused",
            remedy="Put the two that belong together beside each other",
        )
    return signer


def load_verifier(settings: Settings) -> Verifier:
    """The replicas' keys, which follow their file.

    Raises
    ------
    SettingsError
        There is none, or the file is no Ed25519 key.
    """
    return KeyFile(key_files(settings)[1])


def read_private(file: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file.

    Raises
    ------
    SettingsError
    """
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
    return key


def read_public(file: Path) -> list[Ed25519PublicKey]:
    """The public keys in a PEM file, one after the other.

    Raises
    ------
    SettingsError
    """
    keys = []
    try:
        for block in _BLOCK.findall(file.read_bytes()):
            keys.append(load_pem_public_key(block))
    except OSError as error:
        raise SettingsError(
            f"cannot read the public key {file}: {error.strerror}", remedy=_MAKE
        ) from None
    except ValueError:
        keys = []
    found = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not keys or len(found) < len(keys):
        raise SettingsError(f"{file} is not an Ed25519 public key in PEM", remedy=_MAKE)
    return found


def _following(private_file: Path) -> Path:
    return private_file.with_name(f"{private_file.stem}.next{private_file.suffix}")


def _pem(*keys: Ed25519PublicKey) -> bytes:
    return b"".join(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys
    )


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file does."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _replace(file: Path, data: bytes, mode: int) -> None:
    """Replace a file whole, so that nobody reads half of it."""
    _draft(file, data, mode).replace(file)


def _write(file: Path, data: bytes, mode: int) -> None:
    """Make a file that appears whole; ``FileExistsError``: there is one already."""
    draft = _draft(file, data, mode)
    try:
        os.link(draft, file)
    finally:
        draft.unlink()


def _draft(file: Path, data: bytes, mode: int) -> Path:
    """Write to a hidden file beside the one that is meant."""
    handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(handle, "wb") as out:
        os.fchmod(handle, mode)
        out.write(data)
        out.flush()
        os.fsync(handle)
    return Path(draft)
