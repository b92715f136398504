"""What runs tell: frames past the SDK, and hostile values through each of its calls, from within the sandbox."""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec

from services.executor.sandbox import frames
from services.executor.sandbox.requests import SERVED
from shared.runs import ENDED
from tests.fuzz.cases import Case, Target
from tests.fuzz.documents import DAMAGES, encoded
from tests.fuzz.doors import FAILED, REFUSED, STORED, UNANSWERED, Outcome, Wrong
from tests.fuzz.place import WORKFLOWS, Place
from tests.fuzz.shapes import Spot, example, placed, spots, without
from tests.fuzz.wire import Client, Unanswered

KNOWN: dict[str, Any] = {
    "name": "spare",
    "of": "step",
    "workflow": "take",
    "ordinal": 0,
    "position": None,
    "input": {},
    "priority": None,
    "run_at": None,
    "concurrency_key": None,
    "seconds": 0.1,
    "source": "topic",
    "type": "spare",
    "data": {"a": 1},
    "path": "spare.txt",
    "after": "",
    "prefix": "",
    "level": "info",
    "event": "said",
    "fields": {"a": "b"},
    "result": {"a": 1},
    "traceback": "",
    "message": "odd",
    "text": '{"a":',
    "bytes": 5,
    "reading": 1,
    "writing": 1,
    "at": 0,
    "asked": {"source": "topic", "type": "spare", "where": "event.data.a == a", "values": {"a": 1}},
}
# A run waits for what nobody tells it; one that does so is stopped.
WAIT = 15
# The first frames of a child, and those that a run never sends.
_FRAMES = (frames.Log, frames.ResultPart, frames.ResultEnd, frames.Result, frames.Error, frames.Suspended, frames.Again, *SERVED)
_CALL = re.compile(r'case "([^"]+)"')


class Runs:
    """Every kind of frame, and every call that the workflow `tell` knows."""

    name = "runs"
    most = 6

    def __init__(self, place: Place) -> None:
        self._place = place
        self._idle: list[Client] = []
        self._frames = {f"frame {cls.__struct_config__.tag}": example(cls, KNOWN) for cls in _FRAMES}
        self._calls = _CALL.findall((WORKFLOWS / "work.py").read_text())

    def targets(self) -> list[Target]:
        """Return every frame and call."""
        framed = [Target(name, tuple(spots(made)), (), 2) for name, made in self._frames.items()]
        return framed + [Target(f"call {call}", (Spot(("value",), "value"),), (), 2, damaged=False) for call in self._calls]

    async def send(self, case: Case) -> Outcome:
        """Have a run tell it; the run has to end, however it does, or to wait for something that can come."""
        how, _, name = case.target.partition(" ")
        if how == "frame":
            given = {"frame": base64.b64encode(self._frame(case)).decode()}
        else:
            value = None if case.value is None else case.value.value
            given = {"call": name, "value": encoded(value).decode()}
        client = self._idle.pop() if self._idle else self._place.client()
        try:
            return await self._run(client, "say" if how == "frame" else "tell", given)
        except Unanswered as error:
            raise Wrong(f"no answer: {error}", UNANSWERED) from error
        finally:
            self._idle.append(client)

    async def settled(self) -> list[str]:
        """Find nothing: each run was waited for."""
        return []

    def _frame(self, case: Case) -> bytes:
        made = self._frames[case.target]
        if case.spot is not None:
            made = without(made, case.spot.path) if case.damage == "missing" else placed(made, case.spot.path, case.value.value)
        document = encoded(made)
        return DAMAGES[case.damage](document) if case.damage in DAMAGES else document

    async def _run(self, client: Client, workflow: str, given: dict[str, Any]) -> Outcome:
        path = f"/api/v1/workflows/{workflow}/runs?wait={WAIT}".encode()
        answer = await client.request("POST", path, self._place.authorized(), msgspec.json.encode({"input": given}))
        if answer.status in {413, 422}:
            return Outcome(REFUSED, f"the input: {answer.body[:200]!r}")
        if answer.status not in {200, 202}:
            raise Wrong(f"{answer.status} {answer.body[:300]!r}", FAILED)
        view = msgspec.json.decode(answer.body)
        if view["status"] in ENDED:
            error = view.get("error") or {}
            said = f"{view['status']} {view.get('reason')} {error.get('type')}: {str(error.get('message'))[:200]}"
            if view.get("reason") in {"worker_lost", "poison"}:
                raise Wrong(said)
            return Outcome(STORED if view["status"] == "succeeded" else REFUSED, said)
        run = f"/api/v1/runs/{view['id']}"
        answer = await client.request("GET", run.encode(), self._place.authorized())
        status = msgspec.json.decode(answer.body)["status"]
        if status not in {"waiting", "delayed", *ENDED}:
            raise Wrong(f"the run has not ended after {WAIT} s: it is {status}")
        await client.request("POST", f"{run}/cancel".encode(), self._place.authorized())
        return Outcome(STORED, status)
