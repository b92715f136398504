"""One language, two evaluators: the condition in SQL, the one in Python, and a filter that knows neither, agree on any row."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest_asyncio

from services.logs.domain import LEVELS, Row, StreamPosition, row_of
from services.logs.lines import split
from services.logs.matching import Seen
from services.logs.query import parse
from services.logs.selection import Selection
from services.logs.store import insert
from shared.statements import written
from tests.support.servers import Place

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
WORDS = [
    "rate",
    "limit",
    "Straße",
    "STRASSE",
    "Zoë",
    "a.b",
    "sync-tickets",
    "x_y",
    "12",
    "-5",
    "1e3",
    "10.0",
    "ann@example.org",
    "Σας",
]
VALUES: list[Any] = [
    *WORDS, "", " ", "rate limit", "true", True, False, None, 0, -0.0, 5, -5, 5.0, 5.50, 1e3, 1e-7, 123456789012345678901234567890,
    10**20, ["rate", 5, True], [["rate"]], [], {}, {"n": 5}, "level", "=level=error", "x" * 300, "{}",
]  # fmt: skip
NAMES = ["a", "b", "c-d", "status", "payload_base64", "0", "http.status"]
ORGS = ["acme", "other"]


class Case(NamedTuple):
    """A query, and what it says of a row's columns, its data as JSON and its line."""

    q: str
    says: Callable[[Row, Any], bool]


def document(chance: random.Random, number: int) -> tuple[bytes, str]:
    data: dict[str, Any] = {name: chance.choice(VALUES) for name in chance.sample(NAMES, chance.randrange(len(NAMES)))}
    data["deep"] = {"list": [chance.choice(VALUES), {"n": chance.choice(VALUES)}], "text": chance.choice(WORDS)}
    type_ = chance.choice(["run.failed", "run.requested", "line.logged", "audit.refused", "log.warning"])
    if type_ == "line.logged":
        said = [
            {"time": "t", "level": chance.choice(LEVELS), "message": " ".join(chance.choices(WORDS, k=2)), "fields": data},
            {"time": "t", "level": "info", "message": "second", "fields": {"status": chance.choice(VALUES)}},
        ]
        data = {"run": f"r{number % 5}", "workflow": "w", "attempt": number % 3, "chunk": 1, "lines": said}
    elif type_ == "log.warning":
        data = {"service": "x", "level": "warning", "event": chance.choice(WORDS), "fields": data}
    given = {
        "specversion": "1.0", "id": f"m{number}", "type": type_, "source": f"/{chance.choice(['executor', 'gateway'])}",
        "subject": f"r{number % 5}", "time": "2026-11-20T12:00:00Z", "org": chance.choice(ORGS), "correlationid": f"c{number % 4}",
        "data": data,
    }  # fmt: skip
    return json.dumps(given).encode(), chance.choice(["RUNS", "AUDIT", "LOGS"])


def rows_of(chance: random.Random, number: int) -> list[Row]:
    made: list[Row] = []
    for seq in range(1, number + 1):
        raw, stream = document(chance, seq)
        made += split(row_of(StreamPosition(stream, "inc", seq, NOW - timedelta(seconds=seq), "s"), raw))
    return made


def quoted(value: Any) -> str:
    written = value if isinstance(value, str) else json.dumps(value)
    return '"' + written.replace("\\", "\\\\").replace('"', '\\"') + '"'


def places(row: Row, data: Any, path: list[str]) -> Any:
    """Look a place up; ... where there is none."""

    def within(found: Any, parts: list[str]) -> Any:
        for part in parts:
            if isinstance(found, dict):
                found = found.get(part, ...)
            elif isinstance(found, list) and re.fullmatch("-?[0-9]+", part) and -len(found) <= int(part) < len(found):
                found = found[int(part)]
            else:
                return ...
        return found

    found = within(data, path)
    if found is ... and path[0] != "fields" and row.line > 0:
        found = within(data, ["fields", *path])
    if found is ... and path[0] == "fields" and len(path) > 2:
        found = within(data, ["fields", ".".join(path[1:])])
    return found


def is_same(found: Any, wanted: Any) -> bool:
    """Whether JSON is what a query writes as `wanted`."""
    if isinstance(found, bool) or found is None:
        return found is not None and json.dumps(found) == (wanted if isinstance(wanted, str) else json.dumps(wanted))
    if isinstance(found, str):
        return bool(found == (wanted if isinstance(wanted, str) else json.dumps(wanted)))
    try:
        number = json.loads(wanted) if isinstance(wanted, str) else wanted
    except ValueError:
        return False
    if isinstance(number, bool) or not isinstance(number, int | float) or not isinstance(found, int | float):
        return False
    return bool(found == number)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [found for name, one in value.items() if not name.endswith("_base64") for found in texts(one)]
    if isinstance(value, list):
        return [found for one in value for found in texts(one)]
    if value is None or isinstance(value, bool):
        return []
    return [word for word in str(value).split() if len(word) <= 256]


