"""Packs: what is done about each thing, whoever changed it and wherever it was cut off; and mistakes in what a pack says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.cli.documents import Faulty
from millrace.cli.kinds import kinds
from millrace.cli.packs.checklist import Check
from millrace.cli.packs.deciding import ABSENT, MOST, UNKNOWN, bases, decide
from millrace.cli.packs.fetching import fetched
from millrace.cli.packs.manifest import Manifest, manifest_of, why_not
from millrace.cli.packs.planning import FILES, Item, Plan, digest_of
from millrace.cli.packs.telling import tell_checks, tell_plan

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKS = sorted(path.parent for path in EXAMPLES.glob("*/millrace.yaml"))

# What a pack may have had, and what people may have made of it.
VERSIONS = st.sampled_from([ABSENT, "v1", "v2", "v3"])
STEPS = st.one_of(
    st.tuples(st.just("hand"), st.sampled_from([ABSENT, "h1", "h2"])),
    st.tuples(st.sampled_from(["apply", "cut before", "cut after"]), VERSIONS),
)


class Thing:
    """One thing of a pack: what is there, what the record has of it, and whether it is as somebody here left it."""

    def __init__(self) -> None:
        self.present = ABSENT
        self.base: list[str] | None = None
        self.by_hand = False

    def bring(self, how: str, wanted: str, *, force: bool = False) -> str:
        action = decide(self.base, self.present, wanted, force=force)
        if action == "conflict":
            return action
        self.base = bases(self.base, self.present, wanted)
        if how == "cut before":
            return action
        if action in {"create", "change", "remove"}:
            self.present, self.by_hand = wanted, False
        if how == "apply":
            self.base = [wanted] if wanted != ABSENT else None
        return action


@given(st.lists(STEPS, max_size=12), VERSIONS)
def test_what_somebody_has_changed_stays_and_what_was_cut_off_is_completed(steps: list[tuple[str, str]], last: str) -> None:
    thing = Thing()
    for how, value in [*steps, ("apply", last)]:
        before, was_by_hand, base = thing.present, thing.by_hand, thing.base
        if how == "hand":
            thing.by_hand = thing.by_hand or value != thing.present
            thing.present = value
            continue
        action = thing.bring(how, value)
        if was_by_hand and before != ABSENT and base != []:
            assert before in {thing.present, value}
        if not was_by_hand:
            assert action not in {"keep", "conflict"}
            assert how != "apply" or thing.present == value
    assert thing.bring("apply", last, force=True) != "conflict"
    assert thing.present == last


@pytest.mark.parametrize(
    ("base", "present", "wanted", "action"),
    [
        (None, ABSENT, "v1", "create"),
        (None, "h1", "v1", "conflict"),
        (None, "v1", "v1", "conflict"),  # the same by chance is not the pack's, and would be removed with it
        (["v1"], "v1", "v1", "none"),
        (["v1"], "v1", "v2", "change"),
        (["v1"], "v1", ABSENT, "remove"),
        (["v1"], "h1", "v1", "keep"),
        (["v1"], ABSENT, "v1", "keep"),
        (["v1"], "h1", "v2", "conflict"),
        (["v1"], "h1", ABSENT, "conflict"),
        (["v1"], ABSENT, ABSENT, "none"),
        ([ABSENT, "v1"], ABSENT, "v1", "create"),
        ([], "h1", "v1", "change"),
        (["v1"], "v1", UNKNOWN, "change"),
    ],
)
def test_each_case(base: list[str] | None, present: str, wanted: str, action: str) -> None:
    assert decide(base, present, wanted) == action


def test_a_record_holds_no_more_digests_than_the_platform_takes() -> None:
    declared = next(one for one in kinds()["pack"].fields if one.name == "files").schema["additionalProperties"]["maxItems"]
    assert declared == MOST
    assert len(bases(["a", "b", "c"], "a", "d")) == MOST
    assert bases(["a", "b", "c", "d"], "a", "e") == []


def test_a_digest_says_nothing_of_defaults_and_secrets() -> None:
    plain = {
        "name": "a",
        "adapter": "github",
        "settings": {},
        "enabled": True,
        "integration": None,
        "entity": None,
        "by_entity": False,
    }
    assert digest_of("source", plain) == digest_of("source", plain | {"secrets": ["secret"], "url": "http://x", "version": 7})
    assert digest_of("source", plain) != digest_of("source", plain | {"enabled": False})
    # What a later version adds to the kind has its default in the answers of that version alone.
    assert digest_of("source", {name: plain[name] for name in ("name", "adapter", "settings")}) != ""


GOOD = "name: a-pack\nversion: 1.0.0\n"


def pack(folder: Path, text: str, resources: str | None = None) -> Manifest:
    (folder / "millrace.yaml").write_text(text)
    if resources is not None:
        (folder / "resources").mkdir()
        (folder / "resources" / "all.yaml").write_text(resources)
    return manifest_of(folder, "here")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1.0.0\n", "1: name is to be text"),
        ("name: A\nversion: 1.0.0\n", "1: has 1 to 63 small letters"),
        ("name: a\nversion: 1.0\n", "2: version is to be text: put it into quotes"),
        (GOOD + "need: {}\n", "3: there is no 'need' here, but name, version, description, resources, needs"),
        (GOOD + "needs:\n  tokens: {}\n", "4: there is no 'tokens' here"),
        (GOOD + "needs:\n  connections:\n    hub:\n      token: x\n", "6: there is no 'token' here"),
        (GOOD + "needs:\n  domains:\n    - 5\n", "5: needs.domains.0 is to be text"),
        (GOOD + "needs:\n  domains: api.github.com\n", "4: needs.domains is to be a list"),
        (GOOD + "resources:\n  - ../other\n", "4: lies outside of the pack"),
        (GOOD + "resources:\n  - other\n", "4: other is not there"),
        (GOOD + "---\n" + GOOD, "1: holds 2 documents"),
        ("- a\n", "1: a manifest is to be an object"),
        ("name: [\n", "is not YAML"),
        (GOOD + "needs: &a [*a]\n", "nests deeper"),
        (GOOD + f"needs: {'[' * 5000}\n", "nests deeper"),
        (GOOD + "needs: !!python/object/apply:os.system [true]\n", "has a tag that means nothing here"),
        (
            GOOD + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9 if n else ['lol'] * 9)}]\n" for n in range(9)),
            "holds more than 100,000 values",
        ),
        (GOOD + f"description: {'x' * (4 << 20)}\n", "is larger than 4 MiB"),
        (GOOD + "resources: ['-']\n", "3: - is not there"),
    ],
)
def test_a_mistake_in_a_manifest_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Faulty) as raised:
        pack(tmp_path, text)
    assert said in str(raised.value).removeprefix(f"{tmp_path}/millrace.yaml:")


def test_a_folder_without_a_manifest_is_no_pack(tmp_path: Path) -> None:
    with pytest.raises(Faulty, match=r"millrace\.yaml: is not there"):
        manifest_of(tmp_path, "here")


RESOURCES = """\
kind: source
name: hub
adapter: github
settings: {secret: {$value: signing}}
---
kind: source
name: other
adapter: github
settings: {secret: {$env: HOME}}
---
kind: source
name: third
adapter: github
settings: {secret: {$value: nowhere}}
---
kind: key
name: k
role: admin
---
kind: secret
name: s
value: x
---
kind: variable
name: v
org: other
value: 1
---
kind: user
name: ada
"""


def test_a_pack_reads_nothing_of_the_machine_and_brings_nothing_that_is_the_organizations(tmp_path: Path) -> None:
    made = pack(tmp_path, GOOD + "needs:\n  values:\n    signing: what the sender signs with\n", RESOURCES)
    found, faults = made.documents("default", {})
    assert [(one.name, one.fields["settings"], one.unset) for one in found] == [("hub", {}, ("signing",))]
    said = [str(fault).partition("all.yaml:")[2] for fault in faults]
    assert set(said) == {
        "9: $env reads from this machine: name a value in needs.values, and use $value",
        "14: needs.values has no 'nowhere'",
        "16: a pack brings no key: it is the organization's to set",
        "20: a pack brings no secret: name it in needs.secrets",
        "24: a pack is of one organization: leave org out",
        "29: a pack brings no user: it is the platform's",
    }
    (given_one,), _ = made.documents("default", {"signing": "hunter2"})
    assert given_one.fields["settings"] == {"secret": "hunter2"}


def test_a_link_leads_to_nothing_of_the_machine(tmp_path: Path) -> None:
    folder, outside = tmp_path / "pack", tmp_path / "outside"
    (folder / "resources").mkdir(parents=True)
    outside.mkdir()
    (outside / "id_rsa").write_text("a key")
    (outside / "all.yaml").write_text("kind: variable\nname: v\nvalue: 1\n")
    (folder / "resources" / "one.yaml").symlink_to(outside / "all.yaml")
    (folder / "resources" / "two.yaml").symlink_to("/dev/zero")
    (folder / "resources" / "more").symlink_to(outside)
    made = pack(folder, GOOD)
    found, faults = made.documents("default", {})
    assert (found, [str(fault) for fault in faults]) == ([], [f"{folder}/resources/one.yaml: is a link to outside of the pack"])
    shutil.rmtree(folder / "resources")
    (folder / "resources").symlink_to(outside)
    assert made.documents("default", {})[0] == []
    (folder / "a_pack").symlink_to(outside)
    with pytest.raises(Faulty, match="a_pack: is a link: the code of a pack is a folder of its own"):
        pack(folder, GOOD)
    (outside / "millrace.yaml").write_text(GOOD)
    (folder / "millrace.yaml").unlink()
    (folder / "millrace.yaml").symlink_to(outside / "millrace.yaml")
    with pytest.raises(Faulty, match="is a link to outside of the pack"):
        manifest_of(folder, "here")


def test_every_kind_is_a_packs_or_says_why_not() -> None:
    refused = {noun for noun, kind in kinds().items() if why_not(kind)}
    assert {"key", "secret", "user", "organization", "identity_provider", "pack"} <= refused
    assert {"source", "subscription", "schedule", "connection", "variable", "integration", "mapping", "provider"} & refused == set()


@pytest.mark.parametrize(
    ("source", "how", "said"),
    [
        ("https://ada:hunter2@git.example.org/packs.git", {}, "an address with a user or a password would be recorded"),
        ("https://hunter2@git.example.org/packs.git", {}, "an address with a user or a password would be recorded"),
        ("https://[hunter2", {}, "that is no address"),
        ("https://git.example.org/packs.git", {"ref": "--upload-pack=x"}, "is no branch, tag or commit"),
        ("nowhere", {}, "is no folder, and no address"),
        (".", {"ref": "main"}, "--ref is for the address"),
        (".", {"folder": "../.."}, "leads out of it"),
        ("ext::sh -c true", {}, "is no folder, and no address"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_asked(source: str, how: dict[str, Any], said: str) -> None:
    with pytest.raises(click.UsageError, match=said) as raised, fetched(source, **{"ref": None, "folder": None} | how):
        pass
    assert "hunter2" not in str(raised.value)


def test_what_a_pack_says_is_one_line_that_speaks_to_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell_checks([Check("secret", "a", "missing", "is not there", "a\n[x] secret a: \x1b[2J", ("millrace secrets put 'a\nb'",))])
    assert capsys.readouterr().out.splitlines() == [
        r"[ ] secret a: a\n[x] secret a: \x1b[2J, is not there",
        r"      millrace secrets put 'a\nb'",
    ]


@pytest.mark.parametrize("folder", PACKS, ids=lambda folder: folder.name)
def test_the_examples_are_packs(folder: Path) -> None:
    made = manifest_of(folder, str(folder))
    found, faults = made.documents("default", {})
    assert faults == []
    assert made.name == folder.name
    assert found
    assert (folder / made.code).is_dir()
    assert {name for one in found for name in one.unset} == set(made.needs["values"])
    assert made.description
    assert f"packs apply examples/{made.name}" in (folder / "README.md").read_text()


def test_all_of_what_is_new_is_shown_before_it_is_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "a.py"
    code.write_text("\n".join(f"line_{number} = '\x1b[2K'" for number in range(1000)))
    found = Plan("p", "1", None, local={"p/a.py": code})
    fields = {"workflow": (None, "a"), "event": (None, "*")}
    found.items = [Item("subscription", "s", "create", "v", fields=fields), Item(FILES, "p/a.py", "create", "v")]
    nothing: Any = None
    tell_plan(nothing, found, lines=True)
    told = capsys.readouterr().out.splitlines()
    assert told[1:5] == ["create subscription s", '  workflow: "a"', '  event: "*"', "create file p/a.py"]
    assert told[5:7] == ["  --- nothing", "  +++ p/a.py (pack)"]
    assert told[8:] == [f"  +line_{number} = '\\x1b[2K'" for number in range(1000)]
    tell_plan(nothing, found, lines=False)
    assert capsys.readouterr().out.splitlines()[1:] == ["create subscription s", "create file p/a.py"]
