"""Finds the workflows and adapters of a bundle. Runs the bundle's imports, so only ever in a child."""

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from millrace import _declare
from millrace._runtime import finding, imports
from millrace._runtime.encode import clean, to_json
from millrace._runtime.failure import one_line, place
from millrace._runtime.patience import TooSlow, at_most
from millrace._schema import Unsupported, input_schema
from millrace.errors import Cancelled, ResultError

_LARGEST = 256 * 1024
"""Bytes as JSON of one workflow's description: most of it is the schema of its input."""
_WORKFLOW = ("workflow", "@workflow or @data_provider")
_ADAPTER = ("adapter", "@adapter")
_FURTHER = 2.0
"""Seconds that the import of a file may take once another was slow."""


def describe(
    bundle: str,
    served: list[dict[str, Any]] | None = None,
    patience: float = 10.0,
    announce: Callable[[str], None] = lambda _path: None,
    *,
    only: list[str] | None = None,
    without: list[str] | None = None,
) -> dict[str, Any]:
    """Answer the "described" frame: workflows and adapters in the order of path and line, and problems likewise.

    A file that does not parse is a problem and is not executed; one that uses no decorator is not executed either, unless another
    imports it. Of two workflows with one name, or two adapters, the first is kept and the second is a problem. So is one of those
    that are `served` (name, path, function, is_adapter) where the function is still there and is none any more. An import that
    nothing provides, of a file that a workflow may load, is a warning.

    The import of a file may take `patience` seconds, and less once another was slow; `announce` is called with each before. Where
    `only` is given no other files are described; those `without` have packages of their own, and are described apart.
    """
    problems: list[dict[str, Any]] = []
    imported: set[str] = set()
    failed: set[str] = set()
    slow: set[str] = set()
    is_whole = True
    files = _files(bundle)
    imported_by = imports.Imports(bundle, files)
    texts = _texts(bundle, files, imported_by, problems)
    wanted = [path for path, text in texts.items() if text.declares and path not in (without or ()) and path in (only or texts)]
    in_vain = imported_by.in_vain(wanted)
    for path in wanted:
        try:
            name = dotted(path)
            announce(path)
            with at_most(patience):
                module = importlib.import_module(name)
            if is_file_of(module, bundle):
                imported.add(name)
            else:
                problems.append(_problem(path, 1, f"Python has a module {name} of its own: give the file another name"))
        except Cancelled as error:
            problems.append(_problem(*(place(error, bundle) or (path, 1)), "importing it took too long", is_slow=True))
            is_whole = False
            break
        except TooSlow as error:
            where, line = place(error, bundle) or (path, 1)
            problems.append(_problem(where, line, f"importing it took longer than {patience:g} s", is_slow=True))
            failed.add(path)
            slow.add(dotted(where))
            sys.modules[dotted(where)] = None  # type: ignore[assignment]  # any other import of it fails at once
            patience = min(patience, _FURTHER)
        except BaseException as error:
            failed.add(path)
            if isinstance(error, ImportError) and error.name in slow:
                continue  # nothing is wrong with this one
            problems.append(_problem(*(place(error, bundle) or (path, 1)), one_line(error)))
    workflows: list[dict[str, Any]] = []
    adapters: list[dict[str, Any]] = []
    for found in _declared(bundle, imported):
        if found[2].adapter is None:
            _admit(found, workflows, problems)
        else:
            _admit_adapter(found, found[2].adapter, adapters, problems)
    if is_whole:
        broken = {one["path"] for one in problems} | failed
        for of_adapters, found_ones in ((False, workflows), (True, adapters)):
            known = [one for one in served or [] if bool(one.get("is_adapter")) is of_adapters]
            problems += _vanished(known, found_ones, broken, texts, _ADAPTER if of_adapters else _WORKFLOW)
    wrong = {(one["path"], one["line"]) for one in problems}
    problems += [_problem(*one, severity="warning") for one in in_vain if one[:2] not in wrong]
    unique = {(one["path"], one["line"], one["message"]): one for one in problems}
    found_problems = [unique[key] for key in sorted(unique)]
    return {"kind": "described", "workflows": workflows, "adapters": adapters, "problems": found_problems}


def dotted(path: str) -> str:
    """Answer the module name of a path in the bundle; a dotted name is answered as it is."""
    if not path.endswith(".py"):
        return path
    stem = path.removesuffix(".py").removesuffix("/__init__")
    if "." in stem:
        msg = "a file or folder with a dot in its name cannot be imported"
        raise ImportError(msg)
    return stem.replace("/", ".")


def is_file_of(module: ModuleType, bundle: str) -> bool:
    """Answer whether the module was loaded from the bundle."""
    return str(getattr(module, "__file__", None) or "").startswith(bundle.rstrip("/") + "/")


def _files(bundle: str) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(bundle):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in files:
            path = os.path.join(folder, name)
            if name.endswith(".py") and os.path.isfile(path) and not os.path.islink(path):
                found.append(os.path.relpath(path, bundle))
    return sorted(found)


