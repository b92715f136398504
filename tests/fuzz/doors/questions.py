"""Questions and commands on the bus, with the rights of the service that may ask them."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client as Nats

from shared.organizations import PLATFORM
from shared.questions import ASKED
from shared.resources import KINDS
from tests.fuzz.cases import Case, Target
from tests.fuzz.documents import DAMAGES, encoded
from tests.fuzz.doors import FAILED, REFUSED, STORED, UNANSWERED, Outcome, Wrong, names
from tests.fuzz.place import ORG, Place
from tests.fuzz.shapes import example, placed, spots, without

COMMON: dict[str, Any] = {
    "name": "asked",
    "source": "topic",
    "adapter": "topic",
    "settings": {},
    "integration": "spare",
    "workflow": "take",
    "filter": 'event.type == "never"',
    "config_schema": {"type": "object"},
    "config": {},
    "event": "spare",
    "expected": None,
    "path": "asked.txt",
    "prefix": "",
    "cursor": None,
    "q": "a",
    "order": "desc",
    "stream": "RUNS",
    "provider": None,
    "connection": None,
    "grant": "token",
    "size": 7,
    "status": None,
    "limit": 10,
    "after": 0,
    "type": "spare",
    "correlation_id": None,
    "causation_id": None,
    "everything": False,
    "hops": 0,
    "bars": 10,
    "days": 400,
    "saved": None,
    "until": None,
}
# Reached by nobody: its secret is not there.
REPOSITORY: dict[str, Any] = {
    "url": "http://127.0.0.1:9/acme/flows.git",
    "secret": "absent",
    **dict.fromkeys(("connection", "username", "host_key", "source", "version", "message"), None),
    "folder": "",
    "event": "push",
    "on_event": "pull",
    "author_email": "millrace@localhost",
    "paths": [],
    "choices": [],
}
# The same of one question, where another one means something else by it.
OF: dict[str, dict[str, Any]] = {
    "ask.logs.facets": {"fields": ["level"]},
    "ask.logs.archived_rows": {"after": None},
    "do.oauth.begin_sign_in": {"provider": "spare"},
    "do.executor.move_files": {"path": "spare.txt", "to": "spare-moved.txt", "overwrite": True, "expected": None},
    "do.executor.restore_files": {"path": None, "version": None, "at": "2026-01-01T00:00:00Z", "prefix": "none/"},
    "do.executor.sync_repository": REPOSITORY,
    "ask.executor.repository": REPOSITORY,
    "ask.gateway.approval_link": {"until": "2026-12-01T00:00:00Z"},
    "do.events.retry_delivery": {"number": 0},
    "do.events.rotate_keys": {"after": "", "key": None},
    "do.gateway.rotate_keys": {"after": "", "key": None},
    "do.oauth.rotate_keys": {"after": "", "key": None},
}
# SHA-256 of `nothing`, which the preparation has stored.
NOTHING = "1785cfc3bc6ac7738e8b38cdccd1af12563c2b9070e07af336a1bf8c0f772b6a"
WEIGHTS = {"do.executor.put_file": 1, "do.executor.remove_file": 1}
# The fields of a form that would not fit together else.
OF_FORM: dict[str, Any] = {
    **dict.fromkeys(("check", "check_secret", "rate", "burst", "links_after"), None),
    "fields": [{"name": "value", "label": "A value", "help": None, "options": None, "file": None}],
    "input": {},
    "access": "public",
    "embed_on": ["https://www.example.com"],
}


class Questions:
    """Every question and command."""

    name = "questions"
    most = 12

    def __init__(self, place: Place, buses: dict[str, Nats]) -> None:
        self._place = place
        self._buses = buses
        self._asked = {target: asked for subject, (asked, _) in ASKED.items() for target in _targets(subject)}
        self._examples = {target: self._example(target) for target in self._asked}

    def targets(self) -> list[Target]:
        """Return every one that is declared."""
        return [Target(subject, tuple(spots(made)), (), WEIGHTS.get(subject, 6)) for subject, made in self._examples.items()]

    async def send(self, case: Case) -> Outcome:
        """Ask; an answer of any kind but "this is a bug" will do."""
        asked = self._asked[case.target]
        made = self._examples[case.target]
        if asked.kind == "do":
            made = made | {"id": str(uuid.uuid4())}
            if "sealed" in made:
                made |= {"sealed": self._sealed(made["noun"], made["id"])}
        if case.spot is not None:
            made = without(made, case.spot.path) if case.damage == "missing" else placed(made, case.spot.path, case.value.value)
        document = encoded(made)
        if case.damage in DAMAGES:
            document = DAMAGES[case.damage](document)
        try:
            answer = await self._buses[asked.by[0]].request(asked.subject, document, timeout=asked.timeout + 5)
        except nats.errors.MaxPayloadError:
            return Outcome(REFUSED, "larger than the broker takes")
        except (nats.errors.Error, TimeoutError) as error:
            raise Wrong(f"no answer: {type(error).__name__}: {error}", UNANSWERED) from error
        return _judged(case, answer.data)

    async def settled(self) -> list[str]:
        """Find nothing: answers come after what they tell of is stored."""
        return []

    def _sealed(self, noun: str, command: str) -> dict[str, str]:
        """Return what may hold secrets, sealed for a command."""
        given = {"settings": "{}", "config": "{}", "token": '"nothing"', "client_secret": '"nothing"', "value": '"nothing"'}
        given |= {"check_secret": "null"}
        return {field: self._place.keyring.seal(given[field], ORG, command, field) for field in KINDS[noun].confidential}

    def _example(self, target: str) -> dict[str, Any]:
        subject, _, noun = target.partition(" ")
        asked, cls = ASKED[subject]
        id_ = {"run": "run", "attempts": "run", "steps": "run", "states": "run", "lines": "run", "delivery": "delivery"}
        found = self._place.known[id_.get(asked.verb, "topic")]
        known = COMMON | {"id": found, "org": ORG, "actor": "fuzz", "sha256": NOTHING}
        known |= {"run": self._place.known["run"], "delivery": self._place.known["delivery"], "since": "2026-11-01T00:00:00Z"}
        known |= ({"correlation_id": found} if subject == "ask.logs.chain" else {}) | OF.get(subject, {})
        if noun:
            besides = {"integration": None, "value": 1, "level": "info"} | (OF_FORM if noun == "form" else {})
            fields: dict[str, Any] = example(KINDS[noun].body, known | besides)
            plain = {name: value for name, value in fields.items() if name not in KINDS[noun].confidential}
            known |= {"noun": noun, "fields": plain, "sealed": self._sealed(noun, "nothing"), "applied_as": None}
            known |= {"name": "spare"} if KINDS[noun].is_placed else {}  # a mapping is of an integration that is there
            known |= {"name": "oauth", "org": PLATFORM} if noun == "level" else {}  # one of a service, and the platform's
        made: dict[str, Any] = example(cls, known)
        return made


def _targets(subject: str) -> list[str]:
    """Return what is sent to a subject: itself, or where it is about resources, each of its owner's kinds."""
    asked, cls = ASKED[subject]
    nouns = [noun for noun, kind in KINDS.items() if kind.owner == asked.service]
    return [f"{subject} {noun}" for noun in nouns] if "noun" in cls.__struct_fields__ else [subject]


def _judged(case: Case, answer: bytes) -> Outcome:
    frame = msgspec.json.decode(answer)
    error = frame.get("error")
    said = answer[:300].decode(errors="replace")
    if error is None:
        return Outcome(STORED, said)
    # A key that is missing for a while looks like this as well; and a field that is sealed for nobody is not there.
    unsealed = case.where.startswith(("sealed", "id", "org")) and any(
        word in error["detail"] for word in ("sealed", "opened", "missing")
    )
    if error["kind"] in {"error", "unavailable"} and not unsealed:
        raise Wrong(said, FAILED)
    said_of = [f"{one.get('path')} {one.get('message')}" for one in error.get("errors") or []]
    if error["kind"] == "invalid" and not unsealed and not names(case, error.get("detail", ""), said_of):
        raise Wrong(f"it does not say that it is about {case.where}: {said}")
    return Outcome(REFUSED, said)
