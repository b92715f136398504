"""Messages: one declaration, golden documents, ids that make redelivery harmless."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.envelope import NAMESPACE, caused_id, derived_id, open_envelope, open_message, rfc3339, seal
from shared.errors import Invalid
from shared.messages import DECLARATIONS, EventRouted, Message, RunRequested, RunStarted, declaration_of
from shared.messages.declaration import KEY, hashed_key
from shared.resources import ResourceChanged, ResourceRemoved
from shared.streams import STREAMS, WORK
from tests.support.golden import DOCUMENTS, FOLDER
from tests.support.released import released, tree_of

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ID = "01890000-0000-7000-8000-000000000000"


def example(annotation: Any, name: str) -> Any:
    """Return a plausible value for a field's type, the same every time."""
    if annotation is Any:
        return {"any": ["thing", 1]}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list:
        return [example(arguments[0], name)]
    if origin is dict:
        return {"a": example(arguments[1], name)}
    if origin is tuple:
        return tuple(example(argument, name) for argument in arguments)
    if type(None) in arguments:
        return example(next(one for one in arguments if one is not type(None)), name)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        hints = get_type_hints(annotation)
        return annotation(**{field: example(hints[field], field) for field in annotation.__struct_fields__})
    plain: dict[Any, Any] = {str: f"{name}-1", int: 7, float: 1.5, bool: True}
    return plain[annotation]


def sealed_example(cls: type[Message]) -> bytes:
    hints = get_type_hints(cls)
    message = cls(**{field: example(hints[field], field) for field in cls.__struct_fields__})
    made = seal(message, service=(declaration_of(cls).by or ("executor",))[0], org="default", now=NOW, id=ID)
    return msgspec.json.format(made.document, indent=2) + b"\n"


@pytest.mark.parametrize("type_", sorted(DECLARATIONS))
def test_a_message_looks_as_its_golden_document_says(type_: str) -> None:
    """A changed document is a changed API: write the file anew only after reading what readers will make of it."""
    _, golden = DOCUMENTS[type_]
    assert golden, f"a new message needs its golden document:\n{sealed_example(DECLARATIONS[type_][1]).decode()}"
    assert sealed_example(DECLARATIONS[type_][1]) == golden


@pytest.mark.parametrize("type_", sorted(DECLARATIONS))
def test_a_document_is_read_back_and_unknown_fields_are_ignored(type_: str) -> None:
    cls = DECLARATIONS[type_][1]
    document = json.loads(sealed_example(cls))
    document["data"]["added_later"] = 1
    document["extension"] = "x"
    envelope = open_envelope(json.dumps(document).encode())
    assert isinstance(open_message(envelope, cls), cls)


@pytest.mark.parametrize("path", sorted((FOLDER / "earlier").glob("*.json")), ids=lambda path: path.stem)
def test_a_document_of_an_earlier_version_is_read_as_todays(path: Path) -> None:
    envelope = open_envelope(path.read_bytes())
    old = json.loads(path.read_bytes())["data"]
    message = open_message(envelope)
    assert isinstance(message, ResourceChanged | ResourceRemoved)
    assert (message.id, message.name) == (old.get("id", old["key"]), old.get("name", old.get("integration")))
    if isinstance(message, ResourceChanged):
        refs = {field: old[field] for field in message.refs}
        assert message.spec | refs == {field: old[field] for field in message.spec}
        assert message.sealed == old.get("sealed", {})


def test_every_document_of_the_last_release_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    if (why_not := tree_of(released().commit, tmp_path / "released")) is not None:
        pytest.skip(why_not)
    today = {path.name: type_ for type_, (path, _) in DOCUMENTS.items()}
    for path in (tmp_path / "released" / "tests" / "golden").glob("*.json"):
        said = json.loads(path.read_bytes())["data"]
        read = msgspec.to_builtins(open_message(open_envelope(path.read_bytes()), DECLARATIONS[today[path.name]][1]))
        assert holds(read, said), path.name


def holds(read: Any, said: Any) -> bool:
    """Return whether all that was said has been read, be it among more."""
    if isinstance(said, dict):
        return isinstance(read, dict) and all(name in read and holds(read[name], value) for name, value in said.items())
    if isinstance(said, list):
        return len(read) == len(said) and all(map(holds, read, said))
    return bool(read == said)


