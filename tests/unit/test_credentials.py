"""The secrets of an installation are made once, kept private, and never guessed."""

import base64
import stat
from pathlib import Path

import msgspec
import pytest

from deploy.credentials import SERVICES, load_or_create
from deploy.errors import StartError


def test_credentials_are_made_once(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "credentials.json", None)
    assert load_or_create(tmp_path / "credentials.json", None) == first


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    one = load_or_create(tmp_path / "one", None)
    two = load_or_create(tmp_path / "two", None)
    secrets = [
        {made.nats_admin, made.postgres_admin, made.admin_key, *made.nats.values(), *made.postgres.values(), *made.keys}
        | {made.nats_issuer}
        for made in (one, two)
    ]
    assert len(secrets[0]) == 5 + 2 * len(SERVICES)
    assert secrets[0].isdisjoint(secrets[1])


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    load_or_create(tmp_path / "credentials.json", None)
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["credentials.json"]


def test_keys_are_256_bits(tmp_path: Path) -> None:
    (key,) = load_or_create(tmp_path / "credentials.json", None).keys
    assert len(base64.b64decode(key, validate=True)) == 32


def test_a_made_admin_key_is_recognisable(tmp_path: Path) -> None:
    assert load_or_create(tmp_path / "credentials.json", None).admin_key.startswith("mr_")


def test_a_given_admin_key_replaces_the_kept_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    before = load_or_create(path, None)
    after = load_or_create(path, "mr_given-by-the-operator")
    assert after.admin_key == "mr_given-by-the-operator"
    assert (after.keys, after.nats, after.postgres) == (before.keys, before.nats, before.postgres)
    assert load_or_create(path, None) == after


@pytest.mark.parametrize("key", ["mr_short", "mr_with a space in it", "mr_line\nbreak-in-the-key"])
def test_an_unusable_admin_key_is_refused_before_anything_is_written(tmp_path: Path, key: str) -> None:
    with pytest.raises(StartError, match="MILLRACE_ADMIN_KEY"):
        load_or_create(tmp_path / "credentials.json", key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"nats_admin": "a"', b"\xff\xfe"])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "credentials.json"
    path.write_bytes(content)
    with pytest.raises(StartError, match="damaged"):
        load_or_create(path, None)
    assert path.read_bytes() == content


def test_those_of_a_version_without_subscribers_get_an_issuer_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    before = load_or_create(path, None)
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(before), "nats_issuer": ""}))
    after = load_or_create(path, None)
    assert len(base64.b64decode(after.nats_issuer, validate=True)) == 32
    assert msgspec.structs.replace(after, nats_issuer=before.nats_issuer) == before
    assert load_or_create(path, None) == after


def test_secrets_do_not_show_in_a_repr(tmp_path: Path) -> None:
    made = load_or_create(tmp_path / "credentials.json", None)
    assert made.admin_key not in repr(made)
    assert made.keys[0] not in repr(made)
