"""The HTTP API: every route with hostile paths, parameters, headers and bodies."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.endpoint import Endpoint, Streamed
from shared.resources.provider import ADDRESSES
from tests.fuzz.cases import Case, Target
from tests.fuzz.documents import DAMAGES, encoded
from tests.fuzz.doors import FAILED, REFUSED, STORED, UNANSWERED, Outcome, Refusal, Wrong, names
from tests.fuzz.hostile import Literal
from tests.fuzz.place import ORG, Place, quoted
from tests.fuzz.shapes import example, placed, spots, without
from tests.fuzz.wire import Answer, Client, Unanswered

HEADERS = (
    *("If-Match", "If-None-Match", "Idempotency-Key", "X-Millrace-Org", "Content-Type", "Content-Encoding", "Last-Event-ID"),
    *("Authorization", "X-Forwarded-For", "Accept", "Range", "Cookie", "X-Request-Id", "Expect", "Origin"),
)
_PART, _BARE = re.compile(r"\{(\w+)(?::[^}]*)?\}"), r"{\1}"
# A deployment, or a run, takes a hundred times as long as a look at a list.
WEIGHTS = {
    "PUT /workspace/files/{path}": 1,
    "DELETE /workspace/files/{path}": 1,
    "POST /workspace/commits": 1,
    "POST /workflows/{name}/runs": 3,
}
# What a body's fields hold when they are as they should be.
FIELDS: dict[str, Any] = {
    "method": "POST",
    "at": "2026-01-31T09:30:00Z",
    "body_base64": "e30=",
    "adapter": "topic",
    "settings": {},
    "integration": None,
    "source": "topic",
    "event": "spare",
    "workflow": "take",
    "filter": 'event.type == "never"',
    "input": {"value": "event.data"},
    "config_schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^b"}}},
    "provider": None,
    "config": {},
    "token": "t0ken",
    "grant": "token",
    "type": "spare",
    "timeout": 10,
    "deadline": 3600,
    "run_at": None,
    "name": "spare",
    "concurrency_key": "k",
    "files": {"spare.txt": "bm90aGluZw=="},
    "expected": {},
    "days": 400,
}
INPUT = {"value": {"a": ["b", 1]}, "event": None}
# Seconds before what was too busy is asked again.
PAUSES = (0.5, 2.0, 5.0)
# The same of one resource, whose fields would not fit together else.
FIELDS_OF: dict[str, dict[str, Any]] = {
    "connections": {
        **dict.fromkeys(("provider", "client_id", "key_id", "subject", "exchanges", "username", "query", "base_url"), None),
        "scopes": [],
        "parameters": {},
    },
    "providers": {
        **dict.fromkeys(ADDRESSES, None),
        "known": "github",
        "client_id": "a client",
        "client_secret": "its secret",
        "client_authentication": "post",
        "hosts": [],
    },
    "identity-providers": {
        "issuer": "http://127.0.0.1:9",
        "client_id": "a client",
        "client_secret": "its secret",
        "groups": {"a": {"default": "viewer"}},
        "default_roles": {"default": "viewer"},
        "email_domains": ["acme.example"],
    },
    "sources": {"entity": None, "by_entity": False},
    "packs": {
        "release": "1.0.0",
        "status": "applied",
        "origin": "a folder",
        "description": "spare",
        "resources": {"variable/spare": []},
        "files": {"spare/a.py": [""]},
    },
    "needs": {"connections": ["spare"], "secrets": ["spare"], "variables": ["spare"], "domains": ["api.example.com"]},
    "moves": {"from": "spare.txt", "to": "spare-moved.txt", "overwrite": True},
    "restores": {"path": None, "version": None, "at": "2026-01-01T00:00:00Z", "prefix": "none/"},
    "repositories": {
        "url": "http://127.0.0.1:9/acme/flows.git",
        "folder": "",
        "connection": None,
        "username": None,
        "host_key": None,
        "author_email": "millrace@localhost",
        "source": None,
        "event": "push",
        "on_event": "pull",
    },
    "git/discard": {"paths": ["spare.txt"], "all": False},
    "git/resolve": {"take": "content", "content": "bm90aGluZw=="},
    "deliveries": {"number": 0, "since": "2026-01-30T00:00:00Z", "until": "2026-01-31T00:00:00Z"},
    "schedules": {"cron": "5 9 * * *", "every": None, "timezone": "UTC", "source": None, "event": None, "input": {"value": 1}},
    "vault": {"after": "", "key": None},
    "keys": {"role": "viewer", "scopes": ["runs"], "nats": False, "subjects": [], "expires_at": None, "overlap": 0},
    "logins": {"host": "spare", "role": None, "lifetime": 3600, "device_code": "spare"},
    "orgs": {"name": "spare", "display_name": "spare", "email": "spare@example.com", "role": "viewer", "days": 7},
    "invitations": {"token": "unknown", "name": "spare", "display_name": "spare", "password": "a new password"},
    "users": {"days": 1, "display_name": "spare", "email": "spare@example.com", "roles": {"default": "viewer"}, "enabled": True},
    "me": {
        "display_name": "spare",
        "password": "a new password",
        "pending": "v1.a.b.c",
        "code": "123456",
        "token": "unknown",
        "credential": {},
        "name": "a phone",
    },
    "sessions": {"credential": {}, "name": "spare", "password": "a new password", "code": "123456"},
    "forms": {
        "fields": [{"name": "value", "label": "A value", "help": None, "options": None, "file": None}],
        "input": {"event": None},
        "access": "public",
        "check": None,
        "check_secret": None,
        "rate": 1000.0,
        "burst": 1000,
        "embed_on": ["https://www.example.com"],
        "links_after": None,
        "ends_at": None,
        "values": {"value": "a"},
        "files": {},
        "link": "",
    },
    "levels": {"name": "oauth", "level": "info", "until": None},
    "subscriptions": {
        "key": "event.type",
        "ordering": "key",
        **dict.fromkeys(("rate", "burst", "debounce", "debounce_most"), None),
    },
}


def name_of(endpoint: Endpoint) -> str:
    """Return what an endpoint is called here: its method and its path."""
    return f"{endpoint.method} {_PART.sub(_BARE, endpoint.path).removeprefix('/api/v1')}"


_PAGES = {name_of(one) for one in ENDPOINTS if one.page is not None}


class Route:
    """One endpoint, and an example of what it takes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.method = endpoint.method
        self.path = _PART.sub(_BARE, endpoint.path)
        self.name = name_of(endpoint)
        self.parts = endpoint.parts
        declared = () if endpoint.query is None else msgspec.structs.fields(endpoint.query)
        self.parameters = sorted({*(field.encode_name for field in declared), "limit", "cursor", "org", "wait", "nobody"})
        self.body = self._body(endpoint)
        self.plain = "files/{path}" in self.path
        # Of a kind that only the platform has, and whose names are few.
        self.org = endpoint.example.query.get("org", ORG)
        required = {one.encode_name for one in declared if one.required}
        self.needs = {name: str(value) for name, value in endpoint.example.query.items() if name in required}
        self.named = endpoint.example.path.get("name", "spare") if self.org != ORG else "spare"

    def _body(self, endpoint: Endpoint) -> Any:
        if not endpoint.takes_body:
            return None
        # What a handler reads itself, or takes as any object (a merge patch), is declared beside it.
        declared = endpoint.documented or endpoint.body
        if declared in {None, Any, Streamed}:
            return {"a": ["b", 1]}
        fields = (
            FIELDS
            | FIELDS_OF.get(self.path.removeprefix("/api/v1/").partition("/")[0], {})
            | FIELDS_OF.get(self.path.removeprefix("/api/v1/workspace/"), {})
            | ({"input": INPUT} if endpoint.name == "create_run" else {})
        )
        return example(declared, fields)

    def target(self) -> Target:
        """Return it as something to aim at."""
        texts = [f"path:{part}" for part in self.parts]
        texts += [f"query:{name}" for name in self.parameters] + [f"header:{name}" for name in HEADERS]
        declared = () if self.body is None else tuple(spots(self.body))
        return Target(self.name, declared, tuple(texts), WEIGHTS.get(self.name, 6), damaged=self.body is not None)


