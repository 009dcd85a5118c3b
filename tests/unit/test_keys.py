"""Signing keys: who makes them, who may read them, and what is said of a wrong file."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from learner.keys import (
    ensure_keys,
    forget_key,
    key_files,
    load_signer,
    load_verifier,
    make_keys,
    read_private,
    read_public,
    rotate_keys,
    switch_keys,
)
from learner.manifest import Manifest, name_of, signed_by
from learner.shard import Shard
from learner.snapshot import describe
from stream.errors import SettingsError, SnapshotCorrupt
from stream.settings import Settings

LOADERS: list[Callable[[Settings], object]] = [load_signer, load_verifier]


def chosen(folder: Path, **changed: Any) -> Settings:
    return Settings(data_dir=str(folder), **changed)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_the_private_key_is_for_its_owner_only(tmp_path: Path) -> None:
    private, public = tmp_path / "deep" / "signing.pem", tmp_path / "deep" / "verify.pem"
    before = os.umask(0)  # the widest: the mode must be asked for, not left to chance
    try:
        make_keys(private, public)
    finally:
        os.umask(before)
    assert mode(private) == 0o600
    assert mode(private.parent) == 0o700
    assert b"PRIVATE" in private.read_bytes()
    assert b"PRIVATE" not in public.read_bytes()


def test_a_pair_belongs_together_and_no_two_are_alike(tmp_path: Path) -> None:
    one, other = chosen(tmp_path / "one"), chosen(tmp_path / "other")
    for settings in (one, other):
        ensure_keys(settings)
    assert load_signer(one).verifier.name == load_verifier(one).name
    assert load_verifier(one).name != load_verifier(other).name


@pytest.mark.parametrize("there", [0, 1], ids=["private", "public"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: int) -> None:
    files = tmp_path / "signing.pem", tmp_path / "verify.pem"
    files[there].write_bytes(b"mine")
    with pytest.raises(SettingsError, match=files[there].name):
        make_keys(*files)
    assert files[there].read_bytes() == b"mine"
    assert not files[1 - there].exists()


def test_the_embedded_mode_makes_its_keys_once(tmp_path: Path) -> None:
    settings = chosen(tmp_path)
    ensure_keys(settings)
    made = [file.read_bytes() for file in key_files(settings)]
    ensure_keys(settings)
    assert [file.read_bytes() for file in key_files(settings)] == made


@pytest.mark.parametrize(
    "changed",
    [{"log": "kafka"}, {"store": "redis"}, {"log": "kafka", "store": "redis"}],
    ids=str,
)
def test_elsewhere_keys_are_given_and_not_made(tmp_path: Path, changed: Any) -> None:
    settings = chosen(tmp_path, **changed)
    ensure_keys(settings)
    assert list(tmp_path.rglob("*")) == []
    for load in LOADERS:
        with pytest.raises(SettingsError, match="salescast keys"):
            load(settings)


def test_a_named_key_that_is_not_there_is_not_made_either(tmp_path: Path) -> None:
    settings = chosen(tmp_path, signing_key_file=str(tmp_path / "given.pem"))
    ensure_keys(settings)
    with pytest.raises(SettingsError, match=r"given\.pem"):
        load_signer(settings)


def test_keys_are_read_from_where_the_settings_say(tmp_path: Path) -> None:
    files = tmp_path / "a.pem", tmp_path / "b.pem"
    make_keys(*files)
    settings = chosen(
        tmp_path, log="kafka", signing_key_file=str(files[0]), verify_key_file=str(files[1])
    )
    assert load_signer(settings).verifier.name == load_verifier(settings).name
    assert not (tmp_path / "keys").exists()


def test_a_file_that_is_no_key_of_its_kind_is_named(tmp_path: Path) -> None:
    ensure_keys(chosen(tmp_path))
    private, public = key_files(chosen(tmp_path))
    other = generate_private_key(SECP256R1())
    curve, point = tmp_path / "curve.pem", tmp_path / "point.pem"
    curve.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    point.write_bytes(
        other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    text = tmp_path / "text.pem"
    text.write_bytes(b"not a key")
    for file in (public, curve, text):
        settings = chosen(tmp_path, signing_key_file=str(file))
        with pytest.raises(SettingsError, match=f"{file.name} is not an Ed25519 private key"):
            load_signer(settings)
    for file in (private, point, text):
        settings = chosen(tmp_path, verify_key_file=str(file))
        with pytest.raises(SettingsError, match=f"{file.name} is not an Ed25519 public key"):
            load_verifier(settings)


@pytest.mark.parametrize("load", LOADERS, ids=["private", "public"])
def test_a_folder_instead_of_a_key_is_named(
    tmp_path: Path, load: Callable[[Settings], object]
) -> None:
    settings = chosen(tmp_path, signing_key_file=str(tmp_path), verify_key_file=str(tmp_path))
    with pytest.raises(SettingsError, match=tmp_path.name):
        load(settings)


def test_a_key_appears_whole_to_who_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "signing.pem", tmp_path / "verify.pem"
    written: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        fsync(handle)
        written.append((files[0].exists(), files[1].exists()))

    monkeypatch.setattr(os, "fsync", watched)
    make_keys(*files)
    assert written == [(False, False), (True, False)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["signing.pem", "verify.pem"]


# -- rotation ------------------------------------------------------------------------------


def manifest() -> Manifest:
    return describe(Shard(Settings(partitions=1), 0), {}, topic_id="t", lineage=1, parent=None,
                    created_us=0)  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    ensure_keys(chosen(tmp_path))
    return key_files(chosen(tmp_path))


def test_a_new_key_is_taken_before_anything_is_signed_with_it(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    """By verifiers and signers that were loaded before, at each step of a rotation."""
    settings, one = chosen(tmp_path), manifest()
    signer, verifier = load_signer(settings), load_verifier(settings)
    first = signer.seal(one)
    name, following = rotate_keys(*files)
    assert mode(following) == 0o600
    assert signer.seal(one) == first, "it waits until it is switched to"
    assert name in verifier.known()
    assert switch_keys(*files) == name
    second = signer.seal(one)
    assert (signed_by(first), signed_by(second)) == (next(iter(verifier.known())), name)
    for envelope in (first, second):
        for takes in (verifier, signer.verifier, load_verifier(settings)):
            assert takes.open(envelope, 0, one.snapshot) == one
    forget_key(*files, signed_by(first))
    for takes in (verifier, signer.verifier, load_verifier(settings)):
        with pytest.raises(SnapshotCorrupt, match=f"not signed by the key {name}"):
            takes.open(first, 0, one.snapshot)
        assert takes.open(second, 0, one.snapshot) == one


def test_steps_of_a_rotation_come_in_their_order(files: tuple[Path, Path]) -> None:
    with pytest.raises(SettingsError, match="no key waits"):
        switch_keys(*files)
    (old,) = map(name_of, read_public(files[1]))
    with pytest.raises(SettingsError, match="rotate first"):
        forget_key(*files, old)
    new, _ = rotate_keys(*files)
    with pytest.raises(SettingsError, match="waits already"):
        rotate_keys(*files)
    forget_key(*files, new)
    with pytest.raises(SettingsError, match=f"does not hold the key {new} that waits"):
        switch_keys(*files)
    with pytest.raises(SettingsError, match=f"holds no key {new}"):
        forget_key(*files, new)


def test_a_signing_key_that_replicas_do_not_know_is_not_signed_with(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    settings, one = chosen(tmp_path), manifest()
    signer = load_signer(settings)
    first = signer.seal(one)
    make_keys(tmp_path / "other.pem", tmp_path / "other-public.pem")
    (tmp_path / "other.pem").replace(files[0])
    assert signer.seal(one) == first
    with pytest.raises(SettingsError, match="does not hold the public half"):
        load_signer(settings)


def test_keys_stay_as_they_were_while_their_file_cannot_be_read(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    verifier = load_verifier(chosen(tmp_path))
    before = verifier.name
    good = files[1].read_bytes()
    files[1].write_bytes(good[:-40])
    assert verifier.name == before
    files[1].unlink()
    assert verifier.name == before
    files[1].write_bytes(good + b"\n" + good)
    assert verifier.name == before
    for bad in (b"", good + b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        files[1].write_bytes(bad)
        with pytest.raises(SettingsError, match="not an Ed25519 public key"):
            load_verifier(chosen(tmp_path))


def test_who_starts_at_the_same_time_ends_with_the_same_pair(tmp_path: Path) -> None:
    settings = chosen(tmp_path)
    start = threading.Barrier(8)
    failed: list[BaseException] = []

    def ensure() -> None:
        start.wait()
        try:
            ensure_keys(settings)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    private, public = key_files(settings)
    assert [read_private(private).public_key()] == read_public(public)
    assert sorted(path.name for path in private.parent.iterdir()) == [private.name, public.name]
