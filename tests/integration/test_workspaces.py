"""Files that cannot be beside each other, and workflows behind the author's own decorators, in a whole workspace."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from deploy.positions import administrator
from deploy.rebuild import lost
from shared.errors import Invalid
from shared.pull import api_request
from tests.support.river import river
from tests.support.servers import Place

PLAIN = b"from millrace import workflow\n\n\n@workflow\ndef %s() -> str:\n    return '%s'\n"
DECORATOR = b"""
import functools

from millrace import log, workflow


def job(name: str):
    def declare(function):
        @functools.wraps(function)
        async def logged(*args, **kwargs):
            log.info("begun", job=name)
            return function(*args, **kwargs)

        return workflow(name=name)(logged)

    return declare


def plain(function):
    return function
"""


async def test_a_file_where_a_folder_would_be_is_refused_by_name_and_later_deployments_work(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("a.py", PLAIN % (b"a", b"a"))
        await outside.put_file("d/e.txt", b"")
        for path, named in (("a.py/b.py", "a.py is a file"), ("d", "the folder of d/e.txt"), ("A.py", "differs from a.py")):
            with pytest.raises(Invalid, match=named):
                await outside.put_file(path, PLAIN % (b"b", b"b"))
        view = await outside.put_file("c.py", PLAIN % (b"c", b"c"))
        assert (view.workflows, view.problems) == (["c"], [])
        again = await outside.put_file("a.py", PLAIN % (b"a", b"again"))
        assert (again.workflows, again.problems) == (["a"], [])
        assert (await outside.run(await outside.request("a"), "succeeded")).result == "again"


NO_PATHS = [
    "a.py/",
    "..",
    "../a.py",
    "/a.py",
    "a//b.py",
    "./a.py",
    "a\0.py",
    "x" * 256,
    "x/" * 600 + "a",
    "e\u0301.py",
    "a\u202eb.py",
    "",
]


async def test_a_path_that_no_folder_has_is_refused(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        for path in NO_PATHS:
            with pytest.raises(Invalid):
                await outside.put_file(path, b"")


async def test_a_workflow_behind_the_author_s_own_decorator_is_found_served_and_run(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("lib/flows.py", DECORATOR)
        text = b"from lib.flows import job\n\n\n@job(name='double')\ndef twice(n: int) -> int:\n    return 2 * n\n"
        view = await outside.put_file("flows.py", text)
        assert (view.workflows, view.problems) == (["double"], [])
        run = await outside.request("double", input={"n": 21})
        assert (await outside.run(run, "succeeded")).result == 42


async def test_a_workflow_whose_function_lost_its_decorator_is_told_and_still_served(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("lib/flows.py", DECORATOR)
        await outside.put_file("a.py", PLAIN % (b"a", b"a"))
        hidden = b"from lib.flows import plain\n\n\n@plain\ndef a() -> str:\n    return 'b'\n"
        view = await outside.put_file("a.py", hidden)
        (problem,) = view.problems
        assert problem.path == "a.py"
        assert "the workflow a is gone, though a is still here" in problem.message
        assert (await outside.run(await outside.request("a"), "succeeded")).result == "a"
        gone = await outside.put_file("a.py", hidden.replace(b"def a", b"def b"))
        assert (gone.workflows, gone.problems) == ([], [])


async def test_content_that_the_broker_lost_is_there_again_when_its_file_is_put_again(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("a.py", PLAIN % (b"a", b"a"))
    async with administrator(place.nats_url("admin")) as admin:
        connection = await asyncpg.connect(place.database_url("admin"))
        await api_request(admin, "$JS.API.STREAM.PURGE.OBJ_workspace", None)
        missing = {"workspace": ["code of workflow a of default", "file a.py of default"]}
        assert await lost.objects(admin, connection) == missing
        async with river(place, data) as outside:
            await outside.put_file("a.py", PLAIN % (b"a", b"a"))
            assert await lost.objects(admin, connection) == {}
            assert (await outside.run(await outside.request("a"), "succeeded")).result == "a"
        await connection.close()
