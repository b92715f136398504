"""A run's lines, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from millrace.cli.api import Api
from millrace.cli.codes import has_ended
from millrace.cli.show import compact, plain

# Seconds. The rows of a run's last lines are written beside the row of its end, a moment before or after it.
SETTLES_WITHIN = 1.0
# Characters of a value that was changed.
CUT = 60


class Follower:
    """Asks for what is new of one run; `run` is how it was at the last look, `over` whether nothing more is to come."""

    def __init__(self, api: Api, id_: str) -> None:
        self._api = api
        self._id = id_
        self._after = 0
        self._quiet_since: float | None = None
        self.run: dict[str, Any] = {}
        self.over = False

    def look(self, now: float, *, lines: bool = True) -> list[dict[str, Any]]:
        """Return the lines since the last look; `now` is in seconds of any clock that only goes forward. Raises `Refused`.

        Without `lines` only the run is looked at, and there is nothing to wait for after its end.
        """
        # The state first: lines that were written before the end are then looked for after it.
        self.run = self._api.get("/runs", self._id)
        if not lines:
            self.over = has_ended(self.run)
            return []
        found = list(lines_of(self._api, self._id, self._after))
        if found:
            self._after = found[-1]["n"]
            self._quiet_since = None
        if has_ended(self.run):
            self._quiet_since = now if self._quiet_since is None else self._quiet_since
            self.over = now - self._quiet_since >= SETTLES_WITHIN
        return found


def lines_of(api: Api, id_: str, after: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run after the one that is numbered `after`."""
    while True:
        page = api.get("/runs", id_, "logs", query={"after": after, "limit": 1000})
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        after = page["items"][-1]["n"]


def written(item: dict[str, Any]) -> str:
    """Return a line as people read it."""
    line = item["line"]
    return f"{line['time'][11:23]} {line['level']:7} {plain(line['message'])}{fields_of(line)}"


def fields_of(line: dict[str, Any]) -> str:
    """Return the fields of a line as people read them after its message."""
    return "".join(f" {plain(name)}={_short(value)}" for name, value in (line.get("fields") or {}).items())


def audited(item: dict[str, Any]) -> str:
    """Return of an audited action what its line leaves out: ` (access: create_run, POST /api/v1/…) role: viewer → admin`.

    That is the category, the reason, the request that was denied, and each value that was changed, as it was and as it is.
    """
    data = item.get("data") if item.get("stream") == "AUDIT" else None
    if not isinstance(data, dict):
        return ""
    detail = data["detail"] if isinstance(data.get("detail"), dict) else {}
    request = " ".join(str(detail[name]) for name in ("method", "path") if detail.get(name))
    # The line of what a webhook was refused for has its reason.
    reasons = [one for one in (detail.get("reason"), request) if one and not str(item["message"]).endswith(f"({one})")]
    about = ": ".join(filter(None, (plain(str(data.get("category") or "")), ", ".join(plain(str(one))[:CUT] for one in reasons))))
    changes = detail["changes"] if isinstance(detail.get("changes"), dict) else {}
    both = [(name, one) for name, one in changes.items() if isinstance(one, list) and len(one) == 2]
    said = "".join(f" {plain(name)}: {_cut(before)} → {_cut(after)}" for name, (before, after) in both)
    return f"{f' ({about})' if about else ''}{said}"


def _cut(value: Any) -> str:
    text = "-" if value is None else _short(value)
    return text if len(text) <= CUT else f"{text[: CUT - 1]}…"


def _short(value: Any) -> str:
    return (
        plain(value)
        if isinstance(value, str) and value and not any(letter.isspace() for letter in value)
        else plain(compact(value))
    )
