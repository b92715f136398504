"""Finds the files of a bundle that declare workflows, by their text alone: those are imported, the others are not executed.

A file declares where it imports a decorator of Millrace, or a *carrier*: a name of another file of the bundle behind which there is
a decorator, such as a function of the author's that wraps one, or the decorator itself under another file's name.
"""

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

_DECORATORS = frozenset({"workflow", "data_provider", "adapter"})


@dataclass
class Text:
    """The decorators in the text of one file."""

    path: str
    functions: frozenset[str]
    """Names of all functions in it, at any depth."""
    declares: bool = False
    carriers: set[str] = field(default_factory=set)
    """Names of this module's own behind which there is a decorator."""
    imports: list[tuple[str, str | None, str]] = field(default_factory=list)
    """(module, name in it, name here); without a name it is the module itself, reached by the name here."""
    uses: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    """(name here, names in its body or value), dotted where it is reached through a module."""
    mentions: frozenset[str] = frozenset()
    """All that is mentioned anywhere."""


def texts(files: Iterator[tuple[str, str, ast.Module]]) -> dict[str, Text]:
    """Return the findings, by path; `files` are (path, dotted name, tree)."""
    found: dict[str, Text] = {}
    by_module: dict[str, Text] = {}
    for path, name, tree in files:
        found[path] = by_module[name] = _text(path, name, tree)
    while sum(_follow(one, by_module) for one in found.values()):
        pass
    return found


def _text(path: str, module: str, tree: ast.Module) -> Text:
    nodes = list(ast.walk(tree))
    functions = frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    text = Text(path, functions, mentions=_mentioned(nodes))
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    uses = imports = False
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                text.imports.append((alias.name, None, alias.asname or alias.name))
                if alias.name.split(".")[0] == "millrace":
                    imports = True
                    text.carriers |= {f"{alias.asname or alias.name}.{decorator}" for decorator in _DECORATORS}
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            for alias in node.names:
                text.imports.append((origin, alias.name, alias.asname or alias.name))
            if origin == "millrace":
                imports = True
                named = {alias.asname or alias.name for alias in node.names if alias.name in _DECORATORS}
                named |= _DECORATORS if any(alias.name == "*" for alias in node.names) else set()
                uses = uses or bool(named)
                text.carriers |= named
        elif isinstance(node, ast.Attribute):
            uses = uses or node.attr in _DECORATORS
    text.declares = uses and imports
    text.uses += _bound(tree.body)
    return text


def _origin(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    parts = parts[: len(parts) - (node.level - 1)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the names that a module binds, with all that is behind them; a decorator is not behind its function's name."""
    left = list(body)
    while left:
        statement = left.pop()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name, _mentioned([node for part in statement.body for node in ast.walk(part)])
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            mentioned = _mentioned(list(ast.walk(statement.value)))
            for node in (node for target in targets for node in ast.walk(target)):
                if isinstance(node, ast.Name):
                    yield node.id, mentioned
        elif isinstance(statement, ast.If | ast.Try | ast.With):
            left += [inner for name in ("body", "orelse", "finalbody") for inner in getattr(statement, name, ())]
            left += [inner for handler in getattr(statement, "handlers", ()) for inner in handler.body]


def _mentioned(nodes: list[ast.AST]) -> frozenset[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            dotted = _dotted(node)
            if dotted is not None:
                found.add(dotted)
    return frozenset(found)


def _dotted(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _follow(text: Text, by_module: dict[str, Text]) -> bool:
    """Find carriers among the imports and bindings of a file; returns whether there was a new one."""
    before = len(text.carriers), text.declares
    for module, name, here in text.imports:
        other = by_module.get(module)
        if name is None:
            carriers = {f"{here}.{one}" for one in other.carriers} if other is not None else set()
            text.carriers |= carriers
            text.declares = text.declares or bool(carriers & text.mentions)
        elif (whole := by_module.get(f"{module}.{name}".lstrip("."))) is not None and (other is None or name not in other.carriers):
            carriers = {f"{here}.{one}" for one in whole.carriers}
            text.carriers |= carriers
            text.declares = text.declares or bool(carriers & text.mentions)
        elif other is not None and name == "*":
            carriers = {one for one in other.carriers if "." not in one and not one.startswith("_")}
            text.carriers |= carriers
            text.declares = text.declares or bool(carriers & text.mentions)
        elif other is not None and name in other.carriers:
            text.carriers.add(here)
            text.declares = True
    for name, mentioned in text.uses:
        if mentioned & text.carriers:
            text.carriers.add(name)
    return (len(text.carriers), text.declares) != before


def parsed(bundle: str, path: str) -> ast.Module:
    """Parse a file without executing it. Raises SyntaxError with the path in it."""
    full = os.path.join(bundle, path)
    with open(full, "rb") as file:
        source = file.read()
    try:
        return ast.parse(source, filename=full)
    except SyntaxError as error:
        error.filename = full
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "too deeply nested", (full, 1, 1, "")) from None
