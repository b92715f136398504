"""`trace`: the run's place in a trace, where the installation keeps traces.

In a workflow:

    from millrace import trace, workflow

    @workflow
    def settle(invoices: list[str]) -> None:
        with trace.span("settle", invoices=len(invoices)):
            ...
"""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from millrace import _bounds, _order, _run
from millrace._runtime import channel
from millrace._runtime.encode import Plain

_MOST = 200
"""Spans of one attempt."""
_MOST_ATTRIBUTES = 32
_LONGEST = 1000
"""Characters of an attribute."""

_inside: "ContextVar[tuple[Any, str] | None]" = ContextVar("millrace_span", default=None)
_told: "list[Any]" = [None, 0]
"""The job whose spans are counted, and how many it has had: a process may serve several runs."""


class Trace:
    """The trace that the run is a part of.

    Where none is kept, as in a test, `id` and `traceparent` are None and a span is nothing: no workflow need ask first.
    """

    @property
    def id(self) -> str | None:
        """The trace's id, 32 hexadecimal digits."""
        given = _given()
        return None if given is None else given.split("-")[1]

    @property
    def traceparent(self) -> str | None:
        """The header `traceparent` for a request to a system that is to go on with the trace: the innermost span of the run's."""
        given = _given()
        if given is None:
            return None
        version, trace, _, flags = given.split("-")
        return f"{version}-{trace}-{_own() or given.split('-')[2]}-{flags}"

    def span(self, name: str, /, **attributes: object) -> AbstractContextManager[None]:
        """Record a part of the run, from the beginning to the end of a `with` block, and whether it raised.

        Attributes are text, numbers and truth values; anything else becomes text. An attempt has up to 200 spans, of up to 32
        attributes of 1,000 characters; what is more is left out. Credentials that the run was given are masked.
        """
        name = _bounds.text(name, "a span's name")
        return nullcontext() if _given() is None else _Span(name, attributes)


class _Span(AbstractContextManager[None]):
    def __init__(self, name: str, attributes: dict[str, object]) -> None:
        self._name = name
        self._attributes = attributes
        self._token: Token[tuple[Any, str] | None] | None = None

    def __enter__(self) -> None:
        self._parent, self._id = _own(), os.urandom(8).hex()
        self._begun, self._clock = time.time(), time.monotonic()
        self._token = _inside.set((_run.job, self._id))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._token is not None:
            _inside.reset(self._token)
            self._token = None
        if channel.current is None or _order.current.is_replay or not _counted():
            return  # an earlier attempt has told it
        told = {
            "name": self._name,
            "id": self._id,
            "parent": self._parent,
            "start": self._begun,
            "seconds": time.monotonic() - self._clock,
            "attributes": _attributes(self._attributes),
            "error": None if kind is None else kind.__name__[: _bounds.NAME],
        }
        channel.current.send({"kind": "span", "span": told})


def _given() -> str | None:
    return None if _run.job is None else _run.job.get("traceparent")


def _own() -> str | None:
    """Answer the id of the span of this run's code around the call, if there is one. What is replayed is told by no span."""
    within = _inside.get()
    return within[1] if within is not None and within[0] is _run.job and not _order.current.is_replay else None


def _counted() -> bool:
    """Count a span of the run, and answer whether it may be told."""
    if _told[0] is not _run.job:
        _told[:] = [_run.job, 0]
    _told[1] += 1
    return bool(_told[1] <= _MOST)


def _attributes(given: dict[str, object]) -> dict[str, Any]:
    made, plain = Plain(), {}
    for name, value in list(given.items())[:_MOST_ATTRIBUTES]:
        one = made.of(value)
        plain[made.text(name)[:_LONGEST]] = (
            one if isinstance(one, int | float) else (one if isinstance(one, str) else repr(one))[:_LONGEST]
        )
    return plain


trace = Trace()
