"""Finding a workflow by name, and whether an input fits it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shared.errors import Invalid, NotFound, Unavailable
from shared.messages.declaration import hashed_key
from shared.organizations import PLATFORM
from shared.questions.workflows import FindWorkflow, WorkflowEntry, WorkflowFound
from shared.registry import Entry, RegistryView
from shared.schemas import Checker, checker_of

# Schemas that are kept compiled.
CHECKERS = 512


class WorkflowLookup:
    """The registry's view, with the owner behind it."""

    def __init__(self, view: RegistryView[WorkflowEntry], find: Callable[[FindWorkflow], Awaitable[WorkflowFound]]) -> None:
        self._view = view
        self._find = find
        self._checkers: OrderedDict[tuple[str, str, str], Checker] = OrderedDict()

    async def find(self, org: str, name: str) -> WorkflowEntry:
        """Return the organization's workflow, else the platform's of that name. Raises `NotFound`, `Unavailable`."""
        own = self._view.get(hashed_key(org, name))
        if own is not None and own.value is not None:
            return own.value
        try:
            found = await self._find(FindWorkflow(org=org, name=name))
        except Unavailable:
            shared = self._view.get(hashed_key(PLATFORM, name))
            if shared is None or shared.value is None:
                raise
            return shared.value
        if found.entry is None:
            raise NotFound(f"there is no workflow {name!r}")
        self._view.learn(hashed_key(found.entry.org, name), Entry(found.seq, found.entry))
        return found.entry

    def check(self, workflow: WorkflowEntry, given: Any) -> None:
        """Raise `Invalid` with a path for everything in the input `given` that does not fit the workflow's schema."""
        errors = self._checker(workflow).problems(given, "input")
        if errors:
            raise Invalid(f"the input does not fit the workflow {workflow.name!r}: {errors[0].message}", errors=tuple(errors))

    def _checker(self, workflow: WorkflowEntry) -> Checker:
        key = (workflow.org, workflow.name, workflow.version)
        checker = self._checkers.get(key)
        if checker is None:
            try:
                checker = checker_of(msgspec.json.encode(workflow.input_schema), formats=True)
            except Invalid as error:
                # An older version took it from an author's code; a schema that costs too much is not used.
                raise Invalid(f"the input schema of {workflow.name!r} cannot be used: {error.detail}") from error
            self._checkers[key] = checker
            if len(self._checkers) > CHECKERS:
                self._checkers.popitem(last=False)
        return checker
