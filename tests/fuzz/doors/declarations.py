"""What authors deploy: declarations of workflows and adapters with hostile options, and descriptions written past the SDK."""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import uuid
from typing import Any
from urllib.parse import urlsplit

import msgspec

import millrace
from services.executor.sandbox import frames
from shared.runs import ENDED
from tests.fuzz.cases import Case, Target
from tests.fuzz.documents import DAMAGES, encoded
from tests.fuzz.doors import FAILED, REFUSED, STORED, UNANSWERED, Outcome, Wrong
from tests.fuzz.place import Place, quoted
from tests.fuzz.shapes import Spot, example, placed, spots, without
from tests.fuzz.wire import Client, Unanswered

# Organizations whose workspaces these are; deployments of one come one after the other.
AUTHORS = 3
PATH = "deployed.py"
HEAD = "import enum, json\nfrom typing import Any, Literal\nfrom millrace import workflow\nV = json.loads({value!r})\n"
# By what is hostile: the code below the head.
CODE = {
    "default": "@workflow\ndef f(x: Any = V) -> int:\n    return 1\n",
    "literal": "@workflow\ndef f(x: Literal['a', V] = 'a') -> int:\n    return 1\n",
    "enum": "E = enum.Enum('E', {'A': 'a', 'B': V})\n@workflow\ndef f(x: E = E.A) -> int:\n    return 1\n",
    "annotation": "def f(x=1):\n    return 1\nf.__annotations__ = {'x': V}\nf = workflow(f)\n",
    "doc": "def f(x: int = 1) -> int:\n    return 1\nf.__doc__ = V\nf = workflow(f)\n",
    "function name": "def f(x: int = 1) -> int:\n    return 1\nf.__name__ = f.__qualname__ = V\nf = workflow(f)\n",
    "module": "def f(x: int = 1) -> int:\n    return 1\nf.__module__ = V\nf = workflow(f)\n",
    "raised": "raise ValueError(V)\n",
    "printed": "print(V)\n@workflow\ndef f(x: int = 1) -> int:\n    return 1\n",
}
OPTION = "@workflow(**{{{option!r}: V}})\ndef f(x: str = 'a') -> int:\n    return 1\n"
DESCRIPTION = (
    "import base64\nfrom millrace import workflow\nfrom millrace._runtime import channel\n"
    "channel.current.close_with(base64.b64decode({frame!r}))\n@workflow\ndef f(x: int = 1) -> int:\n    return 1\n"
)
# A declared adapter; each place of it takes a hostile value.
ADAPTER: dict[str, Any] = {
    "scheme": {
        "algorithm": "hmac-sha256",
        "signature": {"header": "x-signature", "separator": ",", "prefix": "sha256=", "suffix": "", "default": ""},
        "encoding": "hex",
        "template": "{body}{seen}",
        "values": {"seen": {"query": "seen", "default": ""}},
        "timestamp": {"json": "at", "default": None},
        "timestamp_unit": "rfc3339",
        "tolerance": 1e12,
        "keys": ["secret"],
        "key_encoding": "text",
        "key_prefix": "",
        "when": [[{"header": "x-kind"}, "a"]],
        "each": None,
        "delivery": {"header": "x-id"},
        "delivery_with": [{"json": "n"}],
    },
    "token": {
        "token": {"header": "authorization", "prefix": "Bearer "},
        "algorithms": ["RS256", "ES256"],
        "keys": ["tenant"],
        "key_set": None,
        "issuer": None,
        "audience": ["a"],
        "claims": {"a": "b"},
        "body_claim": None,
        "tolerance": 300.0,
        "delivery": {"header": "x-id"},
    },
    "message": {
        "algorithm": "hmac-sha256",
        "components": ["@method", "content-digest"],
        "keys": ["secret"],
        "key_encoding": "text",
        "key_id": None,
        "tag": None,
        "tolerance": 300.0,
        "delivery_with": [{"json": "n"}],
    },
    "handshake": {
        "method": "POST",
        "when": [[{"json": "type"}, "challenge"]],
        "challenge": {"json": "a"},
        "json": {"answer": "{challenge}"},
        "headers": {"X-Answer": "{digest}"},
        "digest": "hmac-sha256",
        "status": 200,
    },
    "options": {
        "secrets": {"secret": "a"},
        "settings": {"tenant": {"type": "string"}},
        "required": ["secret"],
        "methods": ["POST", "GET"],
        "content_types": ["application/json"],
        "event_types": ["a"],
        "link": "https://example.com/",
        "entity": "event.data.a",
    },
    "event": {"type": "a", "data": {"a": 1}, "headers": {"x-a": "a"}},
    "response": {"body": "a", "status": 200, "content_type": "text/plain", "headers": {"X-A": "a"}},
}
ADAPTED = """
import json
from millrace import Event, Handshake, MessageSignature, Place, Response, Scheme, WebToken, adapter
V = json.loads({value!r})

def made(value):
    if isinstance(value, dict) and value.keys() & {{"header", "query", "form", "json"}} and not value.keys() & {{"method"}}:
        return Place(**value)
    if isinstance(value, dict):
        return {{key: made(one) for key, one in value.items()}}
    return [made(one) for one in value] if isinstance(value, list) else value

def pairs(of):
    return of | {{"when": tuple(map(tuple, of["when"]))}} if isinstance(of.get("when"), list) else of

@adapter(
    name="hostile",
    scheme=[Scheme(**pairs(made(V["scheme"]))), WebToken(**made(V["token"])), MessageSignature(**made(V["message"]))],
    handshakes=[Handshake(**pairs({{key: one if key == "json" else made(one) for key, one in V["handshake"].items()}}))],
    **V["options"],
)
class Hostile:
    def handshake(self, request):
        return Response(**V["response"]) if request.method == "GET" else None

    def parse(self, request):
        return Event(**V["event"])
"""
KEY, SENT = "a-secret", b'{"type":"order","n":1,"a":"b","at":"2026-11-01T00:00:00Z"}'
SIGNED = [
    ("Content-Type", "application/json"),
    ("X-Signature", "sha256=" + hmac.new(KEY.encode(), SENT, hashlib.sha256).hexdigest()),
    ("X-Kind", "a"),
]
WAIT = 10


