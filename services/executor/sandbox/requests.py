"""The requests of a run in one table: each as it is written, with its answer.

A new capability is a struct here, a method of `interface.Capabilities`, a line of `SERVED`, and the call of `channel.ask` in the
SDK.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec

from services.executor.sandbox.interface import MAX_CHUNK, Capabilities, Kind, StartedRun, StepRecord
from shared.values import YEAR, moment_of

Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Ordinal = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""A number that is kept, in rows as Postgres' `integer`."""
StepName = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Path = Annotated[str, msgspec.Meta(max_length=4096)]
Ttl = Annotated[float, msgspec.Meta(gt=0, le=YEAR)]
MOST_WAIT = 3600.0
"""Seconds for which a run waits for a lock at most."""
Chunk = Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNK)]


class ChildRequest(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """A request of the child, answered under the number that it gave.

    A field that is no field of the struct is refused, so that a reader of a frame need not wonder whether an organization in
    it has any effect. A field of type `msgspec.Raw` is a document: it is checked, and masked, before any other use.
    """

    id: Number


class StepGet(ChildRequest, frozen=True, tag="step_get"):
    """Asks for the record of a step, or of a wait."""

    name: StepName
    ordinal: Ordinal
    of: Kind = "step"


class StepPut(ChildRequest, frozen=True, tag="step_put"):
    """Asks to keep the result of a step."""

    name: StepName
    ordinal: Ordinal
    result: msgspec.Raw
    position: Ordinal | None = None


class WaitRequest(ChildRequest, frozen=True, tag="wait"):
    """Asks whether a wait is over."""

    of: Literal["sleep", "signal", "run"]
    name: StepName
    ordinal: Ordinal
    position: Ordinal | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=YEAR)] | None = None


class WaitForEvent(ChildRequest, frozen=True, tag="wait_for_event"):
    """Asks whether an event has come."""

    name: StepName
    ordinal: Ordinal
    asked: msgspec.Raw
    position: Ordinal | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=YEAR)] | None = None


class WaitGivenUp(ChildRequest, frozen=True, tag="wait_given_up"):
    """Reports that a wait was given up."""

    of: Literal["sleep", "signal", "ask", "run", "event"]
    name: StepName
    ordinal: Ordinal
    position: Ordinal | None = None


class AskPeople(ChildRequest, frozen=True, tag="ask"):
    """Asks people, or whether they have answered."""

    name: StepName
    ordinal: Ordinal
    question: msgspec.Raw
    position: Ordinal | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=YEAR)] | None = None


class LinkRequest(ChildRequest, frozen=True, tag="approval_link"):
    """Asks for a link by which somebody answers a question."""

    approval: Name
    name: Name


class SignalOther(ChildRequest, frozen=True, tag="signal_run"):
    """Signals another run."""

    run: Name
    name: StepName
    data: msgspec.Raw


class StartRun(ChildRequest, frozen=True, tag="start_run"):
    """Asks for a child run."""

    workflow: Name
    ordinal: Ordinal
    input: msgspec.Raw
    position: Ordinal | None = None
    priority: Literal["high", "normal", "low"] | None = None
    run_at: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    concurrency_key: Name | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a time that is none."""
        if self.run_at is not None:
            moment_of(self.run_at)


class CancelRun(ChildRequest, frozen=True, tag="cancel_run"):
    """Asks for the run itself to be stopped."""


class ConnectionRequest(ChildRequest, frozen=True, tag="connection"):
    """Asks for a credential; `rejected` is the version of a token that the API has refused."""

    name: Name
    rejected: Ordinal | None = None


def _started(asked: StartRun) -> StartedRun:
    return StartedRun(
        workflow=asked.workflow,
        ordinal=asked.ordinal,
        position=asked.position,
        input=msgspec.json.decode(asked.input),
        priority=asked.priority,
        run_at=asked.run_at,
        concurrency_key=asked.concurrency_key,
    )


class VariableRequest(ChildRequest, frozen=True, tag="variable"):
    """Asks for a variable."""

    name: Name


class SecretRequest(ChildRequest, frozen=True, tag="secret"):
    """Asks for a secret."""

    name: Name


class IntegrationRequest(ChildRequest, frozen=True, tag="integration"):
    """Asks for an integration's values for the organization."""

    name: Name


class Emit(ChildRequest, frozen=True, tag="emit"):
    """Asks to have an event of a topic."""

    source: Name
    type: Name
    data: msgspec.Raw


class FileFind(ChildRequest, frozen=True, tag="file_find"):
    """Asks for the record of a file."""

    path: Path


class FileListRequest(ChildRequest, frozen=True, tag="file_list"):
    """Asks for files below a prefix, after a path."""

    prefix: Path
    after: Path


class FileRead(ChildRequest, frozen=True, tag="file_read"):
    """Asks for the next part of a file, under the number that the child gave to this reading of it."""

    path: Path
    reading: Number
    at: Number


class FileWrite(ChildRequest, frozen=True, tag="file_write"):
    """Hands the next part of a file over, under the number that the child gave to this writing of it."""

    path: Path
    writing: Number
    at: Number
    data: Chunk
    is_last: bool


class FileDelete(ChildRequest, frozen=True, tag="file_delete"):
    """Asks to delete a file."""

    path: Path


class StateGet(ChildRequest, frozen=True, tag="state_get"):
    """Asks for a value of the state."""

    key: Name


class StatePut(ChildRequest, frozen=True, tag="state_put"):
    """Asks to give a key of the state a value."""

    key: Name
    value: msgspec.Raw
    expected: Number | None = None
    ttl: Ttl | None = None