def _texts(bundle: str, paths: list[str], imported_by: imports.Imports, problems: list[dict[str, Any]]) -> dict[str, finding.Text]:
    """Return the decorators found in the files that can be imported, by path. One file is parsed at a time."""

    def files() -> Iterator[tuple[str, str, ast.Module]]:
        for path in paths:
            try:
                tree = finding.parsed(bundle, path)
                imported_by.add(path, tree)
            except BaseException as error:
                problems.append(_problem(*(place(error, bundle) or (path, 1)), one_line(error)))
            else:
                yield path, path.removesuffix(".py").removesuffix("/__init__").replace("/", "."), tree

    return finding.texts(files())


def _declared(bundle: str, imported: set[str]) -> list[tuple[str, int, _declare.Definition]]:
    found = []
    for definition in _declare.REGISTRY:
        where = _place(definition, bundle)
        if definition.module in imported and where is not None:
            found.append((*where, definition))
    return sorted(found, key=lambda one: one[:2])


def _place(definition: _declare.Definition, bundle: str) -> tuple[str, int] | None:
    """Return where the author wrote the function, below any wrapper; else where the decorator was called."""
    file = os.path.join(bundle, definition.file)
    if not file.startswith(bundle.rstrip("/") + "/"):
        return None
    code = getattr(_declare.innermost(definition.function), "__code__", None)
    line = code.co_firstlineno if code is not None and code.co_filename == file else definition.line
    return os.path.relpath(file, bundle), line


def _vanished(
    served: list[dict[str, Any]],
    declared: list[dict[str, Any]],
    broken: set[str],
    texts: dict[str, finding.Text],
    what: tuple[str, str],
) -> Iterator[dict[str, Any]]:
    """Yield a problem for each definition that was served from a file, and is none though its function is still there.

    `what` is its kind, and the decorators that declare it.
    """
    names = {one["name"] for one in declared}
    places = {(one["path"], one["function"]) for one in declared}
    for one in served:
        name, path, function = one["name"], one["path"], one["function"].rpartition(".")[2]
        if name in names or path in broken or path not in texts or (path, one["function"]) in places:
            continue
        if function in texts[path].functions:
            kind, decorators = what
            message = (
                f"the {kind} {name} is gone, though {function} is still here: nothing declares it that leads to {decorators} of "
                "millrace; to have it no more, delete or rename the function"
            )
            yield _problem(path, 1, message)


def _is_new(
    what: str, found: tuple[str, int, _declare.Definition], before: list[dict[str, Any]], problems: list[dict[str, Any]]
) -> bool:
    """Answer whether there is none of this name yet; the second one is a problem."""
    path, line, definition = found
    first = next((one for one in before if one["name"] == definition.name), None)
    if first is not None:
        where = f"{first['path']} line {first['line']}"
        problems.append(_problem(path, line, f"{what} named {definition.name} is already in {where}"))
    return first is None


def _admit(found: tuple[str, int, _declare.Definition], workflows: list[dict[str, Any]], problems: list[dict[str, Any]]) -> None:
    path, line, definition = found
    if not _is_new("a workflow", found, workflows, problems):
        return
    try:
        schema = input_schema(definition.function)
        doc = inspect.getdoc(definition.function)
    except Unsupported as error:
        problems.append(_problem(path, line, str(error)))
        return
    except Exception as error:
        # Types and defaults are the author's own, and looking at them runs the author's code.
        problems.append(_problem(path, line, one_line(error)))
        return
    told = {
        "name": definition.name,
        "module": definition.module,
        "path": path,
        "line": line,
        "function": definition.function.__qualname__,
        "doc": clean(doc) if doc else None,
        "input_schema": schema,
        "timeout": definition.timeout,
        "retries": definition.retries,
        "concurrency": definition.concurrency,
        "is_data_provider": definition.is_data_provider,
        "policy": definition.policy,
    }
    _tell(told, workflows, problems)


def _admit_adapter(
    found: tuple[str, int, _declare.Definition],
    declared: dict[str, Any],
    adapters: list[dict[str, Any]],
    problems: list[dict[str, Any]],
) -> None:
    path, line, definition = found
    if not _is_new("an adapter", found, adapters, problems):
        return
    doc = definition.function.__doc__
    told = {
        "name": definition.name,
        "module": definition.module,
        "path": path,
        "line": line,
        "function": definition.function.__qualname__,
        "doc": clean(inspect.cleandoc(doc)) if isinstance(doc, str) else None,
        "declaration": declared,
    }
    _tell(told, adapters, problems)


def _tell(told: dict[str, Any], found: list[dict[str, Any]], problems: list[dict[str, Any]]) -> None:
    """Add a description to those found, or to the problems where it is none that can be sent."""
    try:
        to_json(told, what=f"the description of {told['name']}", limit=_LARGEST)
    except ResultError as error:
        problems.append(_problem(told["path"], told["line"], str(error)))
        return
    found.append(told)


def _problem(path: str, line: int, message: str, *, is_slow: bool = False, severity: str = "error") -> dict[str, Any]:
    told = {"path": clean(path, 1000), "line": line, "message": clean(message, 2000)}
    return told | {"is_slow": is_slow, "severity": severity}
