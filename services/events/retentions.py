"""The rule of retentions that no schema can state."""

from __future__ import annotations

from shared.errors import Invalid, Problem
from shared.owners.rules import Draft, Rules
from shared.resources.retention import FEWEST, Retention


class Retentions(Rules[Retention]):
    """Each stream has its fewest days."""

    async def check(self, draft: Draft[Retention]) -> Retention:
        """Return the spec if the stream may be kept for so short a time."""
        fewest = FEWEST[draft.spec.stream]
        if draft.spec.days < fewest:
            detail = f"must be at least {fewest} for {draft.spec.stream}"
            raise Invalid(f"days {detail}", errors=(Problem("days", detail),))
        return draft.spec
