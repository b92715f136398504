"""Modules of a bundle that a template has found and read: all of importing one that comes before the first line of it.

What is read stays bytes: bytecode is made of an author's text, and only a run decodes it.
"""

import _imp
import importlib
import importlib.machinery
import importlib.util
import marshal
import sys
from dataclasses import dataclass
from types import CodeType, ModuleType

_HEADER = 16
_BY_HASH, _IS_CHECKED = 1, 2


@dataclass
class Read:
    """A module that nothing was executed of yet."""

    module: ModuleType
    code: bytes


_read: dict[str, Read] = {}
"""By dotted name."""


def read(name: str, folder: str) -> None:
    """Look for a module in a bundle and keep it with its bytecode, which must not depend on the text being as it was.

    Does nothing where there is no such module, or none that can be kept. No package around it is executed.
    """
    if name in sys.modules or name.partition(".")[0] in sys.modules:
        return  # what is there already comes first
    found = None
    places = around = [folder]
    for part in name.split("."):
        around = places
        # By this part of the name: for a folder with all of it the package around it would have to be imported.
        found = importlib.machinery.PathFinder.find_spec(part, around)
        if found is None:
            return
        places = list(found.submodule_search_locations or ())
    if found is None or not isinstance(found.loader, importlib.machinery.SourceFileLoader):
        return
    spec = importlib.machinery.PathFinder.find_spec(name, around)
    if spec is None or spec.cached is None:
        return
    try:
        with open(spec.cached, "rb") as file:
            data = file.read()
    except OSError:
        return
    kind = int.from_bytes(data[4:8], "little")
    if data[:4] == importlib.util.MAGIC_NUMBER and kind & (_BY_HASH | _IS_CHECKED) == _BY_HASH:
        _read[name] = Read(importlib.util.module_from_spec(spec), data[_HEADER:])


def forget() -> None:
    """Forget all that was read."""
    _read.clear()


def code(data: bytes, path: str) -> CodeType:
    """Decode bytecode, which an author's text may have made, of the module at this path."""
    decoded: CodeType = marshal.loads(data)  # noqa: S302 - in the author's run
    _imp._fix_co_filename(decoded, path)  # type: ignore[attr-defined]
    return decoded


def imported(name: str) -> ModuleType:
    """Import a module as `importlib.import_module` does, with less to do where it was read.

    In the main thread, before there is another.
    """
    found = _read.get(name)
    if found is None:
        return importlib.import_module(name)
    package, _, last = name.rpartition(".")
    if package:
        around = importlib.import_module(package)
        if name in sys.modules:  # the package has imported it
            return sys.modules[name]
    module = sys.modules[name] = found.module
    try:
        exec(code(found.code, str(module.__file__)), module.__dict__)  # noqa: S102
    except BaseException:
        sys.modules.pop(name, None)
        raise
    if package:
        setattr(around, last, module)
    return sys.modules.get(name, module)
