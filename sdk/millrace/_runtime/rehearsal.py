"""Rehearses a run in a placed child before its job comes, so that the memory which a run touches is its own already.

A fork shares its memory until it writes to it, and reference counts are written by reading; importing the author's module
would otherwise begin with a hundred page faults. Nothing of the bundle is read but the names in its folder.
"""

import importlib
import importlib.util
import json
import sys

_MODULE = "from millrace import workflow\ndef function(value: int) -> dict: return {'value': value}\n"


def rehearse() -> None:
    """Parse a document, look for a module in every folder of the path, compile a module, and import one."""
    json.loads('{"kind": "run", "input": {"a": [1, 2.5, null, "text"]}}')
    importlib.util.find_spec("millrace_absent")  # fills the caches of the finders, the bundle's among them
    exec(compile(_MODULE, "rehearsal", "exec"), {"__name__": "rehearsal"})  # noqa: S102 - the text above
    importlib.import_module("millrace._runtime.rehearsed")
    del sys.modules["millrace._runtime.rehearsed"]