class Http:
    """Every route, with the platform key, meaning one organization."""

    name = "http"
    most = 12

    def __init__(self, place: Place) -> None:
        self._place = place
        self.routes = {route.name: route for route in map(Route, ENDPOINTS) if route.method != "*"}
        self._idle: list[Client] = []

    def targets(self) -> list[Target]:
        """Return every route."""
        return [route.target() for route in self.routes.values()]

    async def send(self, case: Case) -> Outcome:
        """Send a request; what was stored must be there."""
        route = self.routes[case.target]
        client = self._idle.pop() if self._idle else self._place.client()
        try:
            target, headers, body = self.request(route, case)
            try:
                answer = await _unless_busy(client, route.method, target, headers, body)
            except Unanswered as error:
                raise Wrong(f"no answer: {error}", UNANSWERED) from error
            outcome = judged(case, answer)
            if outcome.became == STORED:
                await self._read_back(client, route, case, target, answer)
            return outcome
        finally:
            self._idle.append(client)

    async def settled(self) -> list[str]:
        """Find nothing: what was stored was read back at once."""
        return []

    def request(self, route: Route, case: Case) -> tuple[bytes, list[tuple[str, str]], bytes | None]:
        """Return what is sent: the request's target, its headers and its body."""
        known = {
            "name": route.named,
            "id": self._place.known["delivery"] if "deliveries" in route.path else self._place.known["run"],
            "org": ORG,
            "path": "checkpoint" if "digests" in route.path else "spare.txt",
            "stream": "CONNECTIONS",
            "code": "BCDF-GHJK",
        }
        if route.path.startswith("/api/v1/workflows"):
            known["name"] = "take"
        if route.path.endswith(("/refresh", "/authorize")):
            known["name"] = "pending"
        if route.path.endswith("/events"):
            known["name"] = "topic"  # whose subscription has whatever filter and input was put last
        where, _, name = (case.text or "").partition(":")
        text = str(case.value.value) if case.value is not None and case.text is not None else ""
        path = _PART.sub(lambda part: quoted(text) if where == "path" and part[1] == name else known[part[1]], route.path)
        given = route.needs | ({name: text} if where == "query" else {})
        query = f"?{'&'.join(f'{one}={quoted(value)}' for one, value in given.items())}" if given else ""
        headers = self._place.authorized(route.org)
        if where == "header":
            shown = text.encode(errors="surrogatepass").decode("utf-8", "surrogateescape")
            headers = [one for one in headers if one[0].lower() != name.lower()] + [(name, shown)]
        return (path + query).encode(), headers, _body(route.body, case)

    async def _read_back(self, client: Client, route: Route, case: Case, target: bytes, answer: Answer) -> None:
        """Ask for what was made under the address that it has now. Raises `Wrong`."""
        if route.method not in {"PUT", "PATCH", "POST"}:
            return
        path = answer.headers.get("location", target.decode() if route.method != "POST" else "").partition("?")[0]
        if not path:
            return
        query = "" if case.text != "query:org" else "?" + target.decode().partition("?")[2]
        org = [("X-Millrace-Org", str(case.value.value))] if case.value and case.text == "header:X-Millrace-Org" else []
        try:
            headers = self._place.authorized(route.org)[: -1 if org else None] + org
            again = await _unless_busy(client, "HEAD" if route.plain else "GET", (path + query).encode("latin-1"), headers)
        except Unanswered as error:
            raise Wrong(f"{answer.status}, and then no answer at {path[:200]}", UNANSWERED) from error
        said = f"{answer.status}, but then {again.status} at {path[:200]}: {again.body[:200]!r}"
        if again.status >= 500:
            raise Wrong(said, FAILED)
        # What everybody puts and deletes may be gone again; what has the case's own name, or is a run, may not.
        named = route.name in {"POST /sources", "POST /subscriptions"} and case.where != "name"
        shared = "spare" in path or named or route.org != ORG
        if again.status != 200 and not shared:
            raise Wrong(said)