def said(row: Row, data: Any) -> list[str]:
    """All words of a row, in order."""
    found = texts(data.get("fields")) if row.line > 0 else texts(data)
    joined = " ".join([row.message, row.type, row.key, *found])
    return [word.casefold() for word in re.findall(r"[^\W_]+", joined)]


def follows(words: list[str], wanted: list[str], *, prefix: bool) -> bool:
    for start in range(len(words)):
        part = words[start : start + len(wanted)]
        if part == wanted or (prefix and part[:-1] == wanted[:-1] and len(part) == len(wanted) and part[-1].startswith(wanted[-1])):
            return bool(wanted)
    return False


def of_column(chance: random.Random, kind: int) -> Case:
    if kind == 9:
        part = chance.choice(["RATE", "zoë", "second", "a.b", "-tick", "=", "%", "_", "e"])
        lower = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
        return Case(f"message:{part}", lambda row, _: part.translate(lower) in row.message.translate(lower))
    if kind == 10:
        low, high = sorted(chance.choices(range(60), k=2))
        return Case(f"seq:[{low} TO {high}.5]", lambda row, _: low <= row.seq <= high)
    name = chance.choice(["type", "key", "service", "run", "workflow", "id", "correlation_id", "causation_id", "stream", "seq"])
    begun = chance.choice(["r", "run.", "run.f", "ex", "w", "m1", "c", "1", "R", ""])
    if kind == 11:

        def starts(row: Row, _: Any) -> bool:
            found = getattr(row, name)
            return found is not None and str(found).startswith(begun)

        return Case(f"{name}:{begun}*", starts)
    if name == "seq":
        return Case("seq:<=30", lambda row, _: row.seq <= 30)
    bound = chance.choice(["m", "run.failed", "R", "c2"])
    return Case(f"{name}:<{bound}", lambda row, _: getattr(row, name) is not None and getattr(row, name) < bound)


def leaf(chance: random.Random) -> Case:
    kind = chance.randrange(13)
    if kind > 8:
        return of_column(chance, kind)
    if kind == 0:
        phrase = " ".join(chance.choices(WORDS, k=chance.choice([1, 1, 2])))
        wanted = [word.casefold() for word in re.findall(r"[^\W_]+", phrase)]
        return Case(quoted(phrase), lambda row, data: follows(said(row, data), wanted, prefix=False))
    if kind == 1:
        begun = chance.choice(["ra", "str", "sync-t", "1", "le", "zo", "\u03c3"])
        parts = [word.casefold() for word in re.findall(r"[^\W_]+", begun)]
        return Case(f"{begun}*", lambda row, data: follows(said(row, data), parts, prefix=True))
    if kind == 2:
        level = chance.choice(LEVELS)
        return Case(f"level:{level}", lambda row, _: row.level == level)
    if kind == 3:
        least = chance.choice(LEVELS)
        return Case(f"level:>={least}", lambda row, _: LEVELS.index(row.level) >= LEVELS.index(least))
    if kind == 4:
        name, value = chance.choice(
            [("type", "run.failed"), ("type", "run"), ("stream", "AUDIT"), ("stream", "no such"), ("key", "r1"), ("run", "r2"),
             ("service", "executor"), ("org", "other"), ("id", "m3"), ("correlation_id", "c1"), ("workflow", "w")]
        )  # fmt: skip
        return Case(f'{name}:"{value}"', lambda row, _: getattr(row, name) == value)
    path = chance.choice(
        [[name] for name in NAMES[:6]]
        + [["fields", name] for name in NAMES]
        + [
            ["deep", "list"],
            ["deep", "list", "0"],
            ["deep", "list", "-1", "n"],
            ["deep", "text"],
            ["fields", "deep", "text"],
            ["deep"],
        ]
    )
    written = ".".join(path if path[0] == "fields" else ["data", *path])
    path = ["fields", *path[1].split(".")] if path[0] == "fields" and len(path) == 2 else path
    if kind == 5:
        return Case(f"{written}:*", lambda row, data: places(row, data, path) not in (..., None))
    value = chance.choice([one for one in VALUES if isinstance(one, str | int | float)])
    if kind == 6:

        def equals(row: Row, data: Any) -> bool:
            found = places(row, data, path)
            return any(is_same(one, value) for one in (found if isinstance(found, list) else [found]) if one is not ...)

        return Case(f"{written}:{quoted(value)}", equals)
    if kind == 7:
        begun = chance.choice(["ra", "r", "5", "-", "tr", "{", "Str", "a.", "12", "="])

        def starts(row: Row, data: Any) -> bool:
            found = places(row, data, path)
            if isinstance(found, bool):
                return json.dumps(found).startswith(begun)
            if isinstance(found, int | float):
                return format(found or abs(found), "f" if isinstance(found, int) else "").startswith(begun)
            return isinstance(found, str) and found.startswith(begun)

        return Case(f"{written}:{begun}*", starts)
    bound = chance.choice([0, 5, -5, 100.5, "rate", "m"])

    def above(row: Row, data: Any) -> bool:
        found = places(row, data, path)
        if isinstance(found, str):
            return found > str(bound)
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return is_number and not isinstance(bound, str) and found > bound

    return Case(f"{written}:>{bound}", above)