class StateIncrement(ChildRequest, frozen=True, tag="state_increment"):
    """Asks to add to a number of the state."""

    key: Name
    by: Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
    ttl: Ttl | None = None


class StateDelete(ChildRequest, frozen=True, tag="state_delete"):
    """Asks to remove a key of the state."""

    key: Name
    expected: Number | None = None


class StateListRequest(ChildRequest, frozen=True, tag="state_list"):
    """Asks for values of the state below a prefix, after a key."""

    prefix: Path
    after: Path


class LockHold(ChildRequest, frozen=True, tag="lock_hold"):
    """Asks for a lock, under the number that the child gave to this holding of it."""

    number: Number
    name: Name
    wait: Annotated[float, msgspec.Meta(ge=0, le=MOST_WAIT)]


class LockFree(ChildRequest, frozen=True, tag="lock_free"):
    """Gives a lock back."""

    number: Number


def _no_secrets(_answer: Any) -> Iterable[str]:
    return ()


def link_secrets(url: str) -> tuple[str, ...]:
    """Return what is secret of a link: its token, wherever that stands."""
    return (url.rpartition("=")[2],)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one kind of request."""

    call: Callable[[Capabilities, Any], Awaitable[Any]]
    """Answers from the capabilities of the run and the request with its documents masked. The answer is JSON."""
    secrets: Callable[[Any], Iterable[str]] = _no_secrets
    """The secrets in an answer, which are masked from then on, before the child has them."""
    is_kept: bool = False
    """Whether a run that has reported its end is not ended before this is done: it has an effect that the author counts on."""
    instead: Callable[[Any], Any] | None = None
    """The answer when masking changed the request, from its result: else the child would go on with another."""


SERVED: dict[type[ChildRequest], Served] = {
    StepGet: Served(call=lambda run, asked: run.step_get(asked.name, asked.ordinal, asked.of)),
    StepPut: Served(
        call=lambda run, asked: run.step_put(asked.name, asked.ordinal, asked.position, asked.result),
        is_kept=True,
        # This attempt shall go on with the value that a later one will find.
        instead=lambda asked: StepRecord(asked.result),
    ),
    WaitRequest: Served(
        call=lambda run, asked: run.wait(asked.of, asked.name, asked.ordinal, asked.position, asked.seconds), is_kept=True
    ),
    WaitForEvent: Served(
        call=lambda run, asked: run.wait_for_event(asked.name, asked.ordinal, asked.position, asked.seconds, asked.asked),
        is_kept=True,
    ),
    WaitGivenUp: Served(call=lambda run, asked: run.give_up(asked.of, asked.name, asked.ordinal, asked.position), is_kept=True),
    AskPeople: Served(
        call=lambda run, asked: run.ask(asked.name, asked.ordinal, asked.position, asked.seconds, asked.question), is_kept=True
    ),
    LinkRequest: Served(
        call=lambda run, asked: run.approval_link(asked.approval, asked.name), secrets=lambda answer: link_secrets(answer["url"])
    ),
    SignalOther: Served(call=lambda run, asked: run.signal_run(asked.run, asked.name, asked.data), is_kept=True),
    StartRun: Served(call=lambda run, asked: run.start_run(_started(asked)), is_kept=True),
    CancelRun: Served(call=lambda run, _asked: run.cancel_run(), is_kept=True),
    ConnectionRequest: Served(
        call=lambda run, asked: run.connection(asked.name, rejected=asked.rejected), secrets=lambda answer: (answer["token"],)
    ),
    VariableRequest: Served(call=lambda run, asked: run.variable(asked.name)),
    SecretRequest: Served(call=lambda run, asked: run.secret(asked.name), secrets=lambda answer: (answer["value"],)),
    IntegrationRequest: Served(
        call=lambda run, asked: run.integration(asked.name),
        secrets=lambda answer: [answer["config"][name] for name in answer.get("secrets", ())],
    ),
    Emit: Served(call=lambda run, asked: run.emit(asked.source, asked.type, asked.data), is_kept=True),
    FileFind: Served(call=lambda run, asked: run.file_find(asked.path)),
    FileListRequest: Served(call=lambda run, asked: run.file_list(asked.prefix, asked.after)),
    FileRead: Served(call=lambda run, asked: run.file_read(asked.path, asked.reading, asked.at)),
    FileWrite: Served(
        call=lambda run, asked: run.file_write(asked.path, asked.writing, asked.at, asked.data, is_last=asked.is_last),
        is_kept=True,
    ),
    StateGet: Served(call=lambda run, asked: run.state_get(asked.key)),
    StatePut: Served(call=lambda run, asked: run.state_put(asked.key, asked.value, asked.expected, asked.ttl), is_kept=True),
    StateIncrement: Served(call=lambda run, asked: run.state_increment(asked.key, asked.by, asked.ttl), is_kept=True),
    StateDelete: Served(call=lambda run, asked: run.state_delete(asked.key, asked.expected), is_kept=True),
    StateListRequest: Served(call=lambda run, asked: run.state_list(asked.prefix, asked.after)),
    LockHold: Served(call=lambda run, asked: run.lock_hold(asked.number, asked.name, asked.wait)),
    LockFree: Served(call=lambda run, asked: run.lock_free(asked.number)),
    FileDelete: Served(call=lambda run, asked: run.file_delete(asked.path), is_kept=True),
}


@functools.cache
def documents_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the names of the fields of a frame that hold a JSON document as it was written."""
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.type is msgspec.Raw)
