"""Finds what the code of a bundle imports and nothing provides, by its text: before a run imports it, and fails.

Nothing is executed, and nothing imported: modules are looked for where the import system would look. Only files that a workflow may
load are searched, by what they import; an import that is expected to fail, or that this system never comes to, is none.
"""

import ast
import contextlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec

_MOST = 100
"""Of one bundle that are reported."""
_CAUGHT = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_COMPARED = {ast.Lt: "__lt__", ast.LtE: "__le__", ast.Gt: "__gt__", ast.GtE: "__ge__", ast.Eq: "__eq__", ast.NotEq: "__ne__"}
_SYSTEM: dict[str, str | tuple[int, ...]] = {
    "sys.version_info": tuple(sys.version_info[:3]),
    "sys.platform": sys.platform,
    "os.name": os.name,
}
_PACKAGES = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "magic": "python-magic",
    "OpenSSL": "pyOpenSSL",
    "PIL": "pillow",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "yaml": "PyYAML",
}
"""The packages of well-known modules that are named otherwise."""

Missing = tuple[str, int, str]
"""Path, line and message."""


@dataclass
class _File:
    """What one file imports whenever the system comes to it: (module, name in it or None), and what of that is missing, by line."""

    imported: list[tuple[str, str | None]] = field(default_factory=list)
    missing: list[tuple[int, str]] = field(default_factory=list)


class Imports:
    """The imports of a bundle's files."""

    def __init__(self, bundle: str, paths: Iterable[str]) -> None:
        """`paths` are all its modules."""
        self._provided = _Provided(bundle, paths)
        self._files: dict[str, _File] = {}

    def add(self, path: str, tree: ast.Module) -> None:
        """Read the imports of one file; the tree is not kept. One that is nested too deeply imports nothing."""
        with contextlib.suppress(RecursionError):
            self._files[path] = _Reader(path.split("/")[:-1], self._provided).read(tree.body)

    def in_vain(self, roots: Iterable[str]) -> list[Missing]:
        """Return what these files, and all that they import from the bundle, import although nothing provides it."""
        left, seen = list(roots), set[str]()
        found: set[Missing] = set()
        while left:
            path = left.pop()
            if path in seen or path not in self._files:
                continue
            seen.add(path)
            file = self._files[path]
            found.update((path, line, message) for line, message in file.missing)
            for module, name in file.imported:
                left += self._provided.files(module if name is None else f"{module}.{name}")
        return sorted(found)[:_MOST]


def advice(top: str) -> str:
    """Return what to do about a module that nothing provides."""
    return f"name its package ({_PACKAGES.get(top, top)}) in requirements.txt"


class _Provided:
    """Modules that runs of the bundle can import: Python's, the bundle's own, Millrace's and those of its packages."""

    def __init__(self, bundle: str, paths: Iterable[str]) -> None:
        self._bundle = os.path.join(bundle, "")
        self._paths = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in paths}
        self._known: dict[str, ModuleSpec | None] = {}

    def files(self, module: str) -> list[str]:
        """Return the files of the bundle that an import of a module, or of a name in one, executes."""
        parts = module.split(".")
        dotted = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        return [self._paths[one] for one in dotted if one in self._paths]

    def complaint(self, module: str, name: str | None) -> str | None:
        """Return why a module cannot be imported, or a name from it; None where it can, or where only its code knows."""
        top, _, rest = module.partition(".")
        spec = self._top(top)
        if spec is None:
            return self._nothing(top)
        parts = [*rest.split(".")] if rest else []
        dotted = top
        for part in parts:
            if not self._is_settled(spec):
                return None
            dotted = f"{dotted}.{part}"
            spec = self._below(spec, dotted)
            if spec is None:
                return f"there is no module {dotted}"
        if name is not None and name != "*" and spec.loader is None and self._below(spec, f"{dotted}.{name}") is None:
            return f"there is no module {dotted}.{name}"  # a folder without __init__.py has nothing else
        return None

    def _top(self, name: str) -> ModuleSpec | None:
        if name not in self._known:
            try:
                self._known[name] = importlib.util.find_spec(name)
            except ValueError:  # a module without a spec, such as __main__
                self._known[name] = sys.__spec__
        return self._known[name]

    def _below(self, package: ModuleSpec, dotted: str) -> ModuleSpec | None:
        if dotted not in self._known:
            places = package.submodule_search_locations
            # By its last part: of a folder with its whole name the package around it would have to be imported.
            name = dotted.rpartition(".")[2]
            self._known[dotted] = None if places is None else importlib.machinery.PathFinder.find_spec(name, list(places))
        return self._known[dotted]

    def _is_settled(self, spec: ModuleSpec) -> bool:
        """Return whether the modules below one are the files there: what packages do about theirs is not looked into."""
        if spec.loader is None:
            return True
        if not str(spec.origin or "").startswith(self._bundle):
            return False
        with open(str(spec.origin), "rb") as file:
            text = file.read()
        return b"__path__" not in text and b"modules" not in text

    def _nothing(self, top: str) -> str:
        if top in sys.stdlib_module_names:
            return f"Python {sys.version_info[0]}.{sys.version_info[1]} on this system has no module {top}"
        here = next((dotted for dotted in self._paths if dotted.endswith(f".{top}")), None)
        file = "" if here is None else f", or import {self._paths[here]} by its path from the workspace's folder: {here}"
        return f"nothing provides the module {top}: {advice(top)}{file}"