class Declarations:
    """Every option of `workflow`, everything else that a declaration is made of, and every field of a description."""

    name = "declarations"
    most = AUTHORS

    def __init__(self, place: Place) -> None:
        self._place = place
        self._accepted: set[str] = set()
        self._idle: list[tuple[Client, str]] = [(place.client(), f"author-{number}") for number in range(AUTHORS)]
        self._options = [
            name for name, one in inspect.signature(millrace.workflow).parameters.items() if one.kind is one.KEYWORD_ONLY
        ]
        known: dict[str, Any] = {
            "name": "f",
            "module": "deployed",
            "path": PATH,
            "line": 1,
            "function": "f",
            "doc": "a",
            "input_schema": {"type": "object"},
            "timeout": 60,
            "retries": 0,
            "concurrency": None,
            "is_data_provider": False,
            "queue_timeout": None,
            "concurrency_policy": "queue",
            "isolation": "run",
            "retry_delay": 1,
            "retry_max_delay": 1,
            "concurrency_limit": 1,
        }
        self._description = example(frames.Described, known)

    def targets(self) -> list[Target]:
        """Return the options, the other parts, and the description."""
        whole = (Spot(("value",), "value"),)
        options = [
            Target(f"option {name}", (*whole, Spot(("value",), "number"), Spot(("value",), "text")), (), 3, damaged=False)
            for name in self._options
        ]
        parts = [Target(f"part {name}", whole, (), 2, damaged=False) for name in CODE]
        described = Target("described", tuple(spots(self._description)), (), 12)
        return [*options, *parts, described, Target("adapter", tuple(spots(ADAPTER)), (), 12, damaged=False)]

    async def send(self, case: Case) -> Outcome:
        """Deploy a file; it is served, or a problem names it. What is served is run once."""
        client, org = self._idle.pop()
        try:
            return await self._deployed(client, org, case)
        except Unanswered as error:
            raise Wrong(f"no answer: {error}", UNANSWERED) from error
        finally:
            self._idle.append((client, org))

    async def settled(self) -> list[str]:
        """Wait until each webhook that an adapter admitted has its end; a deployment answers when it is over."""
        waiting, self._accepted = self._accepted, set()
        return await self._place.unsettled(waiting)

    def _code(self, case: Case) -> bytes:
        how, _, name = case.target.partition(" ")
        if how in {"described", "adapter"}:
            made = self._description if how == "described" else ADAPTER
            if case.spot is not None:
                made = without(made, case.spot.path) if case.damage == "missing" else placed(made, case.spot.path, case.value.value)
            document = encoded(made)
            if how == "adapter":
                return ADAPTED.format(value=document.decode()).encode()
            document = DAMAGES[case.damage](document) if case.damage in DAMAGES else document
            return DESCRIPTION.format(frame=base64.b64encode(document).decode()).encode()
        value = encoded(None if case.value is None else case.value.value).decode()
        return (HEAD.format(value=value) + (CODE[name] if how == "part" else OPTION.format(option=name))).encode()

    async def _deployed(self, client: Client, org: str, case: Case) -> Outcome:
        headers = self._place.authorized(org)
        answer = await client.request("PUT", f"/api/v1/workspace/files/{PATH}".encode(), headers, self._code(case))
        if answer.status != 200:
            raise Wrong(f"{answer.status} {answer.body[:300]!r}", FAILED)
        view = msgspec.json.decode(answer.body)
        for problem in view["problems"]:
            # What is forged is either not believed, and then no file is to blame, or names what its author likes.
            if case.target != "described" and (problem["path"] != PATH or problem["line"] < 1):
                raise Wrong(f"the problem names {problem['path'][:80]!r}, line {problem['line']}: {problem['message'][:200]}")
        if view["problems"]:
            return Outcome(REFUSED, view["problems"][0]["message"][:200])
        if view["adapters"]:
            return await self._received(client, headers)
        if not view["workflows"]:
            raise Wrong("neither a workflow, an adapter nor a problem")
        return await self._tried(client, headers, view["workflows"][0])

    async def _tried(self, client: Client, headers: list[tuple[str, str]], workflow: str) -> Outcome:
        path = f"/api/v1/workflows/{quoted(workflow)}/runs?wait={WAIT}".encode()
        answer = await client.request("POST", path, headers, b'{"input":{}}')
        said = f"served, and its run: {answer.status} {answer.body[:200]!r}"
        if answer.status >= 500:
            raise Wrong(said, FAILED)
        if answer.status in {200, 202}:
            view = msgspec.json.decode(answer.body)
            if view.get("reason") in {"worker_lost", "poison"}:
                raise Wrong(said)
            if view["status"] not in ENDED:
                await client.request("POST", f"/api/v1/runs/{view['id']}/cancel".encode(), headers)
        return Outcome(STORED, said)

    async def _received(self, client: Client, headers: list[tuple[str, str]]) -> Outcome:
        """Have a source of the adapter get a webhook that is signed as the example says, and what else its sender may ask."""
        source = msgspec.json.encode({"adapter": "hostile", "settings": {"secret": KEY}})
        answer = await client.request("PUT", b"/api/v1/sources/hostile", headers, source)
        if answer.status >= 500:
            raise Wrong(f"the adapter is served, and a source of it: {answer.status} {answer.body[:200]!r}", FAILED)
        if answer.status >= 400:
            return Outcome(REFUSED, f"a source: {answer.body[:200]!r}")
        path = urlsplit(msgspec.json.decode(answer.body)["url"]).path.encode()
        said = []
        for method, body in (("POST", SENT), ("POST", b'{"type":"challenge","a":"b"}'), ("GET", b"")):
            answer = await client.request(method, path, [*SIGNED, ("X-Id", str(uuid.uuid4()))], body)
            if answer.status == 202:
                self._accepted.add(msgspec.json.decode(answer.body)["id"])
            if answer.status >= 500 and answer.status != 503:
                raise Wrong(f"its webhook: {method} {answer.status} {answer.body[:200]!r}", FAILED)
            said.append(f"{method} {answer.status}")
        return Outcome(STORED, ", ".join(said))
