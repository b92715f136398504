"""What a workflow author imports.

Everything here is standard-library-only, so that it can be loaded inside a sandboxed child that sees nothing else of
Millrace. Outside a run (in a test, in a shell) decorated functions are still plain functions, `step` simply calls and
`log` writes to standard error; only what needs a supervisor, such as `connections`, raises `NotInRun`.
"""

from millrace._connections import Connection, connections
from millrace._declare import data_provider, workflow
from millrace._log import log
from millrace._runs import runs
from millrace._step import StepTimeout, step
from millrace._waiting import Signal, sleep, wait_for
from millrace.errors import Cancelled, ChildFailed, InputError, NotInRun, OrderChanged, Refused, ResultError, SignalTimeout

__all__ = [
    "Cancelled",
    "ChildFailed",
    "Connection",
    "InputError",
    "NotInRun",
    "OrderChanged",
    "Refused",
    "ResultError",
    "Signal",
    "SignalTimeout",
    "StepTimeout",
    "connections",
    "data_provider",
    "log",
    "runs",
    "sleep",
    "step",
    "wait_for",
    "workflow",
]
