"""JSON Schemas that others wrote: the cost of checking a value is counted before the check begins, and bounded.

The cost is the number of looks at one place of a value. At a place `$ref`, `allOf`, `anyOf` and their like multiply: n
levels of two references each are 2**n looks. From a place to the one below it `properties`, `items` and their like lead; where
types hold each other in several alternatives that multiplies with the depth of the value, so that such a schema has a deepest one.

Nothing is fetched, and patterns are matched in time linear in the text: there is no looking ahead, and no back-reference. Their own
cost is counted in looks as well.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from shared import patterns
from shared.errors import Invalid, Problem

MOST_BYTES = 128 * 1024
MOST_DEPTH = 64
"""Levels of nesting of a schema."""
MOST_CHAIN = 32
"""Schemas in a row that are about the same place of a value, each part of the one before, or referred to by it."""
MOST_LOOKS = 20_000
"""Most looks at one place of a value."""
MOST_EDGES = 20_000
"""Ways from a place to those below it, counted at each schema that leads there."""
LEAST_VALUE = 2
"""Levels of a value that every schema has to be able to check."""
DEEPEST_VALUE = 100
MOST_WORK = 20_000_000
"""Looks at a whole value. They take 10 to 50 ns each."""
SLOW = 10
"""Looks that one counts for where a schema has both keywords of `_SLOW`: each item is then asked for by every `contains` again."""
MOST_TOLD = 10_000
"""Looks at a value for which every fault is listed; listing takes a thousand times as long as looking."""
COMPLAINTS = 20
COMPILED = 1024
# Items of each array of a value that are looked at where the whole is too large to list every fault.
_FIRST = 20
# A complaint repeats the value that it is about.
_COMPLAINT = 300
# Characters of a text that count as one more value.
_TEXT = 64

_ONE = ("not", "if", "then", "else")
_SEVERAL = ("allOf", "anyOf", "oneOf")
_BY_NAME = ("dependentSchemas", "dependencies")
_BELOW_OBJECT = ("additionalProperties", "unevaluatedProperties")
_BELOW_ARRAY = ("items", "additionalItems", "unevaluatedItems", "contains")
_COMPARED = ("const", "enum", "uniqueItems")
_SLOW = {"unevaluatedItems", "contains"}
_REFUSED = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")
# Places below: of a name, of any name, the names themselves, of a number, of any number.
_ANY_NAME, _NAMES, _ANY_ITEM = ("*",), ("names",), ("[]",)
_Place = tuple[Any, ...]


class Costs(msgspec.Struct, frozen=True):
    """The cost of checking values: looks at one place of a value that is so many levels deep, the last figure for all deeper ones.

    `deepest` is the greatest depth of a value, `reach` the depth down to which it is looked at; None where there is no bound.
    `names` is how many names one place is to have: each that is missing is a fault of its own. Each look counts for `times`.
    """

    looks: list[int]
    deepest: int | None
    reach: int | None
    names: int
    times: int


def costs(schema: Any, at: str = "schema") -> Costs:
    """Count the cost of checking values against a schema. Raises `Invalid` with the place that makes it more than is allowed."""
    if not isinstance(schema, dict | bool):
        raise _refused(at, "is no JSON Schema: it is neither an object nor true or false")
    return _Count(schema, at).costs()


class Checker:
    """Checks values against one schema."""

    def __init__(self, schema: bytes, *, formats: bool) -> None:
        document = msgspec.json.decode(schema)
        self._costs = costs(document)
        self._validator = jsonschema_rs.validator_for(
            schema.decode(), offline=True, validate_formats=formats, pattern_options=jsonschema_rs.RegexOptions()
        )

    def problems(self, value: Any, at: str) -> list[Problem]:
        """Return places where a value of JSON types does not fit, as paths that begin with `at`; some of many."""
        deepest, reach = self._costs.deepest, self._costs.reach
        if deepest is not None and _weight(value, deepest + 1) is None:
            return [Problem(at, f"is nested deeper than {deepest} levels: its types hold each other in too many alternatives")]
        work = self._work(value, reach)
        if work > MOST_WORK:
            return [Problem(at, "is too large to be checked")]
        try:
            if self._validator.is_valid(value):
                return []
            for candidate in (value, _cut(value)):
                if self._work(candidate, reach) * max(1, self._costs.names // 3) <= MOST_TOLD and (
                    found := list(itertools.islice(self._errors(candidate, at), COMPLAINTS))
                ):
                    return found
        except (RecursionError, ValueError):
            return [Problem(at, "is nested too deeply")]
        return [Problem(at, "does not fit, and is too large to say where")]

    def _work(self, value: Any, reach: int | None) -> int:
        weight, depth = _measured(value, reach)
        looks = self._costs.looks
        return weight * looks[min(depth, len(looks) - 1)] * self._costs.times

    def _errors(self, value: Any, at: str) -> Iterator[Problem]:
        for error in self._validator.iter_errors(value):
            place = ".".join([at, *(str(part) for part in error.instance_path)])
            if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
                for name in error.kind.unexpected:
                    yield Problem(f"{place}.{name[:_COMPLAINT]}", f"{name[:80]!r} is unknown"[:_COMPLAINT])
            else:
                yield Problem(place, error.message[:_COMPLAINT])


@functools.lru_cache(COMPILED)
def checker_of(schema: bytes, *, formats: bool = False) -> Checker:
    """Return the checker of values for a schema, given as JSON. Raises `Invalid` when it is none, or costs too much.

    `formats`: whether texts must have the schema's format; else that is a remark.
    """
    if len(schema) > MOST_BYTES:
        raise _refused("schema", f"is larger than {MOST_BYTES} bytes")
    try:
        return Checker(schema, formats=formats)
    except jsonschema_rs.ValidationError as error:
        place = ".".join(["schema", *(str(part) for part in error.instance_path)])
        raise _refused(place, f"is no JSON Schema: {error.message}"[:500]) from error
    except (ValueError, RecursionError) as error:
        raise _refused("schema", f"is no JSON Schema: {error}"[:500]) from error


class _Node(msgspec.Struct, eq=False):
    """A schema: how often a place is looked at for it, and the schemas that places below are looked at for."""

    looks: int = 1
    below: Counter[tuple[_Place, int]] = msgspec.field(default_factory=Counter)
    chain: int = 1


class _Count:
    """The count of one schema, whose subschemas are known by their identity: it must live as long."""

    def __init__(self, root: Any, at: str) -> None:
        self._root = root
        self._at = at
        self._nodes: dict[int, _Node] = {}
        self._open: set[int] = set()
        self._todo: list[tuple[Any, str]] = []
        self._edges = 0
        self._is_compared = False
        self._names = 0
        self._slow: set[str] = set()

    def costs(self) -> Costs:
        self._refuse_deep()
        self._todo.append((self._root, self._at))
        while self._todo:
            self._node(*self._todo.pop())
        looks, is_final = [], False
        by_depth = {key: node.looks for key, node in self._nodes.items()}
        root = id(self._root)
        reach = None
        for _depth in range(DEEPEST_VALUE + 1):
            looks.append(by_depth[root])
            if looks[-1] > MOST_LOOKS or is_final:
                break
            after = {key: self._deeper(node, by_depth) for key, node in self._nodes.items()}
            is_final = after == by_depth
            if is_final:
                reach = None if self._is_compared else self._reach()
            by_depth = after
        times = SLOW if self._slow == _SLOW else 1
        if looks[-1] <= MOST_LOOKS:
            return Costs(looks, None, reach, self._names, times)
        looks.pop()
        deepest = len(looks) - 1
        if deepest < LEAST_VALUE:
            raise _refused(self._at, f"leads to more than {MOST_LOOKS} looks at one place of a value: it has too many branches")
        return Costs(looks, deepest, None, self._names, times)

    def _deeper(self, node: _Node, before: dict[int, int]) -> int:
        """Return how often the most looked at place is, of a value that is a level deeper than those of `before`."""
        sums: Counter[_Place] = Counter()
        for (place, child), times in node.below.items():
            sums[place] += times * before[child]
        any_name, any_item = sums.pop(_ANY_NAME, 0), sums.pop(_ANY_ITEM, 0)
        names = [count for place, count in sums.items() if place[0] == "name"]
        items = [count for place, count in sums.items() if place[0] == "item"]
        return max(node.looks, sums[_NAMES], any_name + max(names, default=0), any_item + max(items, default=0))

    def _reach(self) -> int | None:
        """Return how many levels down a value is looked at; None where there is no end to it."""
        at = {id(self._root)}
        for depth in range(DEEPEST_VALUE):
            at = {child for key in at for _, child in self._nodes[key].below}
            if not at:
                return depth
        return None

    def _node(self, schema: Any, at: str) -> _Node:
        known = self._nodes.get(id(schema))
        if known is not None:
            return known
        if not isinstance(schema, dict | bool):
            raise _refused(at, "is no JSON Schema: it is neither an object nor true or false")
        if id(schema) in self._open:
            raise _refused(at, "leads back to itself without going down into the value")
        if len(self._open) >= MOST_CHAIN:
            raise _refused(at, f"is the end of more than {MOST_CHAIN} schemas about one place of a value")
        node = _Node()
        if isinstance(schema, dict):
            self._open.add(id(schema))
            self._count(node, schema, at)
            self._open.discard(id(schema))
        self._nodes[id(schema)] = node
        return node

    def _count(self, node: _Node, schema: dict[str, Any], at: str) -> None:
        for keyword in _REFUSED:
            if keyword in schema:
                raise _refused(f"{at}.{keyword}", "is not supported: refer to a definition by $ref")
        if schema is not self._root and isinstance(schema.get("$id", schema.get("id")), str):
            raise _refused(f"{at}.$id", "may stand at the top only")
        self._is_compared = self._is_compared or any(keyword in schema for keyword in _COMPARED)
        self._names = max(self._names, sum(map(len, _required(schema))))
        self._slow |= _SLOW & schema.keys()
        enum = schema.get("enum")
        node.looks += len(enum) // 16 if isinstance(enum, list) else 0
        for pattern, where in _patterns(schema, at):
            node.looks += patterns.looks(pattern)
            if node.looks > MOST_LOOKS:
                raise _refused(where, "costs too much to be matched: it repeats too much, or too many times")
        for place, child, where in _below(schema, at):
            node.below[place, id(child)] += 1
            if id(child) not in self._nodes:
                self._todo.append((child, where))
        for child, where in self._in_place(schema, at):
            part = self._node(child, where)
            node.looks += part.looks
            node.below.update(part.below)
            self._edges += len(part.below)
            if node.looks > MOST_LOOKS:
                raise _refused(where, f"leads to more than {MOST_LOOKS} looks at one place of a value: it has too many branches")
            if self._edges > MOST_EDGES:
                raise _refused(where, f"leads to more than {MOST_EDGES} places below, counted wherever it is referred to")
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            node.looks *= 2  # all other faults of the place are looked at again

    def _in_place(self, schema: dict[str, Any], at: str) -> Iterator[tuple[Any, str]]:
        if "$ref" in schema:
            yield self._referred(schema["$ref"], f"{at}.$ref"), f"{at}.$ref"
        for keyword in _ONE:
            if keyword in schema:
                yield schema[keyword], f"{at}.{keyword}"
        for keyword in _SEVERAL:
            if isinstance(schema.get(keyword), list):
                yield from ((one, f"{at}.{keyword}.{number}") for number, one in enumerate(schema[keyword]))
        for keyword in _BY_NAME:
            if isinstance(schema.get(keyword), dict):
                for name, one in schema[keyword].items():
                    if not isinstance(one, list):
                        yield one, f"{at}.{keyword}.{name}"

    def _referred(self, reference: Any, at: str) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _refused(at, "must refer to a place in this very schema, such as #/$defs/name")
        found = self._root
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isascii() and name.isdigit() and len(name) < 7 and int(name) < len(found):
                found = found[int(name)]
            else:
                raise _refused(at, f"refers to {reference[:100]!r}, which is not there")
        return found

    def _refuse_deep(self) -> None:
        level = [self._root]
        for _ in range(MOST_DEPTH):
            level = [one for held in level for one in _held(held) if isinstance(one, dict | list)]
            if not level:
                return
        raise _refused(self._at, f"is nested deeper than {MOST_DEPTH} levels")


def _below(schema: dict[str, Any], at: str) -> Iterator[tuple[_Place, Any, str]]:
    """Yield the schemas of places below, and which those are."""
    for keyword in ("properties", "patternProperties"):
        if isinstance(schema.get(keyword), dict):
            for name, one in schema[keyword].items():
                yield ("name", name) if keyword == "properties" else _ANY_NAME, one, f"{at}.{keyword}.{name}"
    for keyword in _BELOW_OBJECT:
        if keyword in schema:
            yield _ANY_NAME, schema[keyword], f"{at}.{keyword}"
    if "propertyNames" in schema:
        yield _NAMES, schema["propertyNames"], f"{at}.propertyNames"
    for keyword in ("prefixItems", "items"):
        if isinstance(schema.get(keyword), list):
            yield from ((("item", number), one, f"{at}.{keyword}.{number}") for number, one in enumerate(schema[keyword]))
    for keyword in _BELOW_ARRAY:
        if keyword in schema and not isinstance(schema[keyword], list):
            yield _ANY_ITEM, schema[keyword], f"{at}.{keyword}"


def _patterns(schema: dict[str, Any], at: str) -> Iterator[tuple[str, str]]:
    """Yield the patterns that texts of a place, or the names in its object, are matched with."""
    if isinstance(schema.get("pattern"), str):
        yield schema["pattern"], f"{at}.pattern"
    if isinstance(schema.get("patternProperties"), dict):
        yield from ((pattern, f"{at}.patternProperties.{pattern}") for pattern in schema["patternProperties"])


def _required(schema: dict[str, Any]) -> Iterator[list[Any]]:
    """Yield the lists of names that an object is to have, always or beside others."""
    beside = schema.get("dependentRequired"), schema.get("dependencies")
    lists = [schema.get("required"), *(one for named in beside if isinstance(named, dict) for one in named.values())]
    yield from (one for one in lists if isinstance(one, list))


def _held(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _measured(value: Any, reach: int | None) -> tuple[int, int]:
    """Return how many values a value holds, itself among them and long texts counting as several, and how deep it is, as far as
    it is looked at.
    """
    weight, depth = 0, 0
    level = [value]
    while True:
        weight += len(level) + sum(len(one) // _TEXT for one in level if isinstance(one, str))
        weight += sum(len(one) + sum(len(name) // _TEXT for name in one) for one in level if isinstance(one, dict))
        if depth == reach:
            return weight, depth
        level = [one for held in level for one in _held(held)]
        if not level:
            return weight, depth
        depth += 1


def _weight(value: Any, most: int) -> int | None:
    """Return the weight of a value, or None where it is at least so many levels deep."""
    weight, depth = _measured(value, most)
    return None if depth >= most else weight


def _cut(value: Any) -> Any:
    """Return a value with the beginnings of its arrays only, as far as those are likely to be looked at."""
    if isinstance(value, dict):
        return {name: _cut(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_cut(one) for one in value[:_FIRST]]
    return value


def _refused(path: str, message: str) -> Invalid:
    return Invalid(f"{path} {message}", errors=(Problem(path, message),))


def portable(schema: Any) -> Any:
    """Return a schema whose patterns have the anchors of ECMA-262, as JSON Schema asks for, instead of Python's."""
    if isinstance(schema, list | tuple):
        return [portable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: portable(one) for name, one in schema.items()}
    if isinstance(made.get("pattern"), str):
        made["pattern"] = made["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    return made
