"""The AsyncAPI 3.0 document of all messages, questions and commands, made from their declarations alone."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import msgspec

from shared.envelope import CONTENT_TYPE, Envelope
from shared.errors import ErrorDocument
from shared.messages import DECLARATIONS
from shared.messages.declaration import Declaration
from shared.questions import ASKED
from shared.schemas import portable
from shared.streams import WORK
from shared.subscribers import READABLE, TOLD_ORG

_JSON = "application/json"


def document() -> dict[str, Any]:
    """Return the document, as JSON: each class has a channel and a message of its name, and each answer one without an address."""
    made = _Document()
    for declared, cls in DECLARATIONS.values():
        parts = {"type": _type(declared), "data": made.schema(cls)}
        payload = {"allOf": [made.schema(Envelope), {"type": "object", "properties": parts}]}
        channel: dict[str, Any] = {"address": _address(declared), "parameters": _parameters(declared), "x-stream": declared.stream}
        if declared.noun in READABLE:
            # Where a key of an organization hears it.
            channel["x-told-as"] = f"{TOLD_ORG}.{{org}}.{channel['address']}"
        made.add(cls.__name__, channel, _described(cls, declared.type) | {"contentType": CONTENT_TYPE, "payload": payload})
        for service in declared.by:
            made.operate("send", service, cls.__name__)
    for work in WORK:
        for cls in work.messages:
            made.operate("receive", work.service, cls.__name__)
    for asked, question in ASKED.values():
        name, reply = question.__name__, f"{question.__name__}.answer"
        message = _described(question, asked.subject) | {"contentType": _JSON, "payload": made.schema(question)}
        made.add(name, {"address": asked.subject}, message)
        ok = {"properties": {"ok": made.schema(asked.answer), "error": {"type": "null"}}, "required": ["ok"]}
        refused = {"properties": {"error": made.schema(ErrorDocument)}, "required": ["error"]}
        answer = {"name": reply, "contentType": _JSON, "payload": {"type": "object", "oneOf": [ok, refused]}}
        made.add(reply, {"address": None}, answer)
        made.operate("receive", asked.service, name, reply)
        for service in asked.by:
            made.operate("send", service, name, reply)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Millrace",
            "version": version("millrace"),
            "description": "What the services of Millrace store on the bus, in CloudEvents 1.0 envelopes, and ask each other.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": made.channels,
        "operations": made.operations,
        "components": {"messages": made.messages, "schemas": made.schemas},
    }


class _Document:
    """The parts of the document while it is made."""

    def __init__(self) -> None:
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.messages: dict[str, Any] = {}
        types = [Envelope, ErrorDocument, *(cls for _, cls in DECLARATIONS.values())]
        types += [type_ for asked, question in ASKED.values() for type_ in (question, asked.answer)]
        found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        self.schemas: dict[str, Any] = portable(components)
        self._found: dict[int, dict[str, Any]] = dict(zip(map(id, types), map(portable, found), strict=True))

    def schema(self, type_: Any) -> dict[str, Any]:
        """Return the schema of a declared type."""
        return self._found[id(type_)]

    def add(self, name: str, channel: dict[str, Any], message: dict[str, Any]) -> None:
        """Add a message and its channel."""
        self.messages[name] = message
        self.channels[name] = channel | {"messages": {name: {"$ref": f"#/components/messages/{name}"}}}

    def operate(self, action: str, service: str, name: str, reply: str | None = None) -> None:
        """Add that a service sends or receives a message, and which one is the reply to it."""
        operation = {"action": action, "channel": {"$ref": f"#/channels/{name}"}, "tags": [{"name": service}]}
        if reply is not None:
            operation["reply"] = {"channel": {"$ref": f"#/channels/{reply}"}}
        self.operations[f"{service}.{action}.{name}"] = operation


def _described(cls: type, name: str) -> dict[str, Any]:
    description = inspect.getdoc(cls) or ""
    return {"name": name, "title": cls.__name__, "summary": description.partition("\n")[0], "description": description}


def _type(declared: Declaration) -> dict[str, Any]:
    if declared.verb_field is None:
        return {"const": declared.type}
    return {"type": "string", "pattern": rf"^{declared.noun}\."}


def _parameters(declared: Declaration) -> dict[str, Any]:
    fields = {
        declared.key_field: "The key.",
        declared.verb_field: "The last part of the type.",
        declared.suffix: "May be left out.",
        declared.ending: "Left out where it is null.",
    }
    return {field: {"description": description} for field, description in fields.items() if field is not None}


def _address(declared: Declaration) -> str:
    verb = declared.verb if declared.verb_field is None else f"{{{declared.verb_field}}}"
    suffix = "".join(f".{{{field}}}" for field in (declared.suffix, declared.ending) if field is not None)
    return f"{declared.noun}.{{{declared.key_field}}}.{verb}{suffix}"