class _Reader:
    """Reads the imports of one file, which is in the package of these parts."""

    def __init__(self, package: list[str], provided: _Provided) -> None:
        self._package = package
        self._provided = provided

    def read(self, body: list[ast.stmt]) -> _File:
        """Return the imports among statements, at any depth."""
        file = _File()
        left = [body]
        while left:
            for statement in left.pop():
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    self._add(statement, file)
                else:
                    left += self._inner(statement, file)
        return file

    def _inner(self, statement: ast.stmt, file: _File) -> Iterator[list[ast.stmt]]:
        """Yield the blocks of a statement that are to be read likewise; a guarded one's imports are added, and never missing."""
        if isinstance(statement, ast.Try | ast.TryStar) and any(map(_catches, statement.handlers)):
            tried = self.read(statement.body)
            file.imported += tried.imported
            yield from [handler.body for handler in statement.handlers] if tried.missing else [statement.orelse]
            yield statement.finalbody
        elif isinstance(statement, ast.With | ast.AsyncWith) and any(_suppresses(item.context_expr) for item in statement.items):
            file.imported += self.read(statement.body).imported
        elif isinstance(statement, ast.If) and _asks_for_modules(statement.test):
            file.imported += self.read([*statement.body, *statement.orelse]).imported
        elif isinstance(statement, ast.If):
            is_true = _truth(statement.test)
            yield from [] if is_true is False else [statement.body]
            yield from [] if is_true is True else [statement.orelse]
        else:
            yield from (getattr(statement, name, []) for name in ("body", "orelse", "finalbody"))
            yield from (one.body for name in ("handlers", "cases") for one in getattr(statement, name, []))

    def _add(self, statement: ast.Import | ast.ImportFrom, file: _File) -> None:
        if isinstance(statement, ast.Import):
            found: list[tuple[str, str | None]] = [(alias.name, None) for alias in statement.names]
        else:
            origin = self._origin(statement)
            if origin is None:
                what = "." * statement.level + (statement.module or "")
                file.missing.append(
                    (statement.lineno, f"{what} leads out of the workspace's folder: import a file by its path from there")
                )
                return
            found = [(origin, alias.name) for alias in statement.names]
        file.imported += found
        for module, name in found:
            complaint = self._provided.complaint(module, name)
            if complaint is not None:
                file.missing.append((statement.lineno, complaint))

    def _origin(self, statement: ast.ImportFrom) -> str | None:
        """Return the module that names are imported from; None where no package is around the file that far up."""
        if not statement.level:
            return statement.module or ""
        if statement.level > len(self._package):
            return None
        parts = self._package[: len(self._package) - statement.level + 1]
        return ".".join([*parts, *([statement.module] if statement.module else [])])


def _catches(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or any(map(_is_caught, _each(handler.type)))


def _suppresses(context: ast.expr) -> bool:
    return isinstance(context, ast.Call) and _last(context.func) == "suppress" and any(map(_is_caught, context.args))


def _each(expression: ast.expr) -> list[ast.expr]:
    return expression.elts if isinstance(expression, ast.Tuple) else [expression]


def _is_caught(kind: ast.expr) -> bool:
    return _last(kind) in _CAUGHT


def _last(expression: ast.expr) -> str | None:
    """Return the last part of a dotted name."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else None


def _asks_for_modules(test: ast.expr) -> bool:
    return any(isinstance(node, ast.expr) and _last(node) == "find_spec" for node in ast.walk(test))


def _truth(test: ast.expr) -> bool | None:
    """Return whether a condition holds in a run; None where its text does not show."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        values = [_truth(one) for one in test.values]
        decides = isinstance(test.op, ast.Or)
        return decides if decides in values else None if None in values else not decides
    if _last(test) == "TYPE_CHECKING":
        return False
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Call) and _last(test.func) == "startswith" and isinstance(test.func, ast.Attribute):
        system = _system(test.func.value)
        prefix = test.args[0].value if len(test.args) == 1 and isinstance(test.args[0], ast.Constant) else None
        return system.startswith(prefix) if isinstance(system, str) and isinstance(prefix, str) else None
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in _COMPARED:
        left, right = _system(test.left), _literal(test.comparators[0])
        if left is not None and type(left) is type(right):
            return bool(getattr(left, _COMPARED[type(test.ops[0])])(right))
    return None


def _system(expression: ast.expr) -> str | int | tuple[int, ...] | None:
    """Return the value of an expression that names the system."""
    if isinstance(expression, ast.Subscript):
        value, place = _system(expression.value), expression.slice
        if not isinstance(value, tuple):
            return None
        if isinstance(place, ast.Slice):
            end = None if place.upper is None or place.lower or place.step else _literal(place.upper)
            return value[:end] if isinstance(end, int) else None
        number = _literal(place)
        return value[number] if isinstance(number, int) and number < len(value) else None
    if isinstance(expression, ast.Name):
        return "a module" if expression.id == "__name__" else None
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
        return _SYSTEM.get(f"{expression.value.id}.{expression.attr}")
    return None


def _literal(expression: ast.expr) -> str | int | tuple[int, ...] | None:
    if isinstance(expression, ast.Constant):
        return expression.value if isinstance(expression.value, str | int) else None
    if not isinstance(expression, ast.Tuple):
        return None
    parts: list[int] = []
    for one in expression.elts:
        if not isinstance(one, ast.Constant) or not isinstance(one.value, int):
            return None
        parts.append(one.value)
    return tuple(parts)
