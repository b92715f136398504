"""The names that a workflow author imports.

Everything here is standard-library-only, so that it can be loaded inside a sandboxed child that sees nothing else of
Millrace. Outside a run (in a test, in a shell) decorated functions are still plain functions, `step` simply calls, `trace` is
of nothing and `log` writes to standard error; only what needs a supervisor raises `NotInRun`: `connections`, `integrations`,
`variables` (which is also `config`), `secrets`, `files`, `shared_files`, `artifacts`, `state`, `locks`, `events`, `ask`,
`approvals` and `run`.
"""

from millrace._adapters import Event, Request, Response, Unverified, adapter
from millrace._ask import Answer, approvals, ask
from millrace._awaiting import wait_for_event
from millrace._connections import Connection, connections
from millrace._declare import data_provider, workflow
from millrace._events import events
from millrace._files import File, artifacts, files, shared_files
from millrace._http import Client
from millrace._integrations import Integration, integrations
from millrace._locks import locks
from millrace._log import log
from millrace._registering import Given, Registering, Setting
from millrace._reply import Reply
from millrace._run import run
from millrace._runs import runs
from millrace._schemes import Handshake, MessageSignature, Place, Scheme, WebToken
from millrace._secrets import secrets
from millrace._state import Item, state
from millrace._step import StepTimeout, step
from millrace._trace import trace
from millrace._variables import config, variables
from millrace._waiting import Signal, sleep, wait_for
from millrace.errors import (
    AskTimeout,
    Cancelled,
    ChildFailed,
    EventTimeout,
    InputError,
    LockTimeout,
    NotInRun,
    OrderChanged,
    Refused,
    RequestFailed,
    ResultError,
    SignalTimeout,
    StatusError,
    ToolFailed,
    VersionConflict,
)

__all__ = [
    "Answer",
    "AskTimeout",
    "Cancelled",
    "ChildFailed",
    "Client",
    "Connection",
    "Event",
    "EventTimeout",
    "File",
    "Given",
    "Handshake",
    "InputError",
    "Integration",
    "Item",
    "LockTimeout",
    "MessageSignature",
    "NotInRun",
    "OrderChanged",
    "Place",
    "Refused",
    "Registering",
    "Reply",
    "Request",
    "RequestFailed",
    "Response",
    "ResultError",
    "Scheme",
    "Setting",
    "Signal",
    "SignalTimeout",
    "StatusError",
    "StepTimeout",
    "ToolFailed",
    "Unverified",
    "VersionConflict",
    "WebToken",
    "adapter",
    "approvals",
    "artifacts",
    "ask",
    "config",
    "connections",
    "data_provider",
    "events",
    "files",
    "integrations",
    "locks",
    "log",
    "run",
    "runs",
    "secrets",
    "shared_files",
    "sleep",
    "state",
    "step",
    "trace",
    "variables",
    "wait_for",
    "wait_for_event",
    "workflow",
]
