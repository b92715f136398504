"""The command's own description of the kinds of resources is the platform's."""

from __future__ import annotations

from pathlib import Path

import millrace.cli
from millrace.cli.documents import ordered
from millrace.cli.kinds import kinds
from shared.resources import KINDS
from shared.resources.__main__ import document

HELD = Path(millrace.cli.__file__).with_name("kinds.json")


def test_the_command_knows_every_kind_as_it_is_declared() -> None:
    renewed = "`.venv/bin/python -m shared.resources > sdk/millrace/cli/kinds.json` makes it anew"
    assert HELD.read_bytes() == document(), renewed
    assert kinds().keys() == KINDS.keys()
    for noun, kind in kinds().items():
        declared = KINDS[noun]
        assert {field.name for field in kind.fields if field.is_secret} == declared.secret
        assert {field.name for field in kind.fields if field.is_secret or field.has_secrets} == declared.confidential
        assert {field.name for field in kind.fields if field.has_members} == declared.merged
        assert {field: noun for field, noun in kind.referring.items() if noun in KINDS} == declared.references


def test_what_others_refer_to_comes_first() -> None:
    order = ordered()
    assert sorted(order) == sorted(kinds())
    before = [("integration", "mapping"), ("connection", "mapping"), ("integration", "source"), ("source", "subscription")]
    assert all(order.index(one) < order.index(other) for one, other in before)