def case(chance: random.Random, depth: int = 0) -> Case:
    kind = chance.randrange(6) if depth < 3 else 5
    if kind == 0:
        inner = case(chance, depth + 1)
        return Case(f"-({inner.q})", lambda row, data: not inner.says(row, data))
    if kind in {1, 2}:
        joined = [case(chance, depth + 1) for _ in range(2)]
        if kind == 1:
            return Case(f"({joined[0].q} OR {joined[1].q})", lambda row, data: any(one.says(row, data) for one in joined))
        return Case(f"{joined[0].q} {joined[1].q}", lambda row, data: all(one.says(row, data) for one in joined))
    return leaf(chance)


@pytest_asyncio.fixture
async def connection(place: Place) -> AsyncIterator[asyncpg.Connection[Any]]:
    made = await asyncpg.connect(place.database_url("logs"))
    yield made
    await made.close()


async def test_sql_python_and_a_plain_filter_select_the_same_rows(connection: asyncpg.Connection[Any]) -> None:
    chance = random.Random(7)
    rows = rows_of(chance, 60)
    statement = insert(rows)
    await connection.execute(statement.sql, *statement.values)
    seen = [(row, Seen(row), json.loads(row.data or "null")) for row in rows if row.line >= 0]
    found = 0
    for _ in range(500):
        one, org = case(chance), chance.choice([None, *ORGS])
        selection = Selection(org, parse(one.q))
        selected = written(f"SELECT id, line FROM message WHERE {selection.sql}", selection.parameters)
        by_sql = {(row["id"], row["line"]) for row in await selected.fetch(connection)}
        by_python = {(row.id, row.line) for row, looked_at, _ in seen if selection.holds(looked_at)}
        plainly = {(row.id, row.line) for row, _, data in seen if org in (None, row.org) and one.says(row, data)}
        assert by_python == by_sql, one.q
        assert plainly == by_sql, one.q
        found += 0 < len(by_sql) < len(seen)
    assert found > 200


async def test_rows_whose_words_are_not_all_kept_are_found_by_their_fields_all_the_same(
    connection: asyncpg.Connection[Any],
) -> None:
    many = " ".join(f"w{number}" for number in range(30_000))
    nested: Any = "bottom"
    for _ in range(40):
        nested = {"n": nested}
    given = {"many": many, "last": "end of it", "nested": nested, "long": "y" * 400, "often": "z " * 400 + "stop"}
    raw = json.dumps(
        {"specversion": "1.0", "id": "m", "type": "run.failed", "source": "/x", "subject": "k", "time": "2026-11-20T12:00:00Z",
         "org": "acme", "correlationid": "c", "data": given}
    ).encode()  # fmt: skip
    [row] = split(row_of(StreamPosition("RUNS", "inc", 1, NOW, "s"), raw))
    statement = insert([row])
    await connection.execute(statement.sql, *statement.values)
    deep = ".".join(["data.nested"] + ["n"] * 40)
    queries = ['data.last:"end of it"', f"{deep}:bottom", f"{deep}:bot*", f"data.long:{'y' * 400}", f"data.long:{'y' * 300}*"]
    for q in [*queries, 'data.often:"' + "z " * 400 + 'stop"', "w14000"]:
        selection = Selection("acme", parse(q))
        selected = written(f"SELECT id FROM message WHERE {selection.sql}", selection.parameters)
        assert [row["id"] for row in await selected.fetch(connection)] == ["m"], q[:80]
        assert selection.holds(Seen(row)), q[:80]
