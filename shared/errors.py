"""The one tree of errors; only `shared.http` and `shared.bus` translate it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One fault of an input: its place (`path`, dotted, as in `settings.secret`) and a description."""

    path: str
    message: str


class MillraceError(Exception):
    """A deliberate refusal of Millrace.

    `detail` is one sentence for a person: it names the fault and its place, and holds no secret.
    """

    kind: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, errors: tuple[Problem, ...] = (), retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after


class Malformed(MillraceError):
    """The bytes are not of their declared format (broken JSON, bad UTF-8)."""

    kind = "malformed"
    status = 400
    title = "Malformed"


class Invalid(MillraceError):
    """Understood, and can never work: a value that does not fit."""

    kind = "invalid"
    status = 422
    title = "Does not fit"


class Unauthenticated(MillraceError):
    """The request comes from no known client."""

    kind = "unauthenticated"
    status = 401
    title = "Not authenticated"


class PermissionDenied(MillraceError):
    """Known, and not allowed."""

    kind = "permission_denied"
    status = 403
    title = "Not allowed"


class NotFound(MillraceError):
    """Not there, or not there yet, or another organization's."""

    kind = "not_found"
    status = 404
    title = "Not found"


class MethodNotAllowed(MillraceError):
    """Another method than the `allowed` ones."""

    kind = "method_not_allowed"
    status = 405
    title = "Method Not Allowed"

    def __init__(self, detail: str, *, allowed: Iterable[str]) -> None:
        super().__init__(detail)
        self.allowed = tuple(allowed)


class Gone(MillraceError):
    """Was there, and was retired."""

    kind = "gone"
    status = 410
    title = "Gone"


class TooLarge(MillraceError):
    """Over a limit that the detail names."""

    kind = "too_large"
    status = 413
    title = "Too large"


class AddressTooLong(MillraceError):
    """An address of more bytes, or parameters, than are read."""

    kind = "address_too_long"
    status = 414
    title = "URI too long"


class UnsupportedMediaType(MillraceError):
    """A body in a form that is not read."""

    kind = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class RangeNotSatisfiable(MillraceError):
    """A part was asked for that the content does not have; `size` is the content's, in bytes."""

    kind = "range_not_satisfiable"
    status = 416
    title = "Range not satisfiable"

    def __init__(self, detail: str, *, size: int = 0) -> None:
        super().__init__(detail)
        self.size = size


class TooSlow(MillraceError):
    """Did not arrive in time."""

    kind = "too_slow"
    status = 408
    title = "Too slow"


class TooMany(MillraceError):
    """More at once than one of many may have: try again in `Retry-After` seconds."""

    kind = "too_many"
    status = 429
    title = "Too many requests"


class RateExceeded(TooMany):
    """More in a time than a limit lets in; `limit` is its name."""

    def __init__(self, limit: str, detail: str, *, retry_after: float) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.limit = limit


class Conflict(MillraceError):
    """Another writer was first."""

    kind = "conflict"
    status = 409
    title = "Conflict"


class PreconditionFailed(MillraceError):
    """`If-Match` names another version than the one that is there."""

    kind = "precondition_failed"
    status = 412
    title = "Precondition failed"


class Unavailable(MillraceError):
    """Try again in `Retry-After` seconds; whether it happened may be unknown."""

    kind = "unavailable"
    status = 503
    title = "Unavailable"

    def __init__(self, detail: str, *, errors: tuple[Problem, ...] = (), retry_after: float | None = 2) -> None:
        super().__init__(detail, errors=errors, retry_after=retry_after)


class CodeFailed(MillraceError):
    """An author's code, on which the answer stands, has failed; the detail says how."""

    kind = "code_failed"
    status = 502
    title = "The code failed"


class ErrorDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it crosses the bus in an answer; `kind` is a class of this module."""

    kind: str
    detail: str
    errors: tuple[Problem, ...] = ()
    retry_after: float | None = None


KINDS: dict[str, type[MillraceError]] = {
    cls.kind: cls
    for cls in (
        Malformed,
        Invalid,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        Gone,
        TooLarge,
        UnsupportedMediaType,
        TooSlow,
        TooMany,
        Conflict,
        PreconditionFailed,
        Unavailable,
        CodeFailed,
    )
}


def to_document(error: MillraceError) -> ErrorDocument:
    """Return `error` as it crosses the bus."""
    return ErrorDocument(error.kind, error.detail, error.errors, error.retry_after)


def from_document(document: ErrorDocument) -> MillraceError:
    """Return the error that an answer of the bus holds; an unknown kind is a plain `MillraceError`."""
    kind: Any = KINDS.get(document.kind, MillraceError)
    error: MillraceError = kind(document.detail, errors=document.errors, retry_after=document.retry_after)
    return error
