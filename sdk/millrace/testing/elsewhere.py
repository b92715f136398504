"""Fakes for waits and child runs: time that is skipped, signals that are given, runs that end as the test declares."""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from millrace import _ask as people
from millrace._runtime.encode import to_json
from millrace._runtime.failure import error_frame
from millrace._runtime.large import INLINE
from millrace._waiting import Signal
from millrace.errors import ChildFailed, Refused
from millrace.testing.fakes import Answer, Masking, Steps
from millrace.testing.outcome import Question, Signalled, Started, Waiting


class Waits:
    """Ends waits: those for a time at once, those for a signal with the next that is given, or by their time-out."""

    def __init__(
        self,
        given: Mapping[str, Sequence[Any]],
        approvals: Mapping[str, Sequence[Any]],
        kept: Steps,
        children: "Children",
        incoming: Mapping[str, Sequence[Mapping[str, Any]]],
        masking: Masking,
    ) -> None:
        for what, of_name in (("signals", given), ("approvals", approvals)):
            for name, answers in of_name.items():
                if isinstance(answers, str) or not isinstance(answers, Sequence):
                    msg = f"{what}[{name!r}] is a list of what is answered, one after the other, not {type(answers).__name__}"
                    raise TypeError(msg)
        self._left = {("signal", name): [_signal(name, one) for one in answers] for name, answers in given.items()}
        self._left |= {("ask", name): [_answer(name, one) for one in answers] for name, answers in approvals.items()}
        self.questions: list[Question] = []
        self._incoming = {
            source: [_incoming(source, place, one) for place, one in enumerate(of)] for source, of in incoming.items()
        }
        self._masking = masking
        self._kept = kept
        self._children = children
        self.slept: list[float] = []
        self._open: dict[tuple[str, str, int], None] = {}

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {
            "wait": self._wait,
            "ask": self._ask,
            "wait_for_event": self._wait_for_event,
            "wait_given_up": self._give_up,
        }

    @property
    def calls(self) -> list[tuple[str, str, int]]:
        """The calls of open waits, as the order of a run knows them."""
        return list(self._open)

    @property
    def open(self) -> list[Waiting]:
        """The waits that are still open."""
        return [Waiting(kind, name) for kind, name, _ in self._open]

    def _give_up(self, asked: dict[str, Any]) -> None:
        call = asked["of"], asked["name"], asked["ordinal"]
        self._open.pop(call, None)
        self._kept.give_up(*call, asked["position"])

    def _ask(self, asked: dict[str, Any]) -> Any:
        self.questions.append(Question(asked["name"], **asked["question"]))
        return self._wait(asked | {"of": "ask"})

    def _wait(self, asked: dict[str, Any]) -> Any:
        kind, name, seconds = asked["of"], asked["name"], asked["seconds"]
        found: Any = None
        timed_out = False
        if kind == "sleep":
            self.slept.append(seconds)
        elif kind == "run":
            found = self._children.told(name)
        elif self._left.get((kind, name)):
            found = self._left[kind, name].pop(0)
        elif seconds is not None:
            timed_out = True
        else:
            self._open[kind, name, asked["ordinal"]] = None
            return None
        return self._kept.keep(kind, name, asked["ordinal"], asked["position"], found, timed_out=timed_out)

    def _wait_for_event(self, asked: dict[str, Any]) -> Any:
        call, event = ("event", asked["name"], asked["ordinal"]), self._masking.document(asked["asked"])
        source, pattern = event["source"], event["type"]
        if source not in self._incoming:
            msg = f"there is no source {source!r}"
            raise Refused("NotFound", msg)
        left = self._incoming[source]
        found = next((one for one in left if _fits(pattern, one["type"])), None)
        if found is not None:
            left.remove(found)
        elif asked["seconds"] is None:
            self._open[call] = None
            return None
        return self._kept.keep(*call, asked["position"], found, timed_out=found is None)


class Others:
    """Takes signals to other runs, which reach nobody, and gives links at which nobody is."""

    def __init__(self, masking: Masking) -> None:
        self._masking = masking
        self.signalled: list[Signalled] = []

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"signal_run": self._signal, "approval_link": self._link}

    def _signal(self, asked: dict[str, Any]) -> None:
        self.signalled.append(Signalled(asked["run"], asked["name"], self._masking.document(asked["data"])))

    def _link(self, asked: dict[str, Any]) -> Any:
        token = hashlib.sha256(f"{asked['approval']} {asked['name']}".encode()).hexdigest()
        self._masking.learn(token)
        return {"url": f"https://millrace.example/approve?link={token}", "ends_at": datetime.now(UTC).isoformat()}


