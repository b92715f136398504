"""The hostile values: every kind has a name, by which it can be left out and is told of where it does harm."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from hypothesis import strategies as st

LONG = 100_000


class Literal(NamedTuple):
    """JSON that no encoder writes: a number that is none, nesting that no recursion reaches, half a surrogate pair."""

    text: str


class Hostile(NamedTuple):
    """A value of a kind. `value` is a JSON value that may hold `Literal`s."""

    kind: str
    value: Any


def _nested(depth: int) -> Literal:
    return Literal("[" * depth + "]" * depth)


def _maps(levels: int, wide: int) -> str:
    """An expression whose cost is a power of its size."""
    return f"[{','.join(['1'] * wide)}].map(x, " * levels + "x" + ")" * levels + ".size() > 0"


TEXTS: dict[str, list[str]] = {
    "nul": ["\0", "a\0b", "\0" * 20, "end\0"],
    "surrogate": ["\ud800", "a\udfffb", "\udc00\ud800", "\ud83d"],
    "empty": ["", " ", "\t\n", "\u00a0"],
    "separator": ["a\u2028b", "\u2029", "a\r\nb: c", "\x0b\x0c\x1c\x85"],
    "mark": ["\ufeffa", "\ufffe", "\u200b", "\u200d\u2060"],
    "direction": ["\u202eabc", "\u2066\u202d", "\u061c"],
    "combining": ["a" + "\u0301" * 2_000, "\u0e49" * 500, "\U0001f468\u200d" * 400],
    "control": ["\x01\x02\x1b[31m", "\x7f", "\x00".replace("\0", "\x07")],
    "astral": ["\U0001f600", "\U0010ffff", "\U000e0001", "\U00020000" * 40],
    "long": ["x" * LONG, "\u00e9" * LONG, "a." * (LONG // 2), "-" * 5_000, "x" * 65, "x" * 201, "x" * 1_025],
    "syntax": [
        "../../etc/passwd",
        "a/b",
        "*",
        ">",
        "$JS.API",
        "a.b.>",
        "'; --",
        "%s%n",
        "{{7*7}}",
        "${x}",
        "\\",
        '"',
        "%00",
        "a\\u0000b",
    ],
    "number-text": ["NaN", "-0", "1e400", "0x10", "\u0661\u0662", "1_000", "+1", "9" * 400, "\u00b2"],
    "expression": [
        *[
            "1/0",
            "event.data.a.b.c == 1",
            "[1,2].map(x, x)",
            "-9223372036854775808 - 1",
            "9223372036854775807u",
            "{}[0]",
            "b'\\xff'",
        ],
        *[
            "timestamp('9999-12-31T23:59:59Z') + duration('99999h')",
            "duration('1e99s')",
            "int('9' + '9')",
            "double('1e999')",
            "type(type(1))",
        ],
        *[
            "event.data.all(k, event.data[k] == event)",
            "has(event.data.a.b.c.d)",
            "'a'.matches('[')",
            "'\\ud800'",
            "string(event.data)",
        ],
    ],
    "expression-costly": [
        *[
            "(" * 500 + "1" + ")" * 500,
            "+".join(["1"] * 200),
            "+".join(["1"] * 50_000),
            "!" * 5_000 + "true",
            "[" * 2_000 + "]" * 2_000,
        ],
        *[_maps(4, 30), _maps(7, 10), "'" + "a" * 50 + "!'.matches('(a+)+$')", "&&".join(["event.type.contains('a')"] * 4_000)],
        *[
            "'" + "a" * 10_000 + "'" + ".replace('a', 'aaaaaaaaaa')" * 6,
            "-" * 20_000 + "1",
            "a." * 30_000 + "a",
            "1 ? " * 5_000 + "1",
        ],
    ],
}
TIMES: dict[str, list[str]] = {
    "time-early": ["0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z"],
    "time-late": [
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59.999999999Z",
        "10000-01-01T00:00:00Z",
        "+292278994-08-17T07:12:55Z",
    ],
    "time-odd": [
        *["2026-01-01T24:00:00Z", "2016-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01"],
        *[
            "2026-W01-1T00:00Z",
            "2026-01-01t00:00:00z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00+99:99",
            "2026-01-01T00:00:00.1234567890123Z",
        ],
        *["now-99999999999999d", "now+1h", "99999999999999999999", "-1", "1e400", "now-1y-1M"],
    ],
}
NUMBERS: dict[str, list[Any]] = {
    "integer-large": [2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 2**31, 10**400, -(10**400), Literal("1" * 5_000)],
    "float-large": [1e308, -1e308, 5e-324, 1e18, 1e15, 1e300, Literal("1e400"), Literal("-1e400"), Literal("1e99999")],
    "float-none": [Literal("NaN"), Literal("Infinity"), Literal("-Infinity")],
    "number-odd": [-0.0, Literal("-0"), 0, -1, 0.1, 1.5, Literal("01"), Literal("1."), Literal("+1"), Literal("0.1e-9999")],
}
WRONG: dict[str, list[Any]] = {
    "wrong-type": [None, True, False, [], {}, [[]], {"a": None}, ["a"], 7, "text", {"": ""}],
    "wrong-key": [
        {"\0": 1},
        {"a\0b": 1},
        {"\ud800": 1},
        {"": {}},
        {"x" * LONG: 1},
        {"__proto__": {}, "$ref": "#"},
        Literal('{"a":1,"a":2}'),
    ],
    "many": [list(range(5_000)), {str(number): number for number in range(2_000)}, [{}] * 3_000],
}
DEPTH: dict[str, list[Any]] = {
    "depth": [_nested(100), _nested(101), _nested(127)],
    "depth-large": [_nested(980), Literal('{"a":' * 980 + "1" + "}" * 980)],
    "depth-huge": [_nested(LONG), Literal('{"a":' * LONG + "1" + "}" * LONG), Literal("[" * LONG)],
}
RANDOM = "random"
KINDS = (*TEXTS, *TIMES, *NUMBERS, *WRONG, *DEPTH, RANDOM)


def _of(table: dict[str, list[Any]], without: frozenset[str]) -> st.SearchStrategy[Hostile]:
    """Any value of a table, whose kinds come equally often."""
    kinds = [kind for kind in table if kind not in without]
    if not kinds:
        return st.nothing()
    by_kind = {kind: st.sampled_from([Hostile(kind, value) for value in table[kind]]) for kind in kinds}
    return st.sampled_from(kinds).flatmap(by_kind.__getitem__)


def _made(without: frozenset[str]) -> st.SearchStrategy[Hostile]:
    """Texts that stand in no table: of any characters, or with a hostile one among good ones."""
    if RANDOM in without:
        return st.nothing()
    hidden = {"nul": "\0", "surrogate": ""}
    barred = "".join(character for kind, character in hidden.items() if kind in without)
    categories = ("Cs",) if "surrogate" in without else ()
    letters = st.characters(exclude_categories=categories, exclude_characters=barred)
    return st.text(letters, max_size=40).map(lambda text: Hostile(RANDOM, text))


@functools.cache
def texts(without: frozenset[str] = frozenset()) -> st.SearchStrategy[Hostile]:
    """What stands where a text stands, and is one: also for paths, queries and headers, which hold nothing else."""
    return st.one_of(_of(TEXTS, without), _of(TEXTS, without), _of(TIMES, without), _made(without))


@functools.cache
def values(of: str, without: frozenset[str] = frozenset()) -> st.SearchStrategy[Hostile]:
    """What is put where a `text`, a `time`, a `number` or a `value` of any other type is declared: mostly of that type."""
    text, time, number = _of(TEXTS, without), _of(TIMES, without), _of(NUMBERS, without)
    others = [_of(WRONG, without), _of(DEPTH, without)]
    mixed = {
        "text": [text, text, _made(without), time, *others],
        "time": [time, time, time, text, _made(without), number, *others],
        "number": [number, number, number, text, *others],
        "value": [text, _made(without), number, time, *others],
    }
    return st.one_of(*mixed[of])