def test_no_golden_document_is_left_over() -> None:
    assert set(FOLDER.glob("*.json")) == {path for path, _ in DOCUMENTS.values()}


def test_subject_stream_and_type_come_from_one_declaration() -> None:
    message = EventRouted(source="s1", event="e", delivery="d", subscription="b", workflow="w", run="r")
    declared = declaration_of(message)
    assert (declared.type_of(message), declared.subject(message), declared.stream) == ("event.routed", "event.s1.routed", "EVENTS")
    assert declared.pattern() == "event.*.routed"
    requested = RunRequested(run="r1", workflow="w", version="v", requested_by="x", timeout=1.0, priority="high")
    assert declaration_of(requested).subject(requested) == "run.r1.requested.high"
    assert declaration_of(requested).aggregate("r1") == "run.r1.>"


def test_every_message_has_a_stream_and_every_work_a_declared_subject() -> None:
    names = {stream.name for stream in STREAMS}
    assert {declared.stream for declared, _ in DECLARATIONS.values()} <= names
    for work in WORK:
        for cls, subject in zip(work.messages, work.subjects, strict=True):
            assert subject.split(".")[:3] == declaration_of(cls).pattern().split(".")[:3]


@given(st.text())
def test_nothing_unchecked_reaches_a_subject(key: str) -> None:
    message = RunStarted(run=key, attempt=1, executor="e", tier="none")
    if KEY.match(key):
        assert declaration_of(message).subject(message) == f"run.{key}.started"
    else:
        with pytest.raises(ValueError, match="cannot be a key"):
            declaration_of(message).subject(message)


@given(st.lists(st.text(), min_size=1))
def test_hashed_keys_fit_subjects(parts: list[str]) -> None:
    try:
        assert KEY.match(hashed_key(*parts))
    except UnicodeEncodeError:
        assert any(0xD800 <= ord(character) <= 0xDFFF for part in parts for character in part)


def test_a_caused_id_depends_on_cause_message_and_discriminator_only() -> None:
    message = EventRouted(source="s1", event="e", delivery="d", subscription="b", workflow="w", run="r")
    same = caused_id(ID, message, "b")
    assert same == caused_id(ID, msgspec.structs.replace(message, run="other"), "b")
    assert same != caused_id(ID, message, "c")
    assert same != caused_id(derived_id(ID, "x"), message, "b")
    assert same != caused_id(ID, msgspec.structs.replace(message, source="s2"), "b")


def test_a_chain_keeps_its_correlation_and_names_its_cause() -> None:
    message = RunStarted(run="r", attempt=1, executor="e", tier="none")
    first = seal(message, service="executor", org="default", now=NOW)
    assert first.envelope.correlationid == first.envelope.id
    assert first.envelope.causationid is None
    second = seal(message, service="executor", org="default", now=NOW, cause=first.envelope)
    assert second.envelope.correlationid == first.envelope.id
    assert second.envelope.causationid == first.envelope.id


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"\xff", b'{"specversion":"1.0"}'])
def test_what_is_no_envelope_is_invalid(document: bytes) -> None:
    with pytest.raises(Invalid):
        open_envelope(document)


def test_times_outside_end_with_z() -> None:
    assert rfc3339(NOW) == "2026-01-02T03:04:05.678901Z"


@pytest.mark.parametrize(
    "cause",
    [
        ID,
        ID.upper(),
        ID.replace("-", ""),
        f"{{{ID}}}",
        f"urn:uuid:{ID}",
        ID[0] + "-" + ID[1:8] + ID[9:],
        ID[:-1] + "_",
        ID[:-2] + "_a",
        ID[:-1],
        f"urn:uuiD:{ID}",
        "a sender's own",
        "",
        "é",
    ],
)
def test_an_id_that_derives_is_that_of_the_standard_library(cause: str) -> None:
    try:
        namespace = uuid.UUID(cause)
    except ValueError:
        namespace = uuid.uuid5(uuid.UUID(str(NAMESPACE)), cause)
    assert derived_id(cause, "event.accepted", "é", "1") == str(uuid.uuid5(namespace, "event.accepted/é/1"))
