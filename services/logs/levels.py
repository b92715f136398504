"""The rules of levels that no schema can state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from shared.envelope import rfc3339
from shared.errors import Invalid, Problem
from shared.levels import is_active
from shared.owners.rules import Draft, Rules
from shared.resources.declaration import Resource
from shared.resources.level import Level
from shared.values import moment_at

# For so long may a service be told to log all: whoever forgets it is not to pay for ever.
LONGEST_DEBUG = timedelta(days=7)


class Levels(Rules[Level]):
    """Debugging has an end."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    async def check(self, draft: Draft[Level]) -> Level:
        """Return the spec if its end is a time, and a near one where it is for debugging."""
        spec = draft.spec
        until = None if spec.until is None else moment_at(spec.until, "until")
        if spec.level == "debug" and (until is None or until - self._now() > LONGEST_DEBUG):
            detail = f"must be given with debug, at most {LONGEST_DEBUG.days} days ahead: debugging has an end"
            raise Invalid(f"until {detail}", errors=(Problem("until", detail),))
        return spec if until is None else msgspec.structs.replace(spec, until=rfc3339(until))

    async def shown(self, found: Sequence[Resource[Level]]) -> Sequence[dict[str, Any]]:
        """Return whether each is in force."""
        now = self._now()
        return [{"active": is_active(one, now)} for one in found]
