"""Messages written straight into the streams, as an older version, or a restored backup, may have left them there."""

from __future__ import annotations

import uuid
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client as Nats

from shared.envelope import CONTENT_TYPE
from shared.messages import DECLARATIONS, Declaration
from shared.messages.declaration import hashed_key
from shared.resources import KINDS
from tests.fuzz.cases import Case, Target
from tests.fuzz.documents import DAMAGES, encoded
from tests.fuzz.doors import REFUSED, STORED, Outcome, Wrong
from tests.fuzz.place import ORG, Place, eventually
from tests.fuzz.shapes import example, placed, spots, without

# Keys of each noun that the messages are about: few, so that one entity hears much.
KEYS = 40
ARCHIVED_WITHIN = 60.0
COMMON: dict[str, Any] = {
    "workflow": "take",
    "source_name": "topic",
    "adapter": "hmac",
    "settings": {},
    "sealed": {},
    "method": "POST",
    "query": [["a", "b"]],
    "body_base64": "eyJhIjoxfQ==",
    "body_ref": None,
    "body_size": 7,
    "sender_delivery": None,
    "retried_by": None,
    "emitted_by": None,
    "data_ref": None,
    "input_ref": None,
    "place": None,
    "result_ref": None,
    "timeout": 10,
    "deadline": None,
    "run_at": None,
    "concurrency_key": None,
    "workflow_org": None,
    "parent": None,
    "input": {},
    "priority": "low",
    "isolation": "run",
    "filter": 'event.type == "never"',
    "event": "spare",
    "attempt": 1,
    "blocked_on": "time",
    "kind": "step",
    "ordinal": 0,
    "position": 0,
    "hops": 0,
    "chunk": 0,
    "level": "info",
    "rerun_of": None,
    "fingerprint": None,
    "service": "events",
    "category": "webhook",
}
VERBS = {"audit.*": "refused", "log.*": "info", "dead.*": "webhook.received"}


class Streams:
    """Every message that is declared, in the envelope of the service that says it."""

    name = "streams"
    most = 24

    def __init__(self, place: Place, admin: Nats) -> None:
        self._place = place
        self._stream = admin.jetstream(timeout=10)
        self._written: dict[str, set[int]] = defaultdict(set)
        self._examples = {type_: self._example(type_) for type_ in DECLARATIONS}

    def targets(self) -> list[Target]:
        """Return every message."""
        return [Target(type_, tuple(spots(made)), (), 4) for type_, made in self._examples.items()]

    async def send(self, case: Case) -> Outcome:
        """Write a document. The broker may refuse it for its size."""
        declared, _ = DECLARATIONS[case.target]
        subject, made = self._addressed(declared, case.salt)
        if case.spot is not None:
            made = without(made, case.spot.path) if case.damage == "missing" else placed(made, case.spot.path, case.value.value)
        document = encoded(made)
        if case.damage in DAMAGES:
            document = DAMAGES[case.damage](document)
        headers = {"Content-Type": CONTENT_TYPE}
        if case.target == "timer.set":
            due = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds").replace("+00:00", "Z")
            key = subject.split(".")[1]
            headers |= {
                "Nats-Schedule": f"@at {due}",
                "Nats-Schedule-Target": f"timer.{key}.fired.executor",
                "Nats-Schedule-TTL": "24h",
            }
        try:
            ack = await self._stream.publish(subject, document, headers=headers, stream=declared.stream)
        except nats.errors.MaxPayloadError:
            return Outcome(REFUSED, "larger than the broker takes")
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            raise Wrong(f"the broker did not store it: {type(error).__name__}: {error}") from error
        if declared.stream != "TIMERS":  # the broker itself removes those that are due or replaced
            self._written[ack.stream].add(ack.seq)
        return Outcome(STORED, f"{ack.stream} {ack.seq}")

    async def settled(self) -> list[str]:
        """Wait until the archive has a row for each message."""
        wanted, self._written = self._written, defaultdict(set)

        async def all_there() -> bool:
            async with self._place.database() as database:
                for stream, sequences in wanted.items():
                    rows = await database.fetch(
                        "SELECT seq FROM logs.message WHERE stream = $1 AND seq = ANY($2)", stream, list(sequences)
                    )
                    sequences.difference_update(row["seq"] for row in rows)
            return not any(wanted.values())

        await eventually(all_there, ARCHIVED_WITHIN, 0.5)
        return [
            f"the archive has no row for {len(lacking)} messages of {stream}, such as {min(lacking)}"
            for stream, lacking in wanted.items()
            if lacking
        ]

    def _example(self, type_: str) -> dict[str, Any]:
        return self._addressed(DECLARATIONS[type_][0], 0)[1]

    def _addressed(self, declared: Declaration, salt: int) -> tuple[str, dict[str, Any]]:
        """Return a subject and the document that belongs there. What begins a run begins one of its own."""
        cls = DECLARATIONS[declared.type][1]
        id_ = str(uuid.uuid4())
        key = id_ if declared.creates else hashed_key(declared.noun, str(salt % KEYS))
        if declared.noun in {"line", "timer"}:
            key = hashed_key("run", str(salt % KEYS))
        if declared.noun in {"webhook", "event"}:
            key = self._place.known["topic"]
        known = COMMON | {"org": ORG, "id": key, "delivery": id_, "event": id_}
        known[declared.key_field] = key
        if declared.noun == "timer":
            known["owner"] = "executor"
        if declared.noun == "webhook":
            known["headers"] = [["content-type", "application/json"]]
        if declared.noun in {"run", "workflow"}:
            known["version"] = self._place.known["version"]
        if declared.noun in {"source", "subscription"}:
            known |= {"name": f"old-{salt % KEYS}", "event": "spare", "source": self._place.known["topic"]}
        if (kind := KINDS.get(declared.noun)) is not None and not kind.in_vault:
            refs = dict.fromkeys(kind.by_id, self._place.known["topic"])
            known |= {"spec": example(kind.spec, known), "refs": refs, "applied_as": None}
        if declared.verb_field is not None:
            known[declared.verb_field] = VERBS[declared.type]
            known[declared.key_field] = key = "events" if declared.key_field == "service" else "webhook"
        data = example(cls, known)
        verb = declared.verb if declared.verb_field is None else VERBS[declared.type]
        subject = declared.subject(msgspec.convert(data, cls))
        envelope = {
            "specversion": "1.0",
            "id": id_,
            "type": f"{declared.noun}.{verb}",
            "source": f"/{(declared.by or ('executor',))[0]}",
            "subject": key,
            "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "org": ORG,
            "correlationid": id_,
            "causationid": None,
            "datacontenttype": "application/json",
            "data": data,
        }
        return subject, envelope
