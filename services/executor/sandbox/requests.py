"""What a run may ask for, in one table: each request as it is written, and how it is answered.

A new capability is a struct here, a method of `jail.Capabilities`, a line of `SERVED`, and the call of `channel.ask` in the SDK.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

import msgspec

from services.executor.sandbox.jail import Capabilities, StepRecord

Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
StepName = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Request(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """Something that the child waits for an answer to, under the number that it gave.

    A field that is no field of the struct is refused, so that nobody who reads a frame wonders whether an organization in
    it counts for anything. A field of type `msgspec.Raw` is a document: it is checked, and masked, before anybody sees it.
    """

    id: Number


class StepGet(Request, frozen=True, tag="step_get"):
    """Asks for the record of a step."""

    name: StepName
    ordinal: Number


class StepPut(Request, frozen=True, tag="step_put"):
    """Asks to keep the result of a step."""

    name: StepName
    ordinal: Number
    result: msgspec.Raw


class Connection(Request, frozen=True, tag="connection"):
    """Asks for a credential."""

    name: Name


def _no_secrets(_answer: Any) -> Iterable[str]:
    return ()


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of request is answered."""

    call: Callable[[Capabilities, Any], Awaitable[Any]]
    """What answers it: the capabilities of the run, and the request with its documents masked. The answer is JSON."""
    secrets: Callable[[Any], Iterable[str]] = _no_secrets
    """The secrets in an answer, which are masked from then on, before the child has them."""
    is_kept: bool = False
    """Whether a run that has told its end is not ended before this is done: it has an effect that the author counts on."""
    instead: Callable[[Any], Any] | None = None
    """What is answered when masking changed the request, given what came of it: else the child would go on with another."""


SERVED: dict[type[Request], Served] = {
    StepGet: Served(call=lambda run, asked: run.step_get(asked.name, asked.ordinal)),
    StepPut: Served(
        call=lambda run, asked: run.step_put(asked.name, asked.ordinal, asked.result),
        is_kept=True,
        # This attempt shall go on with what a later one will find.
        instead=lambda asked: StepRecord(asked.result),
    ),
    Connection: Served(call=lambda run, asked: run.connection(asked.name), secrets=lambda answer: (answer["token"],)),
}


def documents_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the names of the fields of a frame that hold a JSON document as it was written."""
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.type is msgspec.Raw)
