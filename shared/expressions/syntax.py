"""Reads a CEL expression without evaluating it: its size, its nesting, and the parts of its variables that it can see. Pure.

The bounds keep out expressions that no filter or key needs; the process that evaluates still takes every other one as hostile.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

LONGEST = 4096
"""Characters of an expression."""
MOST_TOKENS = 1000
DEEPEST = 32
"""Brackets within each other."""
MOST_LOOPS = 3
"""Macros that go over a list within each other: each multiplies the cost of the outer ones."""

_MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_RESERVED = frozenset(
    {
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop", "namespace",
        "null", "package", "return", "true", "var", "void", "while",
    }
)  # fmt: skip
# Names that are types, and those below which an environment has functions: never variables.
_GIVEN = frozenset(
    {
        "bool", "bytes", "cel", "double", "dyn", "google", "int", "list", "map", "math", "null_type", "optional", "optional_type",
        "sets", "string", "strings", "type", "uint",
    }
)  # fmt: skip
_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<text>(?:[rR][bB]?|[bB][rR]?)?(?:\"\"\"|\'\'\'|"|'))
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)[uU]?)
  | (?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}=&|])
    """,
    re.VERBOSE,
)
_ENDS = {
    '"': re.compile(r'(?:[^"\\\n]|\\.)*"', re.DOTALL),
    "'": re.compile(r"(?:[^'\\\n]|\\.)*'", re.DOTALL),
    '"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*"""', re.DOTALL),
    "'''": re.compile(r"(?:[^'\\]|\\.|'(?!''))*'''", re.DOTALL),
}
_RAW_ENDS = {
    '"': re.compile(r'[^"\n]*"'),
    "'": re.compile(r"[^'\n]*'"),
    '"""': re.compile(r'.*?"""', re.DOTALL),
    "'''": re.compile(r".*?'''", re.DOTALL),
}
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*){0,31}\Z")
_COMPLAINT = re.compile(r"ERROR: <input>:([0-9]+):([0-9]+): (.*)")
# Expressions that stay looked through: each is a few small tuples.
_KEPT = 4096

Path = tuple[str, ...]
Tree = dict[str, Any]
# Marks a node in a tree that is visible with everything below it. No name of CEL has a space.
_ALL = " all"


class _Token(NamedTuple):
    kind: str
    text: str
    at: int
    end: int


class Syntax(NamedTuple):
    """The form of an expression.

    `problem` names the bound that it breaks. `sees` is a tree of all that it can look at, by the names of variables and of their
    members; None where that could not be found. `plain` is the path that is all of the expression, where it is one. `variables` are
    those names, by first appearance, that can be nothing but variables, each with the members looked at right in it: a name that
    may be something else (an element of a macro, a function, a type) is not among them.
    """

    problem: str | None
    sees: Tree | None
    plain: Path | None
    variables: dict[str, tuple[str, ...]]


@functools.lru_cache(_KEPT)
def syntax_of(source: str) -> Syntax:
    """Return the form of an expression. Only CEL can decide whether it is CEL at all."""
    if len(source) > LONGEST:
        return Syntax(f"it has {len(source)} characters, and {LONGEST} are the most", None, None, {})
    tokens = _tokens(source)
    if tokens is None:
        return Syntax(_problem_by_characters(source), None, None, {})
    if len(tokens) > MOST_TOKENS:
        return Syntax(f"it has {len(tokens)} names, values and signs, and {MOST_TOKENS} are the most", None, None, {})
    plain = tuple(source.split(".")) if _PLAIN.match(source) else None
    if plain is not None and not _RESERVED.isdisjoint(plain):
        plain = None
    sees = _seen(tokens)
    variables = {name: tuple(one for one in sees[name] if one != _ALL) for name in _variables(tokens)}
    return Syntax(_problem(tokens), sees, plain, variables)


def column_of(source: str, variable: str) -> int:
    """Return the column, from 1, of the line in which an expression names a variable first; 0 where it does not."""
    before = ""
    for token in _tokens(source) or []:
        if token.kind == "name" and token.text == variable and before != ".":
            return token.at - source.rfind("\n", 0, token.at)
        before = token.text
    return 0


class Equality(NamedTuple):
    """What an expression demands wherever it is true: that the value at `path` equals that of the expression `operand`."""

    path: Path
    operand: str


def equality_of(source: str, variable: str) -> Equality | None:
    """Return an equality of a part of a variable and an expression without it, that is a condition among all that `&&` joins.

    Of several the first with a variable on the other side: it is likely to be true of fewer than one with a literal.
    """
    tokens = _tokens(source) or []
    literal: Equality | None = None
    for part in _conjuncts(tokens):
        sides = _sides(part)
        if sides is None:
            continue
        for one, other in (sides, sides[::-1]):
            path = tuple(token.text for token in one[::2])
            is_path = len(one) % 2 and all(token.kind == "name" for token in one[::2]) and all(dot.text == "." for dot in one[1::2])
            names = {token.text for token in other if token.kind == "name"}
            if is_path and len(path) > 1 and path[0] == variable and other and variable not in names:
                equality = Equality(path[1:], source[other[0].at : other[-1].end])
                if names - _RESERVED - _GIVEN:
                    return equality
                literal = literal or equality
    return literal


