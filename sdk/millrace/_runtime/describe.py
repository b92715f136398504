"""What workflows a bundle holds. Runs the bundle's imports, so only ever in a child."""

import ast
import importlib
import inspect
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from millrace import _declare
from millrace._runtime.encode import clean
from millrace._runtime.failure import one_line, place
from millrace._schema import Unsupported, input_schema
from millrace.errors import Cancelled

_DECORATORS = frozenset({"workflow", "data_provider"})


def describe(bundle: str) -> dict[str, Any]:
    """Answer the "described" frame: workflows in the order of path and line, and problems likewise.

    A file that does not parse is a problem and is not executed; one that uses no decorator is not executed either,
    unless another imports it. Of two workflows with one name the first is kept and the second is a problem.
    """
    problems: list[dict[str, Any]] = []
    imported: set[str] = set()
    for path in _files(bundle):
        try:
            if not _declares(bundle, path):
                continue
            name = dotted(path)
            module = importlib.import_module(name)
            if is_file_of(module, bundle):
                imported.add(name)
            else:
                problems.append(_problem(path, 1, f"Python has a module {name} of its own: give the file another name"))
        except Cancelled:
            problems.append(_problem(path, 1, "importing it took too long"))
            break
        except BaseException as error:
            where = place(error, bundle) or (path, 1)
            problems.append(_problem(*where, one_line(error)))
    workflows: list[dict[str, Any]] = []
    for found in _declared(bundle, imported):
        _admit(found, workflows, problems)
    unique = {(one["path"], one["line"], one["message"]): one for one in problems}
    return {"kind": "described", "workflows": workflows, "problems": [unique[key] for key in sorted(unique)]}


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
    """Say whether the module was loaded from the bundle."""
    return str(getattr(module, "__file__", None) or "").startswith(bundle.rstrip("/") + "/")


def _files(bundle: str) -> Iterator[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(bundle):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in files:
            path = os.path.join(folder, name)
            if name.endswith(".py") and os.path.isfile(path) and not os.path.islink(path):
                found.append(os.path.relpath(path, bundle))
    yield from sorted(found)


def _declares(bundle: str, path: str) -> bool:
    """Parse the file without executing it. Raises SyntaxError with the path in it."""
    full = os.path.join(bundle, path)
    with open(full, "rb") as file:
        source = file.read()
    try:
        tree = ast.parse(source, filename=full)
    except SyntaxError as error:
        error.filename = full
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "too deeply nested", (full, 1, 1, "")) from None
    uses = imports = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports = imports or any(alias.name.split(".")[0] == "millrace" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "millrace" and not node.level:
            imports = True
            uses = uses or any(alias.name in _DECORATORS or alias.name == "*" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            uses = uses or node.attr in _DECORATORS
    return uses and imports


def _declared(bundle: str, imported: set[str]) -> list[tuple[str, int, _declare.Definition]]:
    found = []
    for definition in _declare.REGISTRY:
        code = definition.function.__code__
        if definition.function.__module__ in imported and code.co_filename.startswith(bundle.rstrip("/") + "/"):
            found.append((os.path.relpath(code.co_filename, bundle), code.co_firstlineno, definition))
    return sorted(found, key=lambda one: one[:2])


def _admit(found: tuple[str, int, _declare.Definition], workflows: list[dict[str, Any]], problems: list[dict[str, Any]]) -> None:
    path, line, definition = found
    first = next((one for one in workflows if one["name"] == definition.name), None)
    if first is not None:
        where = f"{first['path']} line {first['line']}"
        problems.append(_problem(path, line, f"a workflow named {definition.name} is already in {where}"))
        return
    try:
        schema = input_schema(definition.function)
    except Unsupported as error:
        problems.append(_problem(path, line, str(error)))
        return
    doc = inspect.getdoc(definition.function)
    workflows.append(
        {
            "name": definition.name,
            "module": definition.function.__module__,
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
    )


def _problem(path: str, line: int, message: str) -> dict[str, Any]:
    return {"path": clean(path, 1000), "line": line, "message": clean(message, 2000)}
