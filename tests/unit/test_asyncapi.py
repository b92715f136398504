"""The AsyncAPI document holds every declaration, and describes what is really on the bus."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from faststream.specification.asyncapi.v3_0_0.schema.schema import ApplicationSchema

from shared import asyncapi
from shared.envelope import CONTENT_TYPE, open_envelope
from shared.messages import DECLARATIONS
from shared.messages.declaration import class_of
from shared.questions import ASKED
from tests.support.golden import DOCUMENTS

DOCUMENT = asyncapi.document()


def validator(message: str) -> Any:
    return jsonschema_rs.validator_for(
        {"$ref": f"#/components/messages/{message}/payload", "components": DOCUMENT["components"]}, validate_formats=True
    )


def nodes(value: Any) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(node for one in inner for node in nodes(one))]


def test_it_is_a_document_of_asyncapi_3() -> None:
    read = ApplicationSchema.model_validate(DOCUMENT)
    assert (read.asyncapi, read.info.title) == ("3.0.0", "Millrace")
    for key in (*DOCUMENT["components"]["messages"], *DOCUMENT["components"]["schemas"]):
        assert re.fullmatch(r"[\w.-]+", key)
    for node in nodes(DOCUMENT):
        if isinstance(reference := node.get("$ref"), str):
            found: Any = DOCUMENT
            for name in reference.removeprefix("#/").split("/"):
                found = found[name]


def test_every_message_is_there_with_its_subject_schema_and_writers() -> None:
    for declared, cls in DECLARATIONS.values():
        channel, message = DOCUMENT["channels"][cls.__name__], DOCUMENT["components"]["messages"][cls.__name__]
        assert re.sub(r"\{\w+\}", "*", channel["address"]).startswith(declared.pattern().removesuffix(">").removesuffix(".*"))
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == channel["parameters"].keys() <= set(cls.__struct_fields__)
        assert channel.get("x-told-as") == (None if declared.noun == "timer" else f"org.{{org}}.{channel['address']}")
        assert message["name"] == declared.type
        schema = DOCUMENT["components"]["schemas"][cls.__name__]
        assert schema["properties"].keys() == set(cls.__struct_encode_fields__)
        assert {f"{service}.send.{cls.__name__}" for service in declared.by} <= DOCUMENT["operations"].keys()
    assert DOCUMENT["operations"]["events.receive.WebhookReceived"]["action"] == "receive"


def test_every_question_and_command_is_there_with_its_answer() -> None:
    for asked, cls in ASKED.values():
        assert DOCUMENT["channels"][cls.__name__]["address"] == asked.subject
        operation = DOCUMENT["operations"][f"{asked.service}.receive.{cls.__name__}"]
        assert operation["reply"]["channel"]["$ref"] == f"#/channels/{cls.__name__}.answer"
        assert {f"{service}.send.{cls.__name__}" for service in asked.by} <= DOCUMENT["operations"].keys()
    answer = validator("GetRun.answer")
    assert answer.is_valid({"ok": None, "error": {"kind": "not_found", "detail": "there is no such run"}})
    assert not answer.is_valid({"ok": {}, "error": None})


@pytest.mark.parametrize("type_", DOCUMENTS)
def test_what_is_on_the_bus_fits_its_description(type_: str) -> None:
    stored = json.loads(DOCUMENTS[type_][1])
    cls = class_of(stored["type"])
    assert cls is not None
    fits = validator(cls.__name__)
    fits.validate(stored)
    assert not fits.is_valid(stored | {"type": "other.thing"})
    assert not fits.is_valid(stored | {"data": {}})


@pytest.mark.parametrize(("type_", "document"), [(type_, document) for type_, (_, document) in DOCUMENTS.items()])
def test_every_message_is_a_cloud_event_to_the_sdk_of_that_project(type_: str, document: bytes) -> None:
    read = from_structured_event(HTTPMessage({"Content-Type": CONTENT_TYPE}, document))
    ours = open_envelope(document)
    assert re.fullmatch(type_.replace(".*", r"\..+"), read.get_type())
    assert (read.get_id(), read.get_source(), read.get_subject()) == (ours.id, ours.source, ours.subject)
    assert (read.get_time(), read.get_attributes()["org"]) == (ours.time, ours.org)
    assert read.get_data() == json.loads(bytes(ours.data))
