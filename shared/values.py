"""Values that may enter: text, numbers, times and durations that JSON, Postgres and Python all hold, declared and decoded here.

Text has no NUL and no lone surrogate: Postgres keeps neither, and the second has no UTF-8. Whole numbers have 64 bits, signed or
not; others are those of binary64 (RFC 8259, section 6). Values nest up to `DEPTH` levels. Times lie between `FIRST` and `LAST`,
whose date is within the calendars of Python and Postgres in every time zone. No duration is longer than `YEAR`.

Users of the API are refused with the path of the value that does not fit (`decode`, `check`); values from senders are cleaned
(`decode_sent`, `cleaned`), since a refusal would have no reader.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, overload

import msgspec
from msgspec import structs

from shared.errors import Invalid, Malformed, Problem

# Bytes of an input that takes longer to be read than others should wait.
LARGE = 64 * 1024
_READER = ThreadPoolExecutor(1, "millrace-reading")
# Deeper than any sender goes, and shallow enough for every recursion between here and the archive.
DEPTH = 100
TOO_DEEP = f"is nested deeper than {DEPTH} levels"
# Seconds; of a leap year.
YEAR = 366 * 86_400.0
FIRST = datetime(1, 1, 2, tzinfo=UTC)
LAST = datetime(9999, 12, 30, tzinfo=UTC)
# Values in one document: as many as a run may give back. A list of a million empty lists is 3 MB, and 200 MB once it is read.
MOST_VALUES = 250_000
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**64 - 1
# Nearer to the ends of binary64 msgspec needs 7 to 17 us to read a number, instead of 0.03: each reader of a message with many of
# them would stand still for seconds. A few are a program's largest or smallest number.
LEAST_FLOAT, MOST_FLOAT = 1e-300, 1e285
MOST_EXTREME = 100
REPLACEMENT = "\ufffd"
# Of a path in a complaint, which repeats the names of an input.
LONGEST_PATH = 300
# Of an event's type, in characters.
MOST_TYPE = 200

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""A name; its owner restricts the letters."""
Key = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
"""An id, or an organization: text that may stand in a subject."""
Words = Annotated[str, msgspec.Meta(max_length=1000)]
"""A sentence or two for people."""
Path = Annotated[str, msgspec.Meta(max_length=1024)]
Expression = Annotated[str, msgspec.Meta(max_length=4096)]
"""Source text of a filter or a search."""
Opaque = Annotated[str, msgspec.Meta(max_length=2048)]
"""Text that its issuer wants back as it was: a cursor, a hash, an entity tag."""
Instant = Annotated[str, msgspec.Meta(max_length=64)]
"""A time as text; `moment_of` reads it."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=YEAR)]
Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A place in a stream, or a count: within Postgres' bigint."""

