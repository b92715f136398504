"""`log`: structured lines of a run."""

import sys
from typing import Any

from millrace import _order
from millrace._runtime import channel
from millrace._runtime.encode import Plain

_LONGEST_EVENT = 1024
_MOST_FIELDS = 64


class Log:
    """Writes an event name and fields to the run's log.

    Never raises for a field's value (a value that is not JSON becomes text, a long one is cut) and never waits for an
    answer. The four levels are `debug`, `info`, `warning` and `error`.
    """

    def debug(self, event: object, /, **fields: object) -> None:
        """Log an event that helps only while looking for a fault."""
        self._write("debug", event, fields)

    def info(self, event: object, /, **fields: object) -> None:
        """Log that something happened."""
        self._write("info", event, fields)

    def warning(self, event: object, /, **fields: object) -> None:
        """Log that something is not as it should be, though the run goes on."""
        self._write("warning", event, fields)

    def error(self, event: object, /, **fields: object) -> None:
        """Log that something failed."""
        self._write("error", event, fields)

    def _write(self, level: str, event: object, fields: dict[str, object]) -> None:
        if _order.current.is_replay:
            return  # an earlier attempt has logged it
        made = Plain()
        name = _text(event, made)
        kept: dict[str, Any] = {made.text(key): made.of(value) for key, value in list(fields.items())[:_MOST_FIELDS]}
        current = channel.current
        if current is None:
            print(level, name, kept, file=sys.stderr)  # noqa: T201 - outside a run there is only the terminal
            return
        current.send({"kind": "log", "level": level, "event": name, "fields": kept})


def _text(event: object, made: Plain) -> str:
    shown = made.of(event)
    text = shown if isinstance(shown, str) else repr(shown)
    return text[:_LONGEST_EVENT]


log = Log()
