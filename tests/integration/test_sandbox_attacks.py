"""What a hostile workflow tries, one test for each threat, in both tiers; all of it in namespaces that are thrown away.

The attacks are in `tests.support.attacks`.
"""

import asyncio
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.attacks import ATTACKS
from tests.support.sandbox import GATED, KINDS, UID, reachable_interpreter

ROOT = Path(__file__).parents[2]
THROWAWAY = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh")

pytestmark = [
    pytest.mark.skipif(UID is None, reason="throwaway namespaces for both tiers take root"),
    pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=GATED)
async def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tier(kind: str) -> str:
    return str(KINDS[kind]["tiers"][0])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def found(kind: str) -> dict[str, Any]:
    """What became of each attack in a sandbox of this kind."""
    command = [*THROWAWAY, sys.executable, "-m", "tests.support.attacked", kind]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, complaint = await process.communicate(json.dumps(ATTACKS).encode())
    assert process.returncode == 0, complaint.decode()
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


def result(found: dict[str, Any], name: str) -> Any:
    assert found[name]["status"] == "succeeded", found[name]
    return found[name]["result"]


def test_files_of_the_machine_the_platform_and_other_tenants_cannot_be_read(found: dict[str, Any]) -> None:
    assert result(found, "files") == []


def test_the_scratch_folder_of_another_job_cannot_be_read(found: dict[str, Any]) -> None:
    assert result(found, "scratch") == []


def test_nothing_can_be_written_outside_of_the_scratch_folder(found: dict[str, Any]) -> None:
    assert result(found, "writes") == []
    assert found["file is whole"] is True


def test_every_mount_below_a_read_only_one_is_read_only_too(found: dict[str, Any], tier: str) -> None:
    if tier == "A":
        assert set(result(found, "mounts")) == {"/proc", "/scratch"}
    else:  # the machine's mounts as they are: what counts is that nothing in them can be written
        assert result(found, "writes") == []


def test_the_interpreter_cannot_be_overwritten_through_proc_self_exe(found: dict[str, Any]) -> None:
    assert result(found, "executable") == []


def test_the_environment_of_the_launcher_cannot_be_read_in_proc(found: dict[str, Any]) -> None:
    assert result(found, "environment") == []


def test_memory_and_descriptors_of_other_processes_are_out_of_reach(found: dict[str, Any]) -> None:
    assert result(found, "memory") == []


def test_no_descriptor_of_the_launcher_is_inherited(found: dict[str, Any]) -> None:
    assert result(found, "descriptors") == []


def test_no_other_process_can_be_killed_or_limited(found: dict[str, Any]) -> None:
    assert result(found, "kills") == []
    assert found["sibling lives"] is True


def test_no_tcp_connection_leaves_by_whatever_way(found: dict[str, Any]) -> None:
    assert result(found, "tcp") == []
    assert found["accepted"] is False


def test_no_other_family_of_sockets_can_be_made(found: dict[str, Any]) -> None:
    assert result(found, "datagrams") == []


def test_unix_sockets_of_the_machine_are_out_of_reach_by_path_and_by_abstract_name(found: dict[str, Any]) -> None:
    assert result(found, "unix") == []
    assert found["accepted"] is False


def test_mounting_namespaces_bpf_io_uring_keys_and_the_like_are_refused(found: dict[str, Any]) -> None:
    assert result(found, "kernel") == []


def test_clone3_whose_flags_no_filter_can_see_is_said_to_be_missing(found: dict[str, Any]) -> None:
    assert result(found, "clone3") == 38


def test_a_call_by_its_x32_number_ends_the_run(found: dict[str, Any]) -> None:
    assert (found["x32"]["status"], "SIGSYS" in found["x32"]["error"]) == ("crashed", True)


def test_a_call_in_the_32_bit_convention_ends_the_run(found: dict[str, Any]) -> None:
    assert (found["int80"]["status"], "SIGSYS" in found["int80"]["error"]) == ("crashed", True)


def test_nothing_can_be_typed_on_somebodys_terminal(found: dict[str, Any]) -> None:
    assert result(found, "terminal") == [1, 1]


def test_no_capability_is_left_and_no_limit_can_be_raised(found: dict[str, Any]) -> None:
    assert result(found, "rights") == [0, 0, 0, 0, "1", "2", []]


def test_a_fork_bomb_ends_at_its_own_limit_and_starves_nobody(found: dict[str, Any], tier: str) -> None:
    made = result(found, "forks")
    assert made == 0 if tier == "B" else 50 < made < 64
    assert result(found, "after_forks") is None
    assert found["sibling lives"] is True


def test_a_heap_bomb_is_told_as_want_of_memory(found: dict[str, Any]) -> None:
    assert (found["heap"]["status"], found["heap"]["reason"]) == ("failed", "oom")


def test_a_disk_cannot_be_filled_and_shared_memory_neither(found: dict[str, Any], tier: str) -> None:
    assert result(found, "disk") == (0 if tier == "B" else 64 << 20)


def test_files_without_content_are_bounded_too(found: dict[str, Any], tier: str) -> None:
    assert result(found, "inodes") <= (0 if tier == "B" else 65536)


def test_bundles_and_packages_of_other_tenants_cannot_be_seen(found: dict[str, Any]) -> None:
    assert result(found, "store") == []


def test_what_a_run_poisons_never_reaches_the_next(found: dict[str, Any]) -> None:
    assert found["poison"]["status"] in {"failed", "crashed"}  # it has made a liar of its own encoder
    assert result(found, "clean") == [["a", "b"], [1], False, None, False, True, 1, [], []]


def test_the_probe_finds_nothing_here_and_does_find_what_is_open(found: dict[str, Any]) -> None:
    assert result(found, "probe") == [[], ["read a file of the machine"]]


def test_no_code_runs_before_the_workflow_by_site_hooks_or_pth_files(found: dict[str, Any]) -> None:
    assert result(found, "build") == []
