"""Which control groups a process is in, by what the kernel tells; and what is written into them."""

from pathlib import Path

import pytest

from services.executor.sandbox.hierarchies import Control, Mounted, Share, controls, mounted, open_for

V1_HOST = """9:name=systemd:/
8:pids:/user.slice
4:memory:/user.slice/one
1:cpu,cpuacct:/
0::/
"""
V1_MOUNTS = """23 1 254:0 / / rw,relatime - ext4 /dev/root rw
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_each_controller_of_version_1_is_found_where_this_process_is_in_it() -> None:
    found = {one.controllers: one.own for one in mounted(V1_HOST, V1_MOUNTS) if not one.is_v2}
    assert found[frozenset({"memory"})] == Path("/sys/fs/cgroup/memory/user.slice/one")
    assert found[frozenset({"pids"})] == Path("/sys/fs/cgroup/pids/user.slice")
    assert found[frozenset({"cpu", "cpuacct"})] == Path("/sys/fs/cgroup/cpu,cpuacct")


def test_version_2_is_found_beside_version_1() -> None:
    (found,) = [one for one in mounted(V1_HOST, V1_MOUNTS) if one.is_v2]
    assert found == Mounted(Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/unified"), frozenset(), is_v2=True)


def test_version_2_alone_is_found_in_the_group_that_a_service_was_started_in() -> None:
    (found,) = mounted("0::/system.slice/millrace.service\n", "26 21 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n")
    assert found.own == Path("/sys/fs/cgroup/system.slice/millrace.service")
    assert found.top == Path("/sys/fs/cgroup")


def test_a_container_that_sees_only_its_own_part_finds_itself_at_the_top() -> None:
    mounts = "39 31 0:36 /docker/abc /sys/fs/cgroup/pids ro,relatime - cgroup cgroup rw,pids\n"
    (found,) = mounted("8:pids:/docker/abc\n", mounts)
    assert found.own == Path("/sys/fs/cgroup/pids")


def test_a_part_of_a_hierarchy_that_this_process_is_not_in_is_left_alone() -> None:
    assert mounted("8:pids:/other\n", "39 31 0:36 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n") == []


@pytest.mark.parametrize(("is_v2", "quota"), [(False, ("cpu.cfs_quota_us", "150000")), (True, ("cpu.max", "150000 100000"))])
def test_cores_become_a_quota_of_each_period(is_v2: bool, quota: tuple[str, str]) -> None:
    assert dict([quota]).items() <= controls(Share(cores=1.5), is_v2=is_v2)["cpu"].each.items()


@pytest.mark.parametrize("is_v2", [False, True])
def test_what_is_left_open_is_not_asked_for(is_v2: bool) -> None:
    assert controls(Share(), is_v2=is_v2) == {}
    assert controls(Share(processes=5), is_v2=is_v2)["pids"].each == {"pids.max": "5"}


def test_what_a_group_does_not_offer_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("pids\n")
    given, refused = open_for(tmp_path, {"pids": Control({}), "memory": Control({})}, is_v2=True)
    assert (list(given), refused) == (["pids"], {"memory": f"{tmp_path} has no such controller"})
