"""What a workflow author imports.

Everything here is standard-library-only, so that it can be loaded inside a sandboxed child that sees nothing else of
Millrace. Outside a run (in a test, in a shell) decorated functions are still plain functions, `step` simply calls and
`log` writes to standard error; only what needs a supervisor, such as `connections`, raises `NotInRun`.
"""

from millrace._connections import Connection, connections
from millrace._declare import data_provider, workflow
from millrace._log import log
from millrace._step import step
from millrace.errors import Cancelled, InputError, NotInRun, Refused, ResultError

__all__ = [
    "Cancelled",
    "Connection",
    "InputError",
    "NotInRun",
    "Refused",
    "ResultError",
    "connections",
    "data_provider",
    "log",
    "step",
    "workflow",
]
