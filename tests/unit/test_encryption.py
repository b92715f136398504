"""Sealed values open in their place with a key of the ring, and nowhere else."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encryption import CannotOpen, Keyring, key_id, stem_of

OLD, NEW = b"o" * 32, b"n" * 32
PLACE = ("acme", "c1", "token")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_in_its_place(plaintext: str) -> None:
    ring = Keyring((OLD,))
    assert ring.open(ring.seal(plaintext, *PLACE), *PLACE) == plaintext


@pytest.mark.parametrize("place", [("acme", "c2", "token"), ("other", "c1", "token"), ("acme", "c1", "secret"), ("acme", "c1")])
def test_a_value_moved_to_another_place_does_not_open(place: tuple[str, ...]) -> None:
    ring = Keyring((OLD,))
    with pytest.raises(CannotOpen, match="altered, or belongs elsewhere"):
        ring.open(ring.seal("s3cret", *PLACE), *place)


def test_every_altered_part_is_noticed() -> None:
    ring = Keyring((OLD,))
    parts = ring.seal("s3cret", *PLACE).split(".")
    for number in (2, 3):
        body = bytearray(base64.urlsafe_b64decode(parts[number] + "=="))
        body[-1] ^= 1
        changed = [*parts]
        changed[number] = base64.urlsafe_b64encode(body).decode().rstrip("=")
        with pytest.raises(CannotOpen):
            ring.open(".".join(changed), *PLACE)


@pytest.mark.parametrize("added", ["=", "==", '=">', '=="><b>', " ", "\n", "!"])
def test_what_is_added_to_a_value_is_not_passed_over(added: str) -> None:
    ring = Keyring((OLD,))
    for plaintext in ("", "a", "ab"):
        with pytest.raises(CannotOpen):
            ring.open(ring.seal(plaintext, *PLACE) + added, *PLACE)


def test_equal_values_are_sealed_differently() -> None:
    ring = Keyring((OLD,))
    assert ring.seal("s3cret", *PLACE) != ring.seal("s3cret", *PLACE)


def test_a_ring_opens_with_every_key_and_seals_with_the_first() -> None:
    sealed = Keyring((OLD,)).seal("s3cret", *PLACE)
    ring = Keyring((NEW, OLD))
    assert ring.open(sealed, *PLACE) == "s3cret"
    assert ring.seal("s3cret", *PLACE).split(".")[1] == key_id(NEW)


def test_a_missing_key_is_named_and_the_value_is_not() -> None:
    sealed = Keyring((OLD,)).seal("s3cret", *PLACE)
    ring = Keyring((NEW,))
    assert not ring.knows(sealed)
    with pytest.raises(CannotOpen) as refused:
        ring.open(sealed, *PLACE)
    assert key_id(OLD) in str(refused.value)
    assert "s3cret" not in str(refused.value)


@given(st.text(max_size=100))
def test_anything_else_is_no_sealed_value(text: str) -> None:
    ring = Keyring((os.urandom(32),))
    assert not ring.knows(text)
    with pytest.raises(CannotOpen):
        ring.open(text, *PLACE)


def test_a_ring_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Keyring(())


def test_only_what_the_first_key_sealed_is_current() -> None:
    sealed = Keyring((OLD,)).seal("s3cret", *PLACE)
    both = Keyring((NEW, OLD))
    assert (both.knows(sealed), both.is_current(sealed)) == (True, False)
    assert both.is_current(both.seal("s3cret", *PLACE))
    assert not both.is_current("nonsense")


def test_a_resealed_value_opens_without_the_older_keys_and_keeps_its_stem() -> None:
    third = b"t" * 32
    sealed = [Keyring((OLD,)).seal("s3cret", *PLACE)]
    for keys in ((NEW, OLD), (third, NEW), (OLD, third)):
        sealed.append(Keyring(keys).resealed(sealed[-1], *PLACE))
    assert [Keyring((key,)).open(one, *PLACE) for key, one in zip((OLD, NEW, third, OLD), sealed, strict=True)] == ["s3cret"] * 4
    assert len({stem_of(one) for one in sealed}) == 1
    assert [len(one.split(".")) for one in sealed] == [4, 5, 5, 4]
    for one in sealed[1:]:
        with pytest.raises(CannotOpen):
            Keyring((OLD, NEW, third)).open(one, "acme", "c2", "token")
    with pytest.raises(CannotOpen):
        Keyring((OLD, NEW, third)).open(sealed[1].rpartition(".")[0] + "." + key_id(third), *PLACE)
