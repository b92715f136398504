"""Which tier a machine gets, and what it is told where it gets none: on machines that forbid what a tier needs."""

import json
import platform
import sys
from pathlib import Path

import pytest

from deploy.doctor.running import _sandbox
from services.executor.config import read
from shared.config import ConfigError, Environment
from tests.support.programs import output
from tests.support.sandbox import TIERS, UID, reachable_interpreter, started_bench

ROOT = Path(__file__).parents[2]
FORBID = ROOT / "tests" / "support" / "forbid.py"
START = f"""
import asyncio, json
from pathlib import Path
from services.executor.sandbox.children import Children
from services.executor.sandbox.errors import SandboxUnavailable

async def main(data, unsafe):
    interpreter = {str(reachable_interpreter())!r}
    children = Children(Path(data), uid={UID}, size=1, interpreter=Path(interpreter), unsafe=unsafe)
    try:
        await children.start()
    except SandboxUnavailable as error:
        return {{"tier": None, "refused": children.refused, "error": str(error)}}
    told = {{"tier": children.tier, "refused": children.refused, "error": None}}
    await children.close()
    return told
"""

pytestmark = [
    pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter that stands for the machine knows x86-64 only"),
    pytest.mark.skipif(TIERS[0] != "A", reason="this machine forbids namespaces already"),
]


async def start_without(what: str, data: Path, *, unsafe: bool = False) -> dict[str, object]:
    script = START + f"print(json.dumps(asyncio.run(main({str(data / 'executor')!r}, {unsafe}))))"
    code, said = await output(sys.executable, str(FORBID), what, "--", sys.executable, "-c", script)
    assert code == 0, said
    told: dict[str, object] = json.loads(said.splitlines()[-1])
    return told


async def test_where_all_is_allowed_it_is_tier_a() -> None:
    async with started_bench(tiers=("A", "B")) as bench:
        assert (bench.children.tier, bench.children.refused) == ("A", {})


async def test_without_namespaces_it_is_tier_b_and_the_reason_is_kept(data: Path) -> None:
    told = await start_without("namespaces", data)
    assert told["tier"] == "B"
    assert isinstance(told["refused"], dict)
    assert "unshare" in told["refused"]["A"]


@pytest.mark.parametrize("what", ["namespaces,landlock", "landlock"])
async def test_where_no_tier_stands_it_refuses_and_names_the_fix(data: Path, what: str) -> None:
    told = await start_without(what, data)
    assert told["tier"] is None
    assert "Landlock" in str(told["error"])
    assert "lsm=landlock" in str(told["error"])
    assert "--unsafe" in str(told["error"])


async def test_unsafe_goes_on_without_and_keeps_the_reasons(data: Path) -> None:
    told = await start_without("namespaces,landlock", data, unsafe=True)
    assert told["tier"] == "none"
    assert isinstance(told["refused"], dict)
    assert set(told["refused"]) == {"A", "B"}


async def test_unsafe_takes_nothing_from_a_machine_that_can_isolate() -> None:
    async with started_bench(tiers=("A", "B"), unsafe=True) as bench:
        assert bench.children.tier == "A"


def test_tier_none_cannot_be_configured_without_saying_unsafe(place_variables: dict[str, str]) -> None:
    environment = Environment(place_variables | {"MILLRACE_SANDBOX_TIER": "none"})
    read(environment)
    with pytest.raises(ConfigError, match="MILLRACE_SANDBOX_TIER"):
        environment.check()
    environment = Environment(place_variables | {"MILLRACE_SANDBOX_TIER": "none", "MILLRACE_UNSAFE": "1"})
    assert read(environment).tier == "none"
    environment.check()


@pytest.fixture
def place_variables() -> dict[str, str]:
    return {
        "MILLRACE_NATS_URL": "nats://localhost",
        "MILLRACE_DATABASE_URL": "postgresql://localhost/x",
        "MILLRACE_KEYS": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "MILLRACE_DATA": "/nowhere",
    }


@pytest.mark.parametrize(("tier", "verdict"), [("A", "well"), ("B", "note"), ("none", "note"), (None, "wrong")])
def test_doctor_judges_what_a_running_executor_tells(tier: str | None, verdict: str) -> None:
    finding = _sandbox({"tier": tier, "refused": {} if tier == "A" else {"A": "no namespaces"}})
    assert finding.verdict == verdict
    assert tier == "A" or "no namespaces" in str(finding.do)


async def test_the_demo_names_the_fix_and_exits_3_and_unsafe_goes_on_with_a_banner(data: Path) -> None:
    command = (sys.executable, str(FORBID), "namespaces,landlock", "--", sys.executable, "-m", "deploy.demo", "--once")
    code, said = await output(*command, "--data", str(data / "demo"))
    assert code == 3, said
    assert "No sandbox is available" in said
    assert "lsm=landlock" in said
    code, said = await output(*command, "--data", str(data / "demo"), "--unsafe")
    assert code == 0, said
    assert "NOT ISOLATED" in said


async def test_doctor_says_which_tier_the_machine_gives(data: Path) -> None:
    doctor = (sys.executable, "-m", "deploy.doctor", "--output", "json", "--data", str(data / "new"))

    async def finding(*around: str) -> dict[str, str]:
        _, said = await output(*around, *doctor)
        found: dict[str, str] = next(one for one in json.loads(said)["items"] if one["about"] == "sandbox here")
        return found

    well = await finding()
    assert (well["verdict"], "tier A" in well["said"]) == ("well", True)
    lesser = await finding(sys.executable, str(FORBID), "namespaces", "--")
    assert (lesser["verdict"], "tier B" in lesser["said"]) == ("note", True)
    wrong = await finding(sys.executable, str(FORBID), "namespaces,landlock", "--")
    assert wrong["verdict"] == "wrong"
    assert "lsm=landlock" in wrong["said"] + wrong["do"]