class Children:
    """Takes runs that are started, and returns for each the end that the test gives."""

    def __init__(self, given: Mapping[str, Any], kept: Steps, masking: Masking) -> None:
        self._given = given
        self._kept = kept
        self._masking = masking
        self._told: dict[str, Any] = {}
        self.started: list[Started] = []

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"start_run": self._start}

    def _start(self, asked: dict[str, Any]) -> Any:
        workflow, ordinal = asked["workflow"], asked["ordinal"]
        if workflow not in self._given:
            msg = f"there is no workflow {workflow!r} in this organization or in global"
            raise Refused("NotFound", msg)
        run = f"{workflow}-{ordinal + 1}"
        given = self._masking.document(asked["input"])
        options = {name: asked[name] for name in ("priority", "run_at", "concurrency_key") if asked[name] is not None}
        self.started.append(Started(workflow, given, options, run))
        self._kept.keep("start", workflow, ordinal, asked["position"], run)
        self._kept.inputs[run] = workflow, given
        return run

    def told(self, run: str) -> Any:
        """Answer how a run has ended. Raises `Refused` for one that was not started."""
        if run not in self._kept.inputs:
            msg = f"{run!r} is no run that this one has started"
            raise Refused("NotFound", msg)
        if run not in self._told:
            workflow, given = self._kept.inputs[run]
            if workflow not in self._given:
                msg = f"runs[{workflow!r}] is not given, and the run {run!r} of it is waited for"
                raise LookupError(msg)
            self._told[run] = {"id": run, **_end(workflow, self._given[workflow], given)}
        return self._told[run]


def _end(workflow: str, end: Any, given: Any) -> dict[str, Any]:
    try:
        if isinstance(end, BaseException):
            raise end
        made: Callable[[Any], Any] | None = end if callable(end) else None
        text = to_json(end if made is None else made(copy.deepcopy(given)), what=f"runs[{workflow!r}]", rich=True, limit=None)
    except ChildFailed as failed:
        return {"status": failed.status, "reason": failed.reason, "error": failed.error}
    except Exception as error:
        told = error_frame(error, "/")
        return {"status": "failed", "reason": "error", "error": {"type": told["type"], "message": told["message"]}}
    size = len(text.encode())
    if size > INLINE:
        result: Any = {"$ref": hashlib.sha256(text.encode()).hexdigest(), "bytes": size}
    else:
        result = json.loads(text)
    return {"status": "succeeded", "reason": None, "result": result}


def _incoming(source: str, place: int, given: Any) -> dict[str, Any]:
    what = f"incoming[{source!r}][{place}]"
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        msg = f"{what} is an event: a dict with its type, and data"
        raise TypeError(msg)
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    event = {"id": f"{source}-{place + 1}", "type": "", "source": source, "time": now, "data": None, "headers": {}, **given}
    told: dict[str, Any] = json.loads(to_json(event, what=what, rich=True))
    return told


def _fits(pattern: str, type_: str) -> bool:
    return pattern in {"*", type_} or (pattern.endswith(".*") and type_.startswith(pattern[:-1]))


def _answer(name: str, answer: Any) -> Any:
    """Answer what `ask` gets: of True, False, a `people.Answer`, or what was filled in, which is an approval."""
    at = datetime.now(UTC)
    given = answer
    if isinstance(answer, bool):
        given = people.Answer(answer, None, "", "test", "key", at, None)
    elif not isinstance(answer, people.Answer):
        given = people.Answer(True, answer, "", "test", "key", at, None)
    told = {field: getattr(given, field) for field in ("approved", "comment", "by", "via", "remote")}
    data = json.loads(to_json(given.form, what=f"approvals[{name!r}]", rich=True))
    return {"id": "testing", "data": data, "at": given.at.astimezone(UTC).isoformat().replace("+00:00", "Z")} | told


def _signal(name: str, answer: Any) -> Any:
    signal = answer if isinstance(answer, Signal) else Signal(answer, "test", datetime.now(UTC))
    data = json.loads(to_json(signal.data, what=f"signals[{name!r}]", rich=True))
    return {"data": data, "by": signal.by, "at": signal.at.astimezone(UTC).isoformat().replace("+00:00", "Z")}