def _conjuncts(tokens: list[_Token]) -> list[list[_Token]]:
    """Return the parts that `&&` joins at the top; none where anything binds less than that."""
    parts: list[list[_Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in "([{") - (token.text in ")]}") if token.kind == "sign" else 0
        if depth == 0 and token.text in {"||", "?"}:
            return []
        if depth == 0 and token.text == "&&":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _sides(tokens: list[_Token]) -> tuple[list[_Token], list[_Token]] | None:
    """Return the two sides of `==`, where that is the one comparison at the top."""
    depth = 0
    found: int | None = None
    for number, token in enumerate(tokens):
        depth += (token.text in "([{") - (token.text in ")]}") if token.kind == "sign" else 0
        if depth == 0 and token.text in _COMPARISONS:
            if found is not None or token.text != "==":
                return None
            found = number
    return None if found is None else (tokens[:found], tokens[found + 1 :])


def placed(problem: str) -> str:
    """Return the first complaint of CEL's parser about a text as `line 1, column 16: …`; any other problem as it is."""
    complaint = _COMPLAINT.search(problem)
    if complaint is None:
        return problem
    line, column, said = complaint.groups()
    # What it would have taken instead is a list of nearly all signs.
    return f"line {line}, column {column}: {said.partition(' expecting {')[0]}"


def pruned(variables: dict[str, Any], sees: Tree | None) -> dict[str, Any]:
    """Return the variables that an expression can see: as good to it as all of them, and far less to hand over."""
    if sees is None:
        return variables
    return {name: _cut(variables[name], sees[name]) for name in sees if name in variables}


def found(variables: dict[str, Any], path: Path) -> tuple[bool, Any]:
    """Return whether a plain path leads to text, a number, a boolean or null, and its value: the same as CEL's."""
    value: Any = variables
    for part in path:
        if type(value) is not dict or part not in value:
            return False, None
        value = value[part]
    if value is None or type(value) in {str, bool}:
        return True, value
    return type(value) is int and -(2**63) <= value < 2**63, value


def _cut(value: Any, wanted: Tree) -> Any:
    if _ALL in wanted or type(value) is not dict:
        return value
    return {name: _cut(value[name], wanted[name]) for name in wanted if name in value}


def _tokens(source: str) -> list[_Token] | None:
    """Return the tokens; None where there is an unknown one, for which CEL has the better error."""
    tokens: list[_Token] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            return None
        began, at = at, match.end()
        kind = match.lastgroup or ""
        if kind == "space":
            continue
        if kind == "text":
            opened = match.group()
            quote = opened.lstrip("rRbB")
            is_raw = "r" in opened[: len(opened) - len(quote)].lower()
            end = (_RAW_ENDS if is_raw else _ENDS)[quote].match(source, at)
            if end is None:
                return None
            at = end.end()
        tokens.append(_Token(kind, match.group(), began, at))
    return tokens


def _problem_by_characters(source: str) -> str | None:
    """Look at text without tokens as if it had no strings either: it is no CEL, and must not be deep enough to hurt a parser."""
    deepest = max(sum(source.count(one) for one in "([{"), source.count("?"))
    return f"it nests deeper than {DEEPEST}" if deepest > DEEPEST else None


def _problem(tokens: list[_Token]) -> str | None:
    loops: list[bool] = []
    for number, token in enumerate(tokens):
        if token.kind != "sign":
            continue
        if token.text in "([{":
            is_loop = token.text == "(" and number >= 2 and tokens[number - 1].text in _MACROS and tokens[number - 2].text == "."
            loops.append(is_loop)
            if len(loops) > DEEPEST:
                return f"its brackets nest deeper than {DEEPEST}"
            if sum(loops) > MOST_LOOPS:
                return f"its loops (all, exists, exists_one, filter, map) nest deeper than {MOST_LOOPS}"
        elif token.text in ")]}" and loops:
            loops.pop()
    return None


def _seen(tokens: list[_Token]) -> Tree:
    """Return each chain of names that does not hang on another value; a method's name does not belong to its chain.

    A macro's name for an element is in it as well. It may be a variable's name: then more is handed over than is looked at.
    """
    tree: Tree = {}
    number = 0
    while number < len(tokens):
        if tokens[number].kind != "name" or (number and tokens[number - 1].text == "."):
            number += 1
            continue
        branch = tree.setdefault(tokens[number].text, {})
        number += 1
        while number + 1 < len(tokens) and tokens[number].text == "." and tokens[number + 1].kind == "name":
            if number + 2 < len(tokens) and tokens[number + 2].text == "(":
                break
            branch = branch.setdefault(tokens[number + 1].text, {})
            number += 2
        branch[_ALL] = {}
    return tree


def _variables(tokens: list[_Token]) -> list[str]:
    """Return the names that are surely free variables; none where a message is made, whose fields look like them."""
    texts = ["", "", "", *(token.text for token in tokens), "", ""]
    bound: set[str] = set()
    free: dict[str, None] = {}
    for at, token in enumerate(tokens, 3):
        after = texts[at + 1]
        if token.kind != "name":
            continue
        if after == "{":
            return []
        # The first argument of a method, with a comma after it, is a macro's name for an element; some take two of them.
        is_first = texts[at - 1] == "(" and texts[at - 3] == "."
        is_second = texts[at - 1] == "," and texts[at - 2] in bound
        if after == "," and (is_first or is_second):
            bound.add(token.text)
        elif texts[at - 1] != "." and after != "(" and token.text not in _RESERVED | _GIVEN:
            free[token.text] = None
    return [name for name in free if name not in bound]
