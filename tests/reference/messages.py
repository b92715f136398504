"""The page of messages: what is on the bus, by stream, as /asyncapi.json has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared import asyncapi
from shared.messages import DECLARATIONS
from tests.reference.markdown import code, table

HEAD = """\
# Messages

Made of the declarations of the messages by `python -m tests.reference`. Each is a fact in the past tense, in an envelope of
CloudEvents 1.0 (`id`, `type`, `source`, `subject`, `time`, `org`, `correlationid`, `causationid`, `data`); the archive,
`millrace logs` and subscribers have the same document. `/asyncapi.json` of a running Millrace has the schemas, and what the
services ask each other. `told as` is where [tools of your own](internal-tools.md) hear it; `?` is a field that may be missing.

"""


def page() -> str:
    """Return the page in Markdown."""
    document = asyncapi.document()
    by_stream: dict[str, list[str]] = {}
    for _, cls in DECLARATIONS.values():
        by_stream.setdefault(document["channels"][cls.__name__]["x-stream"], []).append(cls.__name__)
    made = HEAD
    for stream, names in by_stream.items():
        made += f"## {stream}\n\n"
        made += table(("type", "said when", "by", "fields", "told as"), (_row(name, document) for name in names))
    return made


def _row(name: str, document: dict[str, Any]) -> Iterator[str]:
    channel, message = document["channels"][name], document["components"]["messages"][name]
    yield code(message["name"])
    yield message["summary"].replace("<", "&lt;")
    senders = [one for one in document["operations"] if one.endswith(f".send.{name}")]
    yield ", ".join(one.partition(".")[0] for one in senders)
    schema = document["components"]["schemas"][name]
    required = schema.get("required", ())
    yield ", ".join(code(one + ("" if one in required else "?")) for one in schema["properties"])
    yield code(channel.get("x-told-as", ""))
