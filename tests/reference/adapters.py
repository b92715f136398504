"""The page of adapters: what each verifies by, and the settings of its sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.events.adapters import ADAPTERS
from services.events.adapters.declared import MAX_BODY, NETWORKS, RATE, WEIGHT, Adapter
from tests.reference.markdown import code, table, typed

COMMON = {"rate": RATE, "weight": WEIGHT, "networks": NETWORKS, "max_body": MAX_BODY}
HEAD = """\
# Adapters and their settings

Made of the adapters' declarations by `python -m tests.reference`. [Webhooks](webhooks.md) shows how a source is made of one;
`millrace adapters NAME` says the same of a running Millrace, those of your [own](adapters.md) included.

Secret settings are written by `--secret NAME=FILE` and never shown again; others by `--set NAME=VALUE`. Beside each `secret`
there may be a `previous_secret`, which is accepted too while the sender changes over. Sources with a sender have these besides:

"""


def page() -> str:
    """Return the page in Markdown."""
    made = HEAD + table(
        ("setting", "type", "meaning"), ((code(name), typed(one), one["description"]) for name, one in COMMON.items())
    )
    return made + "".join(_section(one) for one in ADAPTERS.values())


def _section(adapter: Adapter) -> str:
    made = f"## {adapter.name}\n\n{adapter.description}"
    if adapter.link:
        made += f" [The sender's page]({adapter.link})."
    if adapter.handshake:
        made += f" Handshake: {adapter.handshake}."
    made += "\n\n"
    if adapter.event_types:
        made += f"Event types: {', '.join(code(one) for one in adapter.event_types)}.\n\n"
    for row in adapter.one_of:
        made += f"At least one of {', '.join(code(one) for one in row)} is needed.\n\n"
    rows = [*_rows(adapter)]
    return made + (table(("setting", "type", "", "meaning"), rows) if rows else "It has no settings of its own.\n\n")


def _rows(adapter: Adapter) -> Iterator[tuple[str, str, str, str]]:
    properties: dict[str, Any] = adapter.schema["properties"]
    for name, schema in properties.items():
        if name in COMMON or name == "previous_secret":
            continue
        marks = [mark for mark, is_so in (("required", name in adapter.required), ("secret", name in adapter.secrets)) if is_so]
        yield code(name), typed(schema), ", ".join(marks), schema.get("description", "")
