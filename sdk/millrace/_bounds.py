"""The bounds of an author's arguments, checked at the call: the supervisor ends a run that sends an unreadable frame.

Each check returns the value to send. It raises TypeError for another type and ValueError for a value out of bounds, and names
the argument.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

NAME = 200
"""Characters of a name: of a step, a signal, a workflow, a connection, …; and of a concurrency key."""
PATH = 4096
"""Characters of a path, or of a prefix of one."""
YEAR = 31_622_400.0
"""Seconds, of a leap year: no duration is longer."""
DAY = 86_400.0
"""Seconds for which options are kept at most."""
RETRIES = 1000
TURNS = 1000
"""Runs of one concurrency key that go on at a time."""
EXPRESSION = 4096
"""Characters of a concurrency expression."""
INPUT = 1024 * 1024
"""Bytes of a child run's input as JSON."""
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**64 - 1
"""Of whole numbers that leave a run."""
LEAST_FLOAT, MOST_FLOAT = 1e-300, 1e285
MOST_EXTREME = 100
"""Numbers beyond these, zero left out, in a result, a step's or an event: reading one takes hundreds of times as long."""
GROUP = 32
"""Characters of the name of a worker group."""
DEFAULT_GROUP = "default"
_IN_GROUPS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
PRIORITIES = ("high", "normal", "low")
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_SHOWN = 60


def is_ordinary(number: float) -> bool:
    """Answer whether a number is read as fast as others."""
    return number == 0 or LEAST_FLOAT <= abs(number) <= MOST_FLOAT


def text(given: object, what: str, longest: int = NAME, *, least: int = 1) -> str:
    """Answer `given` where it has `least` to `longest` characters that can be sent."""
    if not isinstance(given, str):
        msg = f"{what} is text, not {_shown(given)}"
        raise TypeError(msg)
    if not least <= len(given) <= longest:
        msg = f"{what} has {least} to {longest} characters, not {len(given)}"
        raise ValueError(msg)
    if "\0" in given:
        msg = f"{what} holds a NUL character"
        raise ValueError(msg)
    try:
        given.encode()
    except UnicodeEncodeError:
        msg = f"{what} holds half a surrogate pair, which is not a character"
        raise ValueError(msg) from None
    return str(given)


def seconds(given: object, what: str, *, above_zero: bool = False) -> float:
    """Answer a duration, given in seconds or as a `timedelta`, in seconds."""
    if isinstance(given, timedelta):
        found = given.total_seconds()
    elif isinstance(given, int | float) and not isinstance(given, bool):
        found = float(given) if abs(given) <= YEAR else given
    else:
        msg = f"{what} is a number of seconds or a timedelta, not {_shown(given)}"
        raise TypeError(msg)
    if not (found > 0 if above_zero else found >= 0) or not found <= YEAR:
        least = "above" if above_zero else "from"
        msg = f"{what} is a number of seconds {least} 0, at most a year ({YEAR:.0f}), not {_shown(given)}"
        raise ValueError(msg)
    return float(found)


def moment(given: object, what: str) -> datetime:
    """Answer an aware `datetime` within the calendar, in UTC."""
    if not isinstance(given, datetime):
        msg = f"{what} is a datetime with a time zone, not {_shown(given)}"
        raise TypeError(msg)
    if given.utcoffset() is None:
        msg = f"{what} has a time zone"
        raise ValueError(msg)
    if not _FIRST <= given <= _LAST:
        msg = f"{what} is from {_FIRST.date()} to {_LAST.date()}, not {_shown(given)}"
        raise ValueError(msg)
    return given.astimezone(UTC)


def ahead(given: object, what: str) -> datetime:
    """Answer a moment that is at most a year from now, or has passed."""
    found = moment(given, what)
    if (found - datetime.now(UTC)).total_seconds() > YEAR:
        msg = f"{what} is at most a year ahead, not {_shown(given)}"
        raise ValueError(msg)
    return found


def whole(given: object, what: str, least: int, most: int) -> int:
    """Answer a whole number from `least` to `most`."""
    if isinstance(given, bool) or not isinstance(given, int):
        msg = f"{what} is a whole number from {least} to {most}, not {_shown(given)}"
        raise TypeError(msg)
    if not least <= given <= most:
        msg = f"{what} is a whole number from {least} to {most}, not {_shown(given)}"
        raise ValueError(msg)
    return int(given)


def one_of(given: object, what: str, choices: tuple[str, ...]) -> str:
    """Answer the one of some texts that is given."""
    if not isinstance(given, str):
        msg = f"{what} is one of {', '.join(choices)}, not {_shown(given)}"
        raise TypeError(msg)
    if given not in choices:
        msg = f"{what} is one of {', '.join(choices)}, not {_shown(given)}"
        raise ValueError(msg)
    return str(given)


def group(given: object) -> str | None:
    """Answer the name of a worker group; None for the default one."""
    found = text(given, "group", GROUP)
    if found == DEFAULT_GROUP:
        return None
    if found[0] in "-_" or not _IN_GROUPS.issuperset(found):
        msg = f"group has lower-case letters, digits, - and _, the first a letter or digit, not {_shown(given)}"
        raise ValueError(msg)
    return found


def mapping(given: object, what: str) -> dict[str, Any]:
    """Answer a dict whose keys are text; None is an empty one."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        msg = f"{what} is a dict, not {_shown(given)}"
        raise TypeError(msg)
    for key in given:
        if not isinstance(key, str):
            msg = f"{what} has text for its keys, not {_shown(key)}"
            raise TypeError(msg)
    return given


def function(given: object, what: str) -> Any:
    """Return the callable."""
    if not callable(given):
        hint = ": give the function and its arguments, without calling it" if hasattr(given, "__await__") else ""
        msg = f"{what} is a function, not {_shown(given)}{hint}"
        raise TypeError(msg)
    return given


def _shown(given: object) -> str:
    try:
        shown = repr(given)
    except Exception:
        shown = f"<{type(given).__name__}>"
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"


def flag(value: object, what: str) -> bool:
    """Return a value that is true or false. Raises TypeError."""
    if not isinstance(value, bool):
        msg = f"{what} is True or False, not {value!r}"
        raise TypeError(msg)
    return value
