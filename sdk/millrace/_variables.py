"""`variables`, which is also `config`: values that the organization has set for its runs.

In a workflow:

    from millrace import config, workflow

    @workflow
    def sync(limit: int = 0) -> int:
        return limit or config.get("sync.limit", default=50)
"""

from typing import Any

from millrace import _bounds
from millrace._runtime import channel
from millrace.errors import Refused

_REQUIRED: Any = object()


class Variables:
    """Asks for a variable by name: the organization's own, else the one that the platform has for all.

    A value is what JSON makes of it: text, a number, a truth value, None, a list or a dict. Every call asks anew.
    """

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """Answer the value, waiting for it; `default`, if there is one, where there is no such variable.

        Raises `Refused` where there is none and no default, `NotInRun` outside a run. Inside a coroutine prefer
        `await variables.aget(name)`: this one holds up the event loop while it waits.
        """
        try:
            return channel.ask("variables", "variable", name=_name(name))["value"]
        except Refused as error:
            return _instead(error, default)

    async def aget(self, name: str, default: Any = _REQUIRED) -> Any:
        """Answer the value without holding up the event loop. Raises like `get`."""
        try:
            return (await channel.aask("variables", "variable", name=_name(name)))["value"]
        except Refused as error:
            return _instead(error, default)


def _instead(error: Refused, default: Any) -> Any:
    if default is _REQUIRED or error.kind != "NotFound":
        raise error
    return default


def _name(name: object) -> str:
    return _bounds.text(name, "a variable's name")


variables = Variables()
config = variables
