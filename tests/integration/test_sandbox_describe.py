"""What a bundle holds, and what is wrong with it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.executor.sandbox import children
from tests.support.sandbox import UID, Bench, reachable_interpreter, started_bench

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)

GOOD = "from millrace import workflow\n@workflow\ndef good(): pass\n"


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with started_bench() as made:
        yield made


async def test_a_workflow_is_told_in_full(bench: Bench) -> None:
    found = await bench.describe(
        workflows__tickets="""
            import millrace

            @millrace.workflow(name="sync-tickets", timeout=300, retries=3, concurrency="org")
            async def sync_tickets(event: "dict", limit: int = 50) -> dict:
                '''Copies tickets.'''

            @millrace.data_provider
            def options(): return []
        """
    )
    assert found.problems == []
    one, other = found.workflows
    assert (one.name, one.module) == ("sync-tickets", "workflows.tickets")
    assert (one.path, one.line) == ("workflows/tickets.py", 4)
    assert (one.function, one.doc, one.timeout, one.retries) == ("sync_tickets", "Copies tickets.", 300, 3)
    assert (one.concurrency, one.is_data_provider) == ("org", False)
    assert one.input_schema["required"] == ["event"]
    assert (other.name, other.is_data_provider, other.timeout) == ("options", True, None)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\ndef broken(:\n    pass\n", 2, "SyntaxError"),
        ("x = 1\n\0", 1, "null bytes"),
        (GOOD + "\n1 / 0\n", 5, "ZeroDivisionError: division by zero"),
        (GOOD + "import sys\nsys.exit(1)\n", 5, "SystemExit: sys.exit(1) was called"),
        (GOOD + "import nowhere\n", 4, "ModuleNotFoundError"),
        (GOOD.replace("good()", "good(a: complex)"), 2, "parameter a: no JSON value becomes complex"),
        (GOOD.replace("good()", "good(a: 'Missing')"), 2, "'Missing' is not defined"),
        (GOOD.replace("@workflow", "@workflow(timeout=-1)"), 2, "timeout is a number of seconds above 0"),
        (GOOD + "@workflow(name='good')\ndef other(): pass\n", 4, "already in bad.py line 2"),
    ],
)
async def test_a_problem_has_path_and_line_and_the_rest_is_served(bench: Bench, text: str, line: int, message: str) -> None:
    found = await bench.describe(bad=text, fine=GOOD.replace("good", "fine"))
    assert "fine" in [workflow.name for workflow in found.workflows]
    (problem,) = found.problems
    assert (problem.path, problem.line) == ("bad.py", line)
    assert message in problem.message


async def test_a_fault_in_an_imported_file_is_told_where_it_is(bench: Bench) -> None:
    found = await bench.describe(a=GOOD + "import lib.deep\n", lib__deep="x = 1\nx.y\n")
    assert [(one.path, one.line) for one in found.problems] == [("lib/deep.py", 2)]
    assert found.workflows == []


async def test_a_file_without_workflows_is_not_executed(bench: Bench) -> None:
    found = await bench.describe(tool="1 / 0\n", json=GOOD)
    assert [(one.path, "of its own" in one.message) for one in found.problems] == [("json.py", True)]


async def test_a_child_that_dies_while_importing_is_a_problem(bench: Bench) -> None:
    found = await bench.describe(a=GOOD + "import os\nos._exit(9)\n")
    assert found.workflows == []
    assert "code 9" in found.problems[0].message


async def test_an_import_that_hangs_is_a_problem_of_its_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_DESCRIBE", 0.5)
    found = await bench.describe(a=GOOD, b=GOOD.replace("good", "slow") + "import time\ntime.sleep(60)\n")
    assert [workflow.name for workflow in found.workflows] == ["good"]
    assert [(one.path, one.message) for one in found.problems] == [("b.py", "importing it took too long")]
