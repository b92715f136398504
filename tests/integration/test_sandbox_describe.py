"""What a bundle holds, and what is wrong with it."""

from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from services.executor.sandbox import attempt, children
from services.executor.sandbox.interface import ServedDefinition
from tests.support.sandbox import UID, Bench, Recorded, reachable_interpreter, started_bench

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)

GOOD = "from millrace import workflow\n@workflow\ndef good(): pass\n"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
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
    (problem,) = found.problems
    assert (problem.path, "code 9" in problem.message) == ("a.py", True)


async def test_an_import_that_hangs_is_a_problem_of_its_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_DESCRIBE", 0.5)
    found = await bench.describe(a=GOOD, b=GOOD.replace("good", "slow") + "import time\ntime.sleep(60)\n")
    assert [workflow.name for workflow in found.workflows] == ["good"]
    assert [(one.path, one.line, one.message) for one in found.problems] == [("b.py", 5, "importing it took too long")]


async def test_each_file_that_hangs_is_told_with_its_line_and_the_others_are_read(bench: Bench) -> None:
    hanging = GOOD.replace("good", "slow") + "\nwhile True:\n    pass\n"
    place = bench.bundle(
        a=hanging,
        b="import lib.deep\n" + GOOD.replace("good", "b"),
        c="import lib.deep\n" + GOOD.replace("good", "c"),
        d=GOOD,
        lib__deep="import time\ntime.sleep(1000)\n",
    )
    found = await bench.children.describe(place, patience=0.3)
    assert [workflow.name for workflow in found.workflows] == ["good"]
    assert {(one.path, one.is_slow) for one in found.problems} == {("a.py", True), ("lib/deep.py", True)}
    lines = {one.path: one.line for one in found.problems}
    assert lines["a.py"] in {5, 6}
    assert lines["lib/deep.py"] == 2
    assert all("longer than 0.3 s" in one.message for one in found.problems)


async def test_a_file_that_will_not_be_stopped_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_DESCRIBE", 0.5)
    monkeypatch.setattr(attempt, "GRACE", 0.5)
    stubborn = "while True:\n    try:\n        while True: pass\n    except BaseException: pass\n"
    found = await bench.describe(a=GOOD, b=GOOD.replace("good", "slow") + stubborn)
    assert [(one.path, one.is_slow) for one in found.problems] == [("b.py", True)]