async def _unless_busy(
    client: Client, method: str, target: bytes, headers: list[tuple[str, str]], body: bytes | None = None
) -> Answer:
    """Return the answer to a request, which is sent again where a service is too busy for it: no value may keep it so."""
    for pause in PAUSES:
        answer = await client.request(method, target, headers, body)
        if answer.status != 503:
            break
        await asyncio.sleep(pause)
    return answer


def judged(case: Case, answer: Answer) -> Outcome:
    """Return what an answer makes of a case. Raises `Wrong` for one that nobody may get."""
    said = f"{answer.status} {answer.body[:300].decode(errors='replace')}"
    if answer.status < 400:
        return Outcome(STORED, said)
    if answer.status >= 500:
        raise Wrong(said, FAILED)
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("application/problem+json"):
        # What is no HTTP is refused before there is a request, and the parts of a head are not answered one by one.
        if answer.status == 400 and (case.text or "").startswith(("header:", "path:", "query:")):
            return Outcome(REFUSED, said)
        # What a person's browser opens answers with a page, which says what went wrong as well.
        if case.target in _PAGES and kind.startswith("text/html"):
            return Outcome(REFUSED, said)
        # An answer of JSON-RPC has an error of its own.
        if case.target.endswith(" /mcp") and kind.startswith("application/json") and b'"error"' in answer.body:
            return Outcome(REFUSED, said)
        raise Wrong(f"no problem document but {kind or 'nothing'}: {said}")
    try:
        problem = msgspec.json.decode(answer.body, type=Refusal)
    except msgspec.MsgspecError as error:
        if not answer.body:  # to HEAD
            return Outcome(REFUSED, said)
        raise Wrong(f"the problem document is none: {error}: {said}") from error
    said_of = [f"{one.get('path')} {one.get('message')}" for one in problem.errors]
    if answer.status == 422 and not names(case, problem.detail, said_of):
        raise Wrong(f"it does not say that it is about {case.where}: {said}")
    if not problem.detail:
        raise Wrong(f"it does not say why: {said}")
    return Outcome(REFUSED, said)


def _body(body: Any, case: Case) -> bytes | None:
    if body is None:
        return None
    made = body
    if case.spot is not None:
        made = without(body, case.spot.path) if case.damage == "missing" else placed(body, case.spot.path, case.value.value)
    document = made.text.encode() if isinstance(made, Literal) else encoded(made)
    return DAMAGES[case.damage](document) if case.damage in DAMAGES else document
