"""What authors deploy: declarations with hostile options, defaults and types, and descriptions written past the SDK."""

from __future__ import annotations

import base64
import inspect
from typing import Any

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
WAIT = 10


class Declarations:
    """Every option of `workflow`, everything else that a declaration is made of, and every field of a description."""

    name = "declarations"
    most = AUTHORS

    def __init__(self, place: Place) -> None:
        self._place = place
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
        return [*options, *parts, Target("described", tuple(spots(self._description)), (), 12)]

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
        """Find nothing: a deployment answers when it is over."""
        return []

    def _code(self, case: Case) -> bytes:
        how, _, name = case.target.partition(" ")
        if how == "described":
            made = self._description
            if case.spot is not None:
                made = without(made, case.spot.path) if case.damage == "missing" else placed(made, case.spot.path, case.value.value)
            document = encoded(made)
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
        if not view["workflows"]:
            raise Wrong("neither a workflow nor a problem")
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
