"""Finding a workflow by name, and whether an input fits it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import jsonschema_rs

from shared.errors import Invalid, NotFound, Problem, Unavailable
from shared.messages.declaration import hashed_key
from shared.questions.executor import FindWorkflow, WorkflowEntry, WorkflowFound
from shared.registry import Entry, RegistryView

# Compiled schemas that are kept, and complaints that are told about one input.
VALIDATORS = 512
COMPLAINTS = 20
# A complaint repeats the value that it is about.
COMPLAINT_LENGTH = 300


class Workflows:
    """The registry's view, with the owner behind it."""

    def __init__(self, view: RegistryView[WorkflowEntry], find: Callable[[FindWorkflow], Awaitable[WorkflowFound]]) -> None:
        self._view = view
        self._find = find
        self._validators: OrderedDict[tuple[str, str, str], Any] = OrderedDict()

    async def find(self, org: str, name: str) -> WorkflowEntry:
        """Return the organization's workflow, else the platform's of that name. Raises `NotFound`, `Unavailable`."""
        own = self._view.get(hashed_key(org, name))
        if own is not None and own.value is not None:
            return own.value
        try:
            found = await self._find(FindWorkflow(org=org, name=name))
        except Unavailable:
            shared = self._view.get(hashed_key("global", name))
            if shared is None or shared.value is None:
                raise
            return shared.value
        if found.entry is None:
            raise NotFound(f"there is no workflow {name!r}")
        self._view.learn(hashed_key(found.entry.org, name), Entry(found.seq, found.entry))
        return found.entry

    def check(self, workflow: WorkflowEntry, given: Any) -> None:
        """Raise `Invalid` with a path for everything in the input `given` that does not fit the workflow's schema."""
        errors = []
        for error in self._validator(workflow).iter_errors(given):
            path = ".".join(["input", *(str(step) for step in error.instance_path)])
            errors.append(Problem(path, error.message[:COMPLAINT_LENGTH]))
            if len(errors) == COMPLAINTS:
                break
        if errors:
            raise Invalid(f"the input does not fit the workflow {workflow.name!r}: {errors[0].message}", errors=tuple(errors))

    def _validator(self, workflow: WorkflowEntry) -> Any:
        key = (workflow.org, workflow.name, workflow.version)
        validator = self._validators.get(key)
        if validator is None:
            try:
                # Offline: a schema comes from an author's code and must not make the gateway fetch anything.
                validator = jsonschema_rs.validator_for(workflow.input_schema, offline=True, validate_formats=True)
            except ValueError as error:
                raise Invalid(f"the input schema of {workflow.name!r} cannot be used: {error}") from error
            self._validators[key] = validator
            if len(self._validators) > VALIDATORS:
                self._validators.popitem(last=False)
        return validator
