"""Answers in the place of the APIs that clients call."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from millrace._outgoing import Outgoing
from millrace._reply import Reply
from millrace._runtime.encode import to_json
from millrace.testing.outcome import Sent

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_JSON = {"content-type": "application/json"}


class Answers:
    """Takes the requests of clients, and answers each as the test declares, by connection."""

    def __init__(self, given: Mapping[str, Mapping[str, Any] | Callable[[Sent], Any]]) -> None:
        for connection, of in given.items():
            if callable(of):
                continue
            if not isinstance(of, Mapping):
                msg = f"answers[{connection!r}] is a dict by 'METHOD /path', or a function, not {type(of).__name__}"
                raise TypeError(msg)
            for key in of:
                if (
                    not isinstance(key, str)
                    or key.partition(" ")[0] not in _METHODS
                    or not key.partition(" ")[2].startswith(("/", "http"))
                ):
                    msg = f"answers[{connection!r}] has {key!r}, which is no 'METHOD /path'"
                    raise ValueError(msg)
        self._given = given
        self.sent: list[Sent] = []

    def answered(self, request: Outgoing) -> Reply:
        """Answer a request. Raises LookupError that names one for which the test declares nothing."""
        sent = Sent(request.connection, request.method, request.path, dict(request.headers), request.body or b"")
        self.sent.append(sent)
        return _reply(self._found(sent), sent)

    def _found(self, sent: Sent) -> Any:
        where, asked = f"answers[{sent.connection!r}]", f"{sent.method} {sent.path}"
        of = self._given.get(sent.connection)
        if of is None:
            msg = f"{where} is not given, and {asked} was sent"
            raise LookupError(msg)
        if callable(of):
            return of(sent)
        for key in (asked, asked.partition("?")[0]):
            if key in of:
                return of[key]
        there = ", ".join(of) or "nothing"
        msg = f"{where} has no answer to {asked}; it has {there}"
        raise LookupError(msg)


def _reply(answer: Any, sent: Sent) -> Reply:
    if callable(answer):
        answer = answer(sent)
    if isinstance(answer, Iterator):
        answer = next(answer, LookupError(f"answers[{sent.connection!r}] has no more answers to {sent.method} {sent.path}"))
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, Reply):
        return answer
    if answer is None:
        return Reply(204)
    text = to_json(answer, what=f"the answer to {sent.method} {sent.path}", rich=True)
    return Reply(200, text.encode(), _JSON)