T = TypeVar("T")
# The place of a value: its container, and its name or number there.
_Place = tuple["_Place | None", str | int]

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# JSON without any of these needs no second look: escapes that may be unstorable, and numbers of over 64 bits or extreme ones.
_DOUBTFUL = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}|[0-9][eE][+-]?[0-9]{3}")
# The same where numbers stand: one in seven random uuids has a part like `7e123`. It takes twice as long, and only after the first.
_DOUBTFUL_NUMBER = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}|(?:\A|[\[:,\s])-?[0-9][0-9.]*[eE][+-]?[0-9]{3}")
_PLACE = re.compile(r"\[([0-9]+)\]")
_MALFORMED = re.compile(r"JSON is malformed: (.*) \(byte ([0-9]+)\)", re.DOTALL)
_MISSING = re.compile("Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_HUGE_EXPONENT = re.compile("[eE][+-]?[0-9]{3}")
_FRACTION = re.compile("[.eE]")
_LONG_NUMBER = re.compile(rb"[0-9]{33}")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NUL_ESCAPE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def storable(text: str) -> str:
    """Return `text` with U+FFFD in place of each NUL, lone surrogate, and byte that was no UTF-8 (`surrogateescape`)."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub(REPLACEMENT, text)


def cleaned(value: Any, depth: int = 0) -> Any:
    """Return `value`, of JSON types, with all text in it `storable`. Raises `Malformed` deeper than `DEPTH`."""
    if isinstance(value, str):
        return storable(value)
    if not isinstance(value, dict | list):
        return value
    if depth >= DEPTH:
        raise _too_deep()
    if isinstance(value, list):
        return [cleaned(one, depth + 1) for one in value]
    return {storable(name): cleaned(one, depth + 1) for name, one in value.items()}


def check(value: Any, path: str = "") -> None:
    """Raise `Invalid` naming the first place in `value`, of JSON types, that may not enter, `Malformed` where it is too deep."""
    # A stack of our own: a generator that recurses takes ten times as long, in a loop that others wait for.
    left: list[tuple[Any, _Place | None, int]] = [(value, None, 0)]
    extreme = 0
    while left:
        one, place, depth = left.pop()
        kind = type(one)
        if kind is dict or kind is list:
            if depth >= DEPTH:
                raise _too_deep(_path_of(place, path))
            if kind is dict:
                if any(map(_UNSTORABLE.search, one)):
                    raise _fault(place, path, "has a name that holds a NUL character or half of a surrogate pair")
                left += [(inner, (place, name), depth + 1) for name, inner in one.items()]
            else:
                left += [(inner, (place, number), depth + 1) for number, inner in enumerate(one)]
        elif kind is str:
            if (found := _UNSTORABLE.search(one)) is not None:
                raise _fault(place, path, f"holds {'a NUL character' if found[0] == chr(0) else 'half of a surrogate pair'}")
        elif kind is int:
            if not LEAST_INTEGER <= one <= MOST_INTEGER:
                raise _fault(place, path, "holds a whole number of more than 64 bits")
        elif kind is float and not is_ordinary(one):
            if not math.isfinite(one):
                raise _fault(place, path, "holds a number that is not finite")
            extreme += 1
            if extreme > MOST_EXTREME:
                raise _fault(place, path, f"is one of more than {MOST_EXTREME} numbers beyond {LEAST_FLOAT:g} to {MOST_FLOAT:g}")


@overload
def decode(raw: bytes) -> Any: ...
@overload
def decode(raw: bytes, type_: type[T]) -> T: ...
def decode(raw: bytes, type_: Any = Any) -> Any:
    """Return JSON as `type_`. Raises `Malformed` for broken or too deep JSON or a name twice in an object, `Invalid` with
    the path of a refused value.
    """
    _check_count(raw)
    try:
        if _is_doubtful(raw) or _may_be_deep(raw):
            check(_loaded(raw))
        value = msgspec.json.decode(raw, type=type_)
        if raw.count(b":") > 1:
            # Of two values of a name each reader takes the one or the other; msgspec takes the last.
            _NAMES.decode(raw.decode())
        return value
    except msgspec.ValidationError as error:
        raise misfit(error, type_) from error
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _broken(raw, error) from error


async def aside(function: Callable[..., T], *args: Any, size: int) -> T:
    """Call a reader of `size` bytes of input; many bytes in a thread, one input after the other.

    The loop goes on in between: a large input must not hold up small ones.
    """
    if size <= LARGE:
        return function(*args)
    return await asyncio.get_running_loop().run_in_executor(_READER, function, *args)


def decode_sent(raw: bytes) -> Any:
    """Return the JSON that a sender sent, its text `storable`; bytes that are no UTF-8 are U+FFFD, a byte order mark is left out.

    Raises `Malformed` for broken or too deep JSON, `Invalid` with the path of a number that may not enter.
    """
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    _check_count(raw)
    try:
        if not _is_doubtful(raw) and not _may_be_deep(raw):
            return msgspec.json.decode(raw)
    except msgspec.ValidationError as error:
        raise misfit(error) from error
    except UnicodeDecodeError:
        raw = raw.decode(errors="replace").encode()
    except msgspec.DecodeError as error:
        raise _broken(raw, error) from error
    value = cleaned(_loaded(raw))
    check(value)
    return value


def lenient(document: bytes) -> Any:
    """Return stored JSON, also with values that may not enter: bytes that are no UTF-8 are lone surrogates (`surrogateescape`).

    Numbers that databases or other languages may not hold stay text. Raises ValueError, RecursionError.
    """
    text = document.decode("utf-8", "surrogateescape")
    return json.loads(text, parse_constant=str, parse_float=_number, parse_int=_number)


def fitted(value: Any, type_: type[T]) -> T:
    """Return `value`, of JSON types and checked before, as `type_`. Raises `Invalid` naming the field."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise misfit(error, type_) from error


_LACKS = ("is missing", "give it")
_HAS_TOO_MUCH = ("is unknown", "correct its name, or leave it out")


def misfit(error: msgspec.ValidationError, type_: Any = Any) -> Invalid:
    """Return the error of a value that does not fit `type_`: msgspec's "… - at `$.a.b`" split into message and place.

    Its detail names the place, the fault there and the remedy.
    """
    message, found, place = str(error).partition(" - at `$")
    path = _PLACE.sub(r".\1", place.rstrip("`")).lstrip(".") if found else ""
    if (missing := _MISSING.fullmatch(message)) is not None:
        # msgspec names the object that lacks a field, or has one too many; its user looks for the field.
        path = f"{path}.{missing[2]}".lstrip(".")
        message, remedy = _LACKS if missing[1] == "missing required" else _HAS_TOO_MUCH
        detail = f"{message}: {remedy}"
    elif message.startswith("Invalid enum value") and (choices := _choices(type_, path.split("."))):
        detail = message = f"is none of {', '.join(choices)}"
    else:
        detail = f"does not fit: {message}"
    return Invalid(f"{path[:LONGEST_PATH] or 'the value'} {detail}", errors=(Problem(path[:LONGEST_PATH], message),))


def _choices(type_: Any, path: list[str]) -> list[str]:
    """Return the values that the `Literal` at a path takes, which msgspec leaves out of its complaint."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Literal:
        return [str(value) for value in arguments]
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return [found for one in structs.fields(type_) if [one.encode_name] == path[:1] for found in _choices(one.type, path[1:])]
    return [found for one in arguments for found in _choices(one, path[1:] if origin is list else path)]


def without_nul(document: bytes) -> bytes:
    """Return a JSON document with U+FFFD in place of each NUL that is escaped in it."""
    return _NUL_ESCAPE.sub(rb"\1\\ufffd", document) if b"\\u0000" in document else document


def moment_of(text: str) -> datetime:
    """Return an RFC 3339 time in UTC. Raises ValueError for other text, no zone, or a time not between `FIRST` and `LAST`."""
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise ValueError("a time without a zone")
    return within(read)


def within(moment: datetime) -> datetime:
    """Return an aware time in UTC. Raises ValueError when it is not between `FIRST` and `LAST`."""
    if not FIRST <= moment <= LAST:
        raise ValueError("a time outside the calendar")
    return moment.astimezone(UTC)


def moment_at(text: str, path: str) -> datetime:
    """Return the time of an input's `path`, as `moment_of` does. Raises `Invalid`."""
    try:
        return moment_of(text)
    except ValueError as error:
        detail = f"must be an RFC 3339 time with a zone, between {FIRST.date()} and {LAST.date()}"
        raise Invalid(f"{path} {detail}", errors=(Problem(path, detail),)) from error


def is_ordinary(number: float) -> bool:
    """Return whether a number of binary64 is zero, or far enough from the ends of its range to be read fast."""
    return number == 0 or LEAST_FLOAT <= abs(number) <= MOST_FLOAT


def later(moment: datetime, seconds: float) -> datetime:
    """Return the time so many seconds after `moment`; never one outside the calendar, whatever the number."""
    try:
        return min(LAST, max(FIRST, moment + timedelta(seconds=seconds)))
    except (OverflowError, ValueError):
        return FIRST if seconds < 0 else LAST


def _path_of(place: _Place | None, path: str) -> str:
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(str(name))
    return ".".join([path] * bool(path) + names[::-1])[:LONGEST_PATH]


def _fault(place: _Place | None, path: str, message: str) -> Invalid:
    problem = Problem(_path_of(place, path), message)
    return Invalid(f"{problem.path or 'the value'} {message}", errors=(problem,))


def _check_count(raw: bytes) -> None:
    """Raise `Invalid` for JSON of more than `MOST_VALUES` values, before any of them is made."""
    if _values_in(raw) > MOST_VALUES and _values_in(_STRING.sub(b"", raw)) > MOST_VALUES:
        detail = f"holds more than {MOST_VALUES:,} values"
        raise Invalid(f"the document {detail}", errors=(Problem("", detail),))


def _values_in(raw: bytes) -> int:
    """Return how many values JSON holds at most: each but the first of a list or an object comes after a comma."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + 1


def _too_deep(path: str = "") -> Malformed:
    path = path[:LONGEST_PATH]
    return Malformed(f"{path or 'the value'} {TOO_DEEP}", errors=(Problem(path, TOO_DEEP),))


def _is_doubtful(raw: bytes) -> bool:
    return _DOUBTFUL.search(raw) is not None and _DOUBTFUL_NUMBER.search(raw) is not None


def _may_be_deep(raw: bytes) -> bool:
    """Return whether JSON has so many brackets that it may nest deeper than `DEPTH`; the look itself must not recurse."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH:
        return False
    try:
        level = [msgspec.json.decode(raw)]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    except RecursionError:
        return True
    for _ in range(DEPTH):
        level = [
            one for node in level for one in (node.values() if isinstance(node, dict) else node) if isinstance(one, dict | list)
        ]
        if not level:
            return False
    return True


def _loaded(raw: bytes) -> Any:
    """Decode JSON by the standard library, which can hold halves of surrogate pairs, so that `check` can name their place."""
    try:
        # Called for each number, it takes longer than all the rest: only where there is one that Python might not read.
        return json.loads(raw, parse_constant=_refused, parse_int=_integer if _LONG_NUMBER.search(raw) else None)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise _broken(raw, error) from error


def _broken(raw: bytes, error: Exception) -> Malformed:
    """Return the error of bytes that are no JSON, by line and column, counted in characters from 1."""
    at, why = len(raw), str(error)
    if isinstance(error, UnicodeDecodeError):
        at, why = error.start, "no UTF-8"
    elif isinstance(error, json.JSONDecodeError):
        at, why = len(error.doc[: error.pos].encode(errors="surrogatepass")), error.msg
    elif "truncated" in why:
        why = "its end is missing"
    elif (named := _MALFORMED.fullmatch(why)) is not None:
        at, why = int(named[2]), named[1]
    before = raw[:at].decode(errors="replace")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return Malformed(f"this is not JSON: {why} at line {line}, column {column}")


def _check_names(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        name = storable(name)[:LONGEST_PATH]
        raise Malformed(f"{name!r} stands twice in one object", errors=(Problem(name, "stands twice in one object"),))


_NAMES = json.JSONDecoder(object_pairs_hook=_check_names)


def _integer(digits: str) -> int:
    # Python refuses to read thousands of digits; `check` refuses these with their place.
    return int(digits) if len(digits) <= 32 else MOST_INTEGER + 1


def _number(text: str) -> Any:
    if len(text) > 300 or _HUGE_EXPONENT.search(text):
        return text
    return float(text) if _FRACTION.search(text) else int(text)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def at(value: Any, path: tuple[str, ...] | list[str]) -> Any:
    """Return the value at a path of a JSON value, or None."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isascii() and part.isdigit() and int(part[:9]) < len(value):
            value = value[int(part[:9])]
        else:
            return None
    return value


def near(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest of some names, empty where none is near."""
    found = difflib.get_close_matches(name, names, 1, 0.7)
    return f"; did you mean {found[0]!r}?" if found else ""


def text_of(value: Any) -> str | None:
    """Return a JSON value as senders sign it: text and whole numbers as they are; None for one without a single form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return None
