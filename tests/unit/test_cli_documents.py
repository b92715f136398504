"""Files of resources: what is read of them, and that each mistake is named with its file and line, and without any secret."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.cli.documents import MOST_VALUES, Document, read, written
from millrace.cli.values import MOST_SECRET

SECRET = "hunter2"


def of(folder: Path, text: str | bytes, name: str = "it.yaml") -> tuple[list[Document], list[str]]:
    """Return the resources of a file, and what is said of the rest, without the folder."""
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    found, faults = read([str(file)], "default")
    return found, [str(fault).replace(f"{folder}/", "") for fault in faults]


def only_fault(folder: Path, text: str | bytes, name: str = "it.yaml") -> str:
    found, faults = of(folder, text, name)
    assert (found, len(faults)) == ([], 1)
    assert SECRET not in faults[0]
    return faults[0]


def variable(folder: Path, value: str) -> Any:
    found, faults = of(folder, f"kind: variable\nname: it\nvalue: {value}\n")
    assert faults == []
    return found[0].fields["value"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("on", "off", "yes", "no", "y", "N", "On", "=", "nULL", "tRUE", ".inf", ".nan", "1_000", "0b1")],
        *[(text, text) for text in ("2026-11-28", "2026-11-28T10:00:00Z", "12:30:45", "1.2.3", "+", "-x", "0o8", "0xg", "e5")],
        *[(text, None) for text in ("", "~", "null", "Null", "NULL")],
        *[(text, True) for text in ("true", "True", "TRUE")],
        *[(text, False) for text in ("false", "False", "FALSE")],
        *[("5", 5), ("-5", -5), ("+5", 5), ("007", 7), ("0o17", 15), ("0x1F", 31), ("1e3", 1000.0), ("1.", 1.0), ("-.5E-1", -0.05)],
        *[("'5'", "5"), ('"true"', "true"), ("!!str 5", "5"), ("!!int '5'", 5), ('"\\ud83d\\ude00"', "\U0001f600")],
        *[("[1, on, {a: ~}]", [1, "on", {"a": None}]), ("{<<: {a: 1}}", {"<<": {"a": 1}}), ("{1: 2, ~: 3}", {"1": 2, "~": 3})],
        ("|\n  two\n  lines", "two\nlines\n"),
        ("{$env: HOME}", {"$env": "HOME"}),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    found = variable(tmp_path, text)
    assert (found, type(found)) == (value, type(value))


def test_a_file_holds_any_number_of_documents_each_with_its_lines(tmp_path: Path) -> None:
    text = "# first\n---\n---\nkind: source\nname: a\nadapter: hmac\nsettings:\n  # which\n  header: x\n---\n~\n---\n"
    found, faults = of(tmp_path, text + "kind: variable\nname: b\norg: beta\nvalue: [1,\n 2]\n...\n")
    assert faults == ["it.yaml:11: a resource is an object with kind and name"]
    assert [(one.kind.noun, one.name, one.org) for one in found] == [("variable", "b", "beta"), ("source", "a", "default")]
    lines = [(path, one.at(path).rpartition(":")[2]) for one in found for path in ("", "settings.header", "value.1", "no.such")]
    assert [line for _, line in lines] == ["13", "13", "17", "13", "4", "9", "4", "4"]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n", "\ufeff", "[]"])
def test_an_empty_file_holds_nothing(tmp_path: Path, text: str) -> None:
    assert of(tmp_path, text) == ([], [])


def test_json_is_read_with_tabs_and_as_a_list(tmp_path: Path) -> None:
    many = [{"kind": "variable", "name": f"v{number}", "value": {"n": [number, "\t/\u00e9"]}} for number in range(3)]
    for text in (json.dumps(many, indent="\t"), json.dumps(many), "\ufeff" + json.dumps(many, ensure_ascii=False)):
        found, faults = of(tmp_path, text, "many.json")
        assert faults == []
        assert [one.fields["value"] for one in found] == [one["value"] for one in many]
    assert found[1].where.endswith("many.json:1")


def test_a_folder_is_read_whole_but_for_what_is_hidden_or_something_else(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "in/side/c.json", ".git/d.yaml", ".e.yaml", "f.txt", "g.yaml/h.yaml"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'{{"kind": "variable", "name": "{file.stem}", "value": 1}}')
    (tmp_path / "again").symlink_to(tmp_path / "a.yaml")
    found, faults = read([str(tmp_path), str(tmp_path / "a.yaml"), str(tmp_path / "again"), str(tmp_path / "f.txt")], "default")
    assert ([one.name for one in found], faults) == (["a", "b", "h", "c", "f"], [])
    with pytest.raises(click.UsageError, match=r"nowhere is not there"):
        read([str(tmp_path / "nowhere")], "default")


MISTAKES = {
    "kind: source\nname: a\nadapter: x\nname: b\n": "it.yaml:4: 'name' stands twice in one object",
    "kind: source\nname: a\nsettings:\n  a: 1\n  a: 2\n": "it.yaml:5: 'a' stands twice in one object",
    "\nkind: sauce\nname: a\n": "it.yaml:2: kind is to be one of connection, form, identity_provider, integration, .*, not 'sauce'",
    "name: a\nkind: {token: hunter2}\n": "it.yaml:2: kind is to be one of [^']*",
    "name: a\n": "it.yaml:1: kind is to be one of [^']*",
    "kind: source\n\nname: 5\n": "it.yaml:3: name is to be text",
    "kind: source\nname: ''\n": "it.yaml:2: name is to be text",
    "kind: source\nadapter: x\n": "it.yaml:1: name is to be text",
    "kind: source\nname: a\norg: 5\n": "it.yaml:3: org is to be the name of an organization",
    'kind: source\nname: a\norg: "a\\nb"\n': "it.yaml:3: org is to be the name of an organization",
    "kind: secret\nname: a\nvalue: x\nvalu: hunter2\n": "it.yaml:4: secret has no field 'valu': there are readers, value",
    "kind: secret\nname: a\n? [value]\n: hunter2\n": "it.yaml:3: a field's name is text",
    "kind: secret\nname: a\nvalue: !hunter2 x\n": "it.yaml:3: has a tag that means nothing here",
    "kind: secret\nname: a\nvalue: !!binary aHVudGVyMg==\n": "it.yaml:3: has a tag that means nothing here",
    "kind: secret\nname: a\nvalue: !!python/object/apply:os.system [x]\n": "it.yaml:3: has a tag that means nothing here",
    "kind: secret\nname: a\nvalue: !!int hunter2\n": "it.yaml:3: is no int",
    "kind: secret\nname: a\nvalue: *hunter2\n": "it.yaml:3: is not YAML: found undefined alias",
    "kind: secret\nname: a\nvalue: !hunter2!x y\n": "it.yaml:3: is not YAML: found undefined tag handle",
    "kind: variable\nname: a\nvalue: b: c\n": "it.yaml:3: is not YAML: .*",
    'kind: secret\nname: a\nvalue: "hunter2\n': "it.yaml:4: is not YAML: .*",
    "kind: secret\nname: a\n\tvalue: hunter2\n": "it.yaml:3: is not YAML: .*",
    "kind: secret\nname: a\nvalue: hunter2\0\n": "it.yaml:3: is not YAML: it holds the character 0x0000",
    "kind: variable\nname: a\nvalue: 1e999\n": "it.yaml:3: is a larger number than is taken",
    f"kind: variable\nname: a\nvalue: {'9' * 5000}\n": "it.yaml:3: is a longer number than is taken",
    f"kind: variable\nname: a\nvalue: 0x{'f' * 5000}\n": "it.yaml:3: is a longer number than is taken",
    'kind: variable\nname: "\\ud800"\nvalue: 1\n': "it.yaml:2: holds half of a surrogate pair",
    'kind: variable\nname: a\nvalue: {"\\udc80": 1}\n': "it.yaml:3: holds half of a surrogate pair",
    'kind: secret\nname: a\nvalue: {$env: "\\ud800"}\n': "it.yaml:3: holds half of a surrogate pair",
    'kind: secret\nname: a\nvalue: {$file: "\\ud800"}\n': "it.yaml:3: holds half of a surrogate pair",
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), MISTAKES.items())
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    fault = only_fault(tmp_path, text)
    assert re.fullmatch(said, fault), fault


def test_what_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    assert only_fault(tmp_path, b"kind: secret\nname: a\nvalue: hunter2\xff\n").startswith("it.yaml:3: is not UTF-8: ")


def test_the_others_are_read_beside_a_mistake(tmp_path: Path) -> None:
    good = "kind: variable\nname: {}\nvalue: 1\n---\n"
    text = good.format("a") + "kind: variable\nname: b\nval: 1\n---\n" + good.format("c") + good.format("a") + "a: b: c\n"
    found, faults = of(tmp_path, text)
    assert [one.name for one in found] == ["a", "c"]
    assert [fault.partition(": ")[0] for fault in faults] == ["it.yaml:7", "it.yaml:13", "it.yaml:17"]
    assert "stands at" in faults[1]
    assert faults[1].endswith("it.yaml:1 as well")


def test_the_organization_that_is_meant_is_no_other_one(tmp_path: Path) -> None:
    text = "kind: variable\nname: a\nvalue: 1\n---\nkind: variable\nname: a\norg: {}\nvalue: 1\n"
    assert [one.org for one in of(tmp_path, text.format("beta"))[0]] == ["default", "beta"]
    found, faults = of(tmp_path, text.format("default"))
    assert (len(found), len(faults)) == (1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "kind: variable\nname: it\nvalue: " + "[" * 2000 + "]" * 2000,
        "kind: variable\nname: it\nvalue: " + "[" * 2000,
        "kind: variable\nname: it\nvalue: " + "{a: " * 2000 + "}" * 2000,
        "kind: variable\nname: it\nvalue: &a [*a]\n",
    ],
)
def test_what_nests_without_end_is_refused(tmp_path: Path, text: str) -> None:
    assert only_fault(tmp_path, text) == "it.yaml:1: nests deeper than anything is taken"


def test_aliases_stand_for_what_they_name_and_cannot_explode(tmp_path: Path) -> None:
    assert variable(tmp_path, "[&a {b: 1}, *a]") == [{"b": 1}, {"b": 1}]
    doubled = "".join(f"  - &a{number + 1} [*a{number}, *a{number}]\n" for number in range(40))
    said = only_fault(tmp_path, "kind: variable\nname: it\nvalue:\n  - &a0 x\n" + doubled)
    assert re.fullmatch(rf"it.yaml:\d+: holds more than {MOST_VALUES:,} values", said)


def test_a_secret_may_be_in_the_environment_or_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "token").write_text(SECRET + "\r\n")
    of_a_source = "kind: source\nname: {}\nadapter: hmac\nsettings: {{secret: {}, header: {{a: 1, b: 2}}}}\n---\n"
    of_a_secret = "kind: secret\nname: {}\nvalue: {}\n---\n"
    text = "".join(one.format(reference[1:5], reference) for one in (of_a_source, of_a_secret) for reference in REFERENCES)
    found, faults = of(tmp_path, text)
    assert faults == []
    for one in found:
        assert one.fields.get("value", one.fields.get("settings", {}).get("secret")) == SECRET


REFERENCES = ("{$env: TOKEN}", "{$file: in/token}")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("{$env: hunter3}", "the environment variable hunter3 is not set"),
        ("{$env: [hunter2]}", r"\$env takes a name"),
        ("{$file: 5}", r"\$file takes a name"),
        ('{$file: "a\\0b"}', r"\$file takes a name"),
        ("{$file: nowhere}", "nowhere cannot be read: No such file or directory."),
        ("{$file: bytes}", "bytes is not text."),
        ("{$file: .}", ".* cannot be read: Is a directory."),
        ("{$file: /dev/zero}", "/dev/zero cannot be read: it is no regular file."),
        ("{$file: pipe}", "pipe cannot be read: it is no regular file."),
        ("{$file: large}", f"large has more than {MOST_SECRET} bytes."),
    ],
)
def test_a_secret_that_is_not_where_it_should_be_is_named_with_its_line(tmp_path: Path, reference: str, said: str) -> None:
    (tmp_path / "bytes").write_bytes(SECRET.encode() + b"\xff")
    (tmp_path / "large").write_bytes(b"x" * (MOST_SECRET + 1))
    os.mkfifo(tmp_path / "pipe")
    fault = only_fault(tmp_path, f"kind: source\nname: a\nadapter: hmac\nsettings:\n  secret: {reference}\n")
    assert re.fullmatch(rf"it.yaml:5: {said}", fault), fault


def test_a_document_of_the_current_folder_takes_no_secret_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SECRET.encode())))
    Path("it.yaml").write_text('kind: secret\nname: a\nvalue: {$file: "-"}\n')
    found, (fault,) = read(["it.yaml"], "default")
    assert (found, str(fault)) == ([], "it.yaml:3: - cannot be read: No such file or directory.")


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text() | st.from_regex(r"\A[-+.0-9eExXoO_:~<=yYnNtTfF]{1,6}\Z")
JSON = st.recursive(LEAVES | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))


@settings(max_examples=50)
@given(JSON)
def test_what_is_written_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    one = {"kind": "variable", "name": "it", "org": "default", "value": value}
    text = written([one, one | {"name": "other"}])
    found, faults = of(folder, text)
    assert faults == []
    assert [json.dumps(found[0].fields["value"]), len(found)] == [json.dumps(value), 2]
    # Readers of YAML 1.1 agree.
    assert [json.dumps(read_["value"]) for read_ in yaml.safe_load_all(text)] == [json.dumps(value)] * 2


def test_what_is_written_does_not_speak_to_the_terminal() -> None:
    assert "\u00e9" in written([{"value": "\u00e9"}])
    text = written([{"value": "\u00e9 \u202e \x1b[31m \x9b"}])
    assert text.isascii()
    assert "\x1b" not in text
