"""Requests with an idempotency key: one at a time, and the same each time (IETF draft "The Idempotency-Key HTTP Header Field")."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from shared.envelope import derived_id
from shared.errors import Conflict, Invalid, Problem


class Starting:
    """Requests with a key that have no answer yet, by the run that they ask for, in this process.

    Two that come to two gateways at a time are settled by the broker, which takes one: both get its run.
    """

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    @contextlib.contextmanager
    def alone(self, run: str, mark: str) -> Iterator[None]:
        """Let one request at a time ask for a run. Raises `Conflict` while the same one does, `Invalid` while another does."""
        if run in self._marks:
            compare(mark, self._marks[run])
            raise Conflict("the first request with this idempotency key is still starting its run; ask again", retry_after=1.0)
        self._marks[run] = mark
        try:
            yield
        finally:
            del self._marks[run]


def run_id(org: str, idempotency_key: str, removal: str | None) -> str:
    """Return the id of the run that requests with a key ask for: always the same one.

    `removal` is the id of the last removal of an organization of the name: what was asked for before it was another one's.
    """
    return derived_id("run of", org, idempotency_key, *([] if removal is None else [removal]))


def compare(mark: str | None, earlier: str | None) -> None:
    """Raise `Invalid` where the key of a request was used for one that asked for something else."""
    if mark != earlier:
        detail = "this idempotency key was used for another request: another workflow, input or other field of the body"
        raise Invalid(detail, errors=(Problem("Idempotency-Key", "used for another request"),))