WRAPPING = """
    import contextlib, functools
    from unittest import mock
    from millrace import data_provider, workflow
    from millrace import workflow as declared

    def job(name):
        def declare(function):
            @functools.wraps(function)
            async def inner(*args, **kwargs): return function(*args, **kwargs)
            return workflow(name=name)(inner)
        return declare

    def bare(name):
        def declare(function):
            def inner(**kwargs): return function(**kwargs)
            return workflow(name=name)(inner)
        return declare

    quick = functools.partial(workflow, timeout=5)

    def made(name):
        @workflow(name=name)
        def flow(): return name
        return flow
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from lib.flows import job\n@job(name='x')\ndef f(a: int): return a\n", ["x"]),
        ("from lib.flows import workflow\n\n@workflow\ndef f(): pass\n", ["f"]),
        ("from lib.flows import declared\n\n@declared\ndef f(): pass\n", ["f"]),
        ("from lib.flows import *\n\n@quick()\ndef f(): pass\n", ["f"]),
        ("import lib.flows\n\n@lib.flows.job('x')\ndef f(): pass\n", ["x"]),
        ("import lib.flows as flows\n\n@flows.workflow\ndef f(): pass\n", ["f"]),
        ("from lib import flows\n\n@flows.quick()\ndef f(): pass\n", ["f"]),
        ("from lib.flows import job as task\n\ndef f(): pass\ntask('x')(f)\n", ["x"]),
        ("from lib.again import renamed\n\n@renamed('x')\ndef f(): pass\n", ["x"]),
        ("from lib.flows import bare\n@bare('x')\ndef f(): pass\n@bare('y')\ndef g(): pass\n", ["x", "y"]),
        ("from lib.flows import made\n\nf = made('x')\ng = made('y')\n", ["x", "y"]),
        (
            (
                "import contextlib\nfrom millrace import workflow\n@contextlib.contextmanager\ndef c(): yield\n"
                "@workflow\n@c()\ndef f(): pass\n"
            ),
            ["f"],
        ),
        (
            "from unittest import mock\nfrom millrace import workflow\n@workflow\n@mock.patch.dict('os.environ')\ndef f(): pass\n",
            ["f"],
        ),
    ],
)
async def test_a_workflow_is_found_and_runs_whatever_it_is_declared_through(bench: Bench, text: str, names: list[str]) -> None:
    again = "from .flows import job\nrenamed = job\n"
    files = {"lib__flows": WRAPPING, "lib__again": again, "lib____init__": "", "one": text}
    found = await bench.describe(**files)
    assert found.problems == []
    assert [one.name for one in found.workflows] == names
    for workflow in found.workflows:
        assert (workflow.path, workflow.module) == ("one.py", "one")
        assert text.splitlines()[workflow.line - 1].startswith(("@", "def", "f =", "g =", "task"))
        job = bench.job("")
        job = msgspec.structs.replace(
            job, bundle=bench.bundle(**files), module=workflow.module, function=workflow.function, workflow=workflow.name
        )
        job = msgspec.structs.replace(job, input={"a": 1} if "a: int" in text else {})
        assert (await bench.children.run(job, Recorded())).status == "succeeded"


async def test_a_file_that_only_uses_workflows_of_others_is_not_executed(bench: Bench) -> None:
    found = await bench.describe(a=GOOD, test_a="from a import good\nimport pytest\n\ndef test(): assert good() is None\n")
    assert found.problems == []
    assert [one.name for one in found.workflows] == ["good"]


async def test_a_served_workflow_whose_function_is_no_workflow_any_more_is_a_problem(bench: Bench) -> None:
    served = [
        ServedDefinition("good", "a.py", "good"),
        ServedDefinition("moved", "a.py", "moved"),
        ServedDefinition("gone", "a.py", "gone"),
    ]
    bundle = bench.bundle(a="def good(): pass\ndef moved(): pass\n", b=GOOD.replace("good", "moved"))
    found = await bench.children.describe(bundle, served=served)
    assert [(one.path, "the workflow good is gone" in one.message) for one in found.problems] == [("a.py", True)]
    renamed = bench.bundle(a=GOOD.replace("@workflow", "@workflow(name='better')"))
    assert (await bench.children.describe(renamed, served=served[:1])).problems == []


async def test_a_served_adapter_whose_file_does_not_find_its_decorator_any_more_is_a_problem(bench: Bench) -> None:
    served = [ServedDefinition("good", "a.py", "good", is_adapter=True), ServedDefinition("good", "b.py", "good")]
    bundle = bench.bundle(a="from milrace import adapter\n@adapter\ndef good(request): pass\n", b=GOOD)
    found = await bench.children.describe(bundle, served=served)
    assert [(one.path, "the adapter good is gone" in one.message) for one in found.problems] == [("a.py", True)]
    assert [one.name for one in found.workflows] == ["good"]


@pytest.mark.parametrize(
    "wrong",
    [
        "class E(enum.Enum): NONE = float('inf')\n@workflow\ndef f(a: E): pass",
        "@workflow\ndef f(a: typing.Literal['a\\0']): pass",
        "@workflow\ndef f(a: typing.Literal['\\ud800']): pass",
        "@workflow\ndef f(a: typing.Literal[10**40]): pass",
        "@workflow\ndef f(a: typing.TypedDict('T', {'a\\0': int})): pass",
        "@workflow\ndef f(a: typing.Literal[tuple(str(n) for n in range(100_000))]): pass",
    ],
)
async def test_a_schema_that_nothing_can_hold_is_a_problem_of_its_file_alone(bench: Bench, wrong: str) -> None:
    found = await bench.describe(bad="import enum, typing\nfrom millrace import workflow\n" + wrong + "\n", fine=GOOD)
    assert [one.name for one in found.workflows] == ["good"]
    (problem,) = found.problems
    assert problem.path == "bad.py"
    assert problem.line >= 3


async def test_an_import_that_hangs_is_told_at_its_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_DESCRIBE", 0.5)
    found = await bench.describe(a=GOOD + "while True:\n    pass\n")
    assert [(one.path, one.line in (4, 5)) for one in found.problems] == [("a.py", True)]


FORGED = {
    "a duration": "_declare.REGISTRY[-1].policy['queue_timeout'] = 1e300",
    "a negative time-out": "object.__setattr__(_declare.REGISTRY[-1], 'timeout', -5)",
    "a number of retries": "object.__setattr__(_declare.REGISTRY[-1], 'retries', 2**62)",
    "a name": "object.__setattr__(_declare.REGISTRY[-1], 'name', 'x' * 1000)",
    "levels that double": (
        "describe.input_schema = lambda f, given=describe.input_schema: given(f) if f.__name__ == 'fine' else {"
        "'$schema': 'https://json-schema.org/draft/2020-12/schema', 'type': 'object', 'properties': {'a': {'$ref': '#/$defs/d0'}},"
        "'$defs': {**{f'd{n}': {'allOf': [{'$ref': f'#/$defs/d{n + 1}'}] * 2} for n in range(40)}, 'd40': {}}}"
    ),
    "a pattern": (
        "describe.input_schema = lambda f, given=describe.input_schema: given(f) if f.__name__ == 'fine' else "
        "given(f) | {'properties': {'a': {'pattern': '^(a+)+$'}}}"
    ),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_what_a_module_puts_in_the_place_of_the_sdk_s_own_is_told_and_the_others_serve(bench: Bench, forged: str) -> None:
    imports = "from millrace import workflow, _declare\nfrom millrace._runtime import describe\n"
    found = await bench.describe(
        bad=f"{imports}@workflow\ndef bad(): pass\n{forged}\n",
        fine=GOOD.replace("good", "fine"),
    )
    assert [one.name for one in found.workflows] == ["fine"]
    (problem,) = found.problems
    assert (problem.path, problem.line) == ("bad.py", 3)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("queue_timeout=sys.maxsize", "queue_timeout"),
        ("queue_timeout=1e18", "queue_timeout"),
        ("retries=1, retry_delay=1e15, retry_max_delay=1e15", "retry_delay"),
        ("timeout=-5", "timeout"),
        ("timeout=float('nan')", "timeout"),
        ("timeout=float('inf')", "timeout"),
        ("retry_max_delay=31_622_401", "retry_max_delay"),
    ],
)
async def test_a_duration_beyond_a_year_is_refused_with_the_bound_and_the_line(bench: Bench, argument: str, told: str) -> None:
    found = await bench.describe(
        bad=f"import sys\nfrom millrace import workflow\n\n@workflow({argument})\ndef bad(): pass\n",
        fine=GOOD.replace("good", "fine"),
    )
    assert [one.name for one in found.workflows] == ["fine"]
    (problem,) = found.problems
    assert (problem.path, problem.line) == ("bad.py", 4)
    assert told in problem.message
    assert "31622400" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "class Odd(enum.Enum):\n    NONE = float('inf')\n@workflow\ndef bad(a: Odd): pass\n",
        "Odd = typing.Literal['a\\0b']\n\n@workflow\ndef bad(a: Odd): pass\n",
        "Odd = typing.Literal['\\ud800']\n\n@workflow\ndef bad(a: Odd): pass\n",
        "class Odd(enum.Enum):\n    NONE = 2**70\n@workflow\ndef bad(a: Odd): pass\n",
        "Odd = typing.TypedDict('Odd', {'a\\0': int})\n\n@workflow\ndef bad(a: Odd): pass\n",
        "\n\n@workflow\ndef bad(a: str = 'x' * 10**7): pass\n",
    ],
)
async def test_a_parameter_that_no_json_describes_names_its_file_and_line(bench: Bench, text: str) -> None:
    found = await bench.describe(
        bad="import enum\nimport typing\nfrom millrace import workflow\n" + text,
        fine=GOOD.replace("good", "fine"),
    )
    assert "fine" in [one.name for one in found.workflows]
    problems = [(one.path, one.line) for one in found.problems]
    # A default that is too long to be shown is no reason to refuse the workflow.
    assert problems in ([("bad.py", 6)], [("bad.py", 7)], [])
    assert len(found.workflows) + len(problems) == 2


@pytest.mark.parametrize(
    "text",
    [
        "@workflow\ndef bad():\n    'a\\0b \\ud800'\n",
        "@workflow\ndef bad(a: str = 'a\\0b', b: str = '\\ud800', c: float = float('inf')): pass\n",
    ],
)
async def test_texts_that_cannot_be_stored_are_replaced_where_nothing_depends_on_them(bench: Bench, text: str) -> None:
    found = await bench.describe(bad="from millrace import workflow\n" + text)
    assert (found.problems, [one.name for one in found.workflows]) == ([], ["bad"])


async def test_imports_that_nothing_provides_are_warnings_unless_they_are_problems_already(bench: Bench) -> None:
    found = await bench.describe(
        flows__main="""
            import nowhere1
            from flows import lib
            from millrace import workflow
            @workflow
            def main():
                import nowhere2
        """,
        flows__lib="def f():\n    import flows.absent\n    try:\n        import nowhere3\n    except ImportError: ...",
        tests__test_main="import pytest_that_is_nowhere",
    )
    assert [(one.path, one.line, one.severity) for one in found.problems] == [("flows/main.py", 2, "error")]
    assert [(one.path, one.line, one.message) for one in found.warnings] == [
        ("flows/lib.py", 2, "there is no module flows.absent"),
        ("flows/main.py", 7, "nothing provides the module nowhere2: name its package (nowhere2) in requirements.txt"),
    ]
