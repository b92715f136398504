"""What no rebuild brings back, by name: secrets, which are in the database alone, and objects, which are in the broker alone."""

from __future__ import annotations

import base64
import contextlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import asyncpg
from nats.aio.client import Client

from deploy.positions import keys, pending
from shared.envelope import open_envelope, open_message
from shared.errors import Invalid
from shared.messages.declaration import declaration_of
from shared.ordered_reader import OrderedReader
from shared.resources import KINDS
from shared.streams import BUCKETS

# Names that a sentence gives; the number is of all.
MOST_NAMED = 20
# A reference so long before its object's end of life is not looked for: the object may go meanwhile.
MARGIN = timedelta(hours=1)
# Of each bucket: the names of objects, what refers to each, and since when ($1: references before are left alone).
_REFERENCES = {
    "workspace": """
        SELECT sha256 AS object, format('file %s of %s', path, org) AS name FROM executor.file
        UNION ALL
        SELECT entry ->> 'version', format('code of workflow %s of %s', name, org) FROM executor.workflow
    """,
    "agreed": """
        SELECT DISTINCT ON (org) data ->> 'agreed' AS object, format('what workspace and repository of %s had last', org) AS name
          FROM logs.message WHERE stream = 'CATALOG' AND type LIKE 'sync.%' ORDER BY org, seq DESC
    """,
    "results": """
        SELECT state ->> 'result_ref' AS object, format('result of run %s', id) AS name FROM executor.run
         WHERE state ->> 'result_ref' IS NOT NULL AND finished_at > $1
    """,
    "bodies": """
        SELECT state ->> 'input_ref' AS object, format('input of run %s', id) AS name FROM executor.run
         WHERE state ->> 'input_ref' IS NOT NULL AND requested_at > $1
        UNION ALL
        SELECT data ->> 'body_ref', format('body of delivery %s', data ->> 'delivery') FROM logs.message
         WHERE stream = 'WEBHOOKS' AND time > $1 AND data ->> 'body_ref' IS NOT NULL
    """,
}
_ENDS = ("removed", "revoked")


async def secrets(admin: Client, connection: asyncpg.Connection[Any]) -> list[str]:
    """Return what was told of things with a secret whose rows are not there: `secret NAME of ORG`, `connection …`, `provider …`."""
    found: list[str] = []
    # By name: one that was given again has another id.
    there = {tuple(row) for row in await connection.fetch("SELECT noun, org, name FROM oauth.vault")}
    for kind in KINDS.values():
        if not kind.in_vault:
            continue
        stream = "CONNECTIONS" if kind.noun == "connection" else "CATALOG"
        told = await _last(admin, stream, f"{kind.noun}.>")
        found += [f"{kind.noun} {name} of {org}" for org, name in set(told.values()) if (kind.noun, org, name) not in there]
    return sorted(found)


async def _last(admin: Client, stream: str, filter_: str) -> dict[str, tuple[str, str]]:
    """Return organization and name by key of those whose last message is no end."""
    found: dict[str, tuple[str, str]] = {}
    if not await pending(admin, stream, (filter_,), 0):
        return found
    batches = OrderedReader(admin, stream, filters=(filter_,), start="last_per_subject").batches()
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for one in batch:
                with contextlib.suppress(Invalid):
                    message: Any = open_message(envelope := open_envelope(one.data))
                    if declaration_of(message).type.endswith(_ENDS):
                        found.pop(envelope.subject, None)
                    else:
                        found[envelope.subject] = envelope.org, message.name
            if batch[-1].pending == 0:
                break
    return found


async def objects(admin: Client, connection: asyncpg.Connection[Any]) -> dict[str, list[str]]:
    """Return by bucket what refers to content that is not there."""
    found: dict[str, list[str]] = {}
    for bucket in BUCKETS:
        subjects = await keys(admin, f"OBJ_{bucket.name}", f"$O.{bucket.name}.M.>", place=3)
        there = {base64.urlsafe_b64decode(one).decode() for one in subjects}
        arguments = []
        if bucket.max_age is not None:
            now = await connection.fetchval("SELECT now()")
            arguments.append(now - timedelta(seconds=bucket.max_age) + MARGIN)
        missing: defaultdict[str, list[str]] = defaultdict(list)
        for row in await connection.fetch(_REFERENCES[bucket.name], *arguments):
            if row["object"] not in there:
                missing[bucket.name].append(row["name"])
        found |= {name: sorted(names) for name, names in missing.items()}
    return found


def told(what: str, names: Iterable[str], remedy: str) -> str:
    """Return the sentence about what is lost."""
    known = list(names)
    more = f", and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"Lost of {what}: {len(known)} ({', '.join(known[:MOST_NAMED])}{more}). {remedy}"
