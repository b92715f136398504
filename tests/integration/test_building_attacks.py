"""What packages and indexes try against the builder, in every tier that has walls: none of it gets anywhere, and each is named."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.executor.environments.environments import Failed
from services.executor.environments.housekeeping import Housekeeping
from services.executor.environments.indexes import Indexes
from services.executor.environments.lock import Lock, Package
from services.executor.sandbox.builder import StepFailed, StepLimits, sealed
from services.executor.sandbox.interface import Tier
from tests.support.index import Index, index_of
from tests.support.packages import Yard, wheel, yard
from tests.support.sandbox import TIERS

WALLED = tuple(tier for tier in TIERS if tier != "none")
LINK = stat.S_IFLNK | 0o777
DEVICE = stat.S_IFCHR | 0o644


@pytest.fixture(params=WALLED)
def tier(request: pytest.FixtureRequest) -> Tier:
    return request.param


@pytest.fixture
async def place(tier: Tier) -> AsyncIterator[Yard]:
    async with yard(tier) as one:
        yield one


HOSTILE: dict[str, tuple[dict[str, str | bytes], dict[str, int], str]] = {
    "a path upwards": ({"../evil.py": "x"}, {}, "'../evil.py' leads out of the environment"),
    "a path upwards within": ({"evil/../../evil.py": "x"}, {}, "leads out of the environment"),
    "an absolute path": ({"/tmp/evil.py": "x"}, {}, "'/tmp/evil.py' leads out of the environment"),
    "a path of Windows": ({"evil\\..\\..\\x.py": "x"}, {}, "leads out of the environment"),
    "a drive": ({"C:/evil.py": "x"}, {}, "leads out of the environment"),
    "a path upwards in a scheme": ({"evil-1.0.data/purelib/../../x.py": "x"}, {}, "leads out of the environment"),
    "an absolute link": ({"evil.py": "/etc/passwd"}, {"evil.py": LINK}, "'evil.py' is a link"),
    "a link for a folder": ({"evil": "/tmp", "evil/x.py": "x"}, {"evil": LINK}, "'evil' is a link"),
    "a device": ({"evil.py": ""}, {"evil.py": DEVICE}, "'evil.py' is no plain file"),
    "a hook": ({"evil.pth": "import os; os.system('id')\n"}, {}, "'evil.pth' would execute code at every start of Python"),
    "a hook in a scheme": ({"evil-1.0.data/purelib/e.pth": "import os\n"}, {}, "'e.pth' would execute code"),
    "a hook with a tab": ({"evil.pth": "/tmp\nimport\tos\n"}, {}, "'evil.pth' would execute code"),
    "a site hook": ({"sitecustomize.py": "x"}, {}, "'sitecustomize.py' has a name of the platform's own"),
    "the platform": ({"millrace/__init__.py": "x"}, {}, "'millrace/__init__.py' has a name of the platform's own"),
    "the platform by a scheme": ({"evil-1.0.data/platlib/millrace.py": "x"}, {}, "'millrace.py' has a name of the platform's own"),
    "the standard library": ({"json/__init__.py": "x"}, {}, "'json/__init__.py' has a name of Python's own: json"),
    "the standard library, compiled": ({"ssl.cpython-311-x86_64-linux-gnu.so": "x"}, {}, "has a name of Python's own: ssl"),
    "the standard library, as bytecode": ({"socket.pyc": "x"}, {}, "has a name of Python's own: socket"),
    "the standard library by a scheme": ({"evil-1.0.data/data/socket.py": "x"}, {}, "has a name of Python's own: socket"),
    "a file below a file": ({"evil": "x", "evil/x.py": "x"}, {}, "is a file and a folder in it"),
    "a name that cannot be printed": ({"evil\u202e.py": "x"}, {}, "is no name of a file in a wheel"),
}


async def test_hostile_wheels_are_not_installed_and_their_files_are_named(place: Yard) -> None:
    for name, (files, modes, told) in HOSTILE.items():
        hostile = place.wheel("evil", files={"good.py": "x = 1\n", **files}, modes=modes)
        path, line, message = await place.refusal(hostile, "# a comment", "evil")
        assert (path, line) == ("requirements.txt", 2), name
        assert "evil-1.0-py3-none-any.whl" in message, name
        assert told in message, name
    assert not list(place.disk.built.iterdir())
    assert not list(place.disk.wheels.iterdir())
    path, line, message = await place.failure("# a comment", "evil")
    assert (path, line) == ("requirements.txt", 2)
    assert "evil" in message
    assert str(place.folder) not in message


async def test_the_same_entry_twice_and_one_that_says_another_name_than_it_is_listed_under_are_refused(place: Yard) -> None:
    path = place.wheel("evil", files={"evil.py": "x = 1\n"})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("evil.py", "x = 2\n")
    assert "'evil.py' is in it twice" in (await place.refusal(path, "evil"))[2]


async def test_known_hooks_that_nothing_needs_are_left_out_and_scripts_and_bytecode_too(place: Yard) -> None:
    place.wheel(
        "kind",
        files={
            "kind.py": "x = 1\n",
            "distutils-precedence.pth": "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = 1\n",
            "__pycache__/kind.cpython-311.pyc": b"nothing",
            "kind-1.0.data/scripts/kind": "#!python\n",
            "kind-1.0.data/purelib/other.py": "x = 2\n",
        },
    )
    folder = await place.built("kind")
    assert sorted(path.name for path in folder.iterdir()) == ["__pycache__", "kind-1.0.dist-info", "kind.py", "other.py"]
    assert (folder / "__pycache__" / "kind.cpython-311.pyc").read_bytes() != b"nothing"


async def test_a_bomb_is_bounded_in_bytes_and_in_files(tier: Tier) -> None:
    async with yard(tier, limits=StepLimits(bytes=4 << 20, files=200)) as place:
        bomb = place.wheel("bomb", files={"bomb.bin": bytes(64 << 20)})
        assert "it has more than 4194304 bytes" in (await place.refusal(bomb, "bomb"))[2]
        assert "the resolver ended with code -25" in (await place.failure("bomb"))[2]
        many = place.wheel("many", files={f"many/{number}.txt": "" for number in range(400)})
        assert "it has more than 200 files" in (await place.refusal(many, "many"))[2]
        assert not list(place.disk.wheels.iterdir())


async def test_what_was_built_is_read_only_belongs_to_the_supervisor_and_holds_bytecode_of_its_own(place: Yard) -> None:
    place.wheel("plain", files={"plain/__init__.py": "x = 1\n", "plain/data.json": "{}", "broken.py": "def (\n"})
    folder = await place.built("plain")
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        assert stat.S_IMODE(status.st_mode) == (0o755 if path.is_dir() else 0o444)
    (compiled,) = (folder / "plain" / "__pycache__").iterdir()
    assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 1
    assert not (folder / "__pycache__").exists()


def test_links_and_second_names_in_what_a_child_left_are_refused(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "plain.py").write_text("x")
    assert sealed(tree) == (1, 1)
    os.link(tree / "plain.py", tmp_path / "other")
    with pytest.raises(StepFailed, match="is no plain file"):
        sealed(tree)
    (tmp_path / "other").unlink()
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(StepFailed, match="link is no plain file"):
        sealed(tree)
    (tree / "link").unlink()
    os.mkfifo(tree / "pipe")
    with pytest.raises(StepFailed, match="pipe is no plain file"):
        sealed(tree)


async def test_a_source_distribution_is_not_built(place: Yard) -> None:
    import io
    import tarfile

    setup = b"import os\nopen('/tmp/was-here', 'w')\nraise SystemExit(os.environ)\n"
    with tarfile.open(place.links / "evil-1.0.tar.gz", "w:gz") as archive:
        for name, content in (
            ("evil-1.0/setup.py", setup),
            ("evil-1.0/PKG-INFO", b"Metadata-Version: 1.0\nName: evil\nVersion: 1.0\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    _, line, message = await place.failure("evil")
    assert line == 1
    assert "no usable wheels" in message or "no wheel" in message.lower()
    assert not Path("/tmp/was-here").exists()


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[tuple[Index, int]]:
    async with index_of(tmp_path / "packages") as found:
        yield found, found.port


async def test_packages_come_from_an_index_over_the_network_with_its_credentials_that_no_message_shows(
    tier: Tier, index: tuple[Index, int]
) -> None:
    found, port = index
    wheel(found.folder, "plain", requires=("other",))
    wheel(found.folder, "other")
    async with yard(tier, Indexes(default=f"http://reader:s3same@127.0.0.1:{port}/simple/")) as place:
        requirements = place.requirements("plain")
        lock = await place.environments.resolve("default", requirements)
        assert [one.name for one in lock.packages] == ["other", "plain"]
        assert "s3same" not in lock.text
        folder = await place.environments.build(lock, requirements)
        assert (folder / "plain.py").exists()
        assert set(found.authorized) - {None} == {"Basic cmVhZGVyOnMzc2FtZQ=="}
        _, _, message = await place.failure("absent-package")
        assert "absent-package" in message
        assert "s3same" not in message
        kept = [path for path in place.disk.built.rglob("*") if path.is_file()]
        assert all(b"s3same" not in path.read_bytes() for path in kept)


async def test_an_index_with_another_file_than_the_lock_names_is_found_out(tier: Tier, index: tuple[Index, int]) -> None:
    found, port = index
    wheel(found.folder, "plain")
    async with yard(tier, Indexes(default=f"http://127.0.0.1:{port}/simple/")) as place:
        requirements = place.requirements("# first", "plain")
        lock = await place.environments.resolve("default", requirements)
        other = wheel(found.folder / "elsewhere", "plain", files={"plain.py": "x = 'other'\n"})
        found.file = other.read_bytes()
        with pytest.raises(Failed) as failed:
            await place.environments.build(lock, requirements)
        (problem,) = failed.value.problems
        assert (problem.path, problem.line) == ("requirements.txt", 2)
        assert "the index sent another file than the lock names: plain-1.0-py3-none-any.whl" in problem.message
        assert not list(place.disk.wheels.iterdir())
        found.file = None
        assert (await place.environments.build(lock, requirements)).is_dir()


@pytest.mark.parametrize("page", [b"\0\xff" * 5000, b"<a href='" * 3000, b"{", b""], ids=["noise", "open tags", "brace", "nothing"])
async def test_an_index_that_answers_rubbish_is_a_problem(tier: Tier, index: tuple[Index, int], page: bytes) -> None:
    found, port = index
    found.page = page
    async with yard(tier, Indexes(default=f"http://127.0.0.1:{port}/simple/")) as place:
        path, line, message = await place.failure("plain")
        assert (path, line) == ("requirements.txt", 1)
        assert "plain" in message


async def test_an_index_that_never_answers_ends_in_time(tier: Tier, index: tuple[Index, int]) -> None:
    found, port = index
    found.stalls = True
    async with yard(tier, Indexes(default=f"http://127.0.0.1:{port}/simple/"), limits=StepLimits(seconds=2.0)) as place:
        _, _, message = await place.failure("plain")
        assert "it ran longer than 2 s" in message
        found.stalls, place.builder.limits = False, StepLimits()
        wheel(found.folder, "plain")
        assert (await place.built("plain")).is_dir()


@pytest.mark.parametrize("slowly", ["/simple/", "/files/"], ids=["page", "file"])
async def test_an_index_that_answers_a_byte_now_and_then_ends_in_time(tier: Tier, index: tuple[Index, int], slowly: str) -> None:
    found, port = index
    wheel(found.folder, "plain")
    found.drips = slowly
    async with yard(tier, Indexes(default=f"http://127.0.0.1:{port}/simple/"), limits=StepLimits(seconds=3.0)) as place:
        path, line, message = await place.failure("# first", "plain")
        assert (path, line) == ("requirements.txt", 2)
        assert "it ran longer than 3 s" in message
        assert not list(place.disk.wheels.iterdir())
        found.drips, place.builder.limits = None, StepLimits()
        assert (await place.built("plain")).is_dir()


async def test_an_index_that_sends_elsewhere_is_followed_only_to_hosts_that_the_operator_names(
    tier: Tier, index: tuple[Index, int], tmp_path: Path
) -> None:
    found, port = index
    wheel(found.folder, "plain")
    address = f"http://reader:s3same@localhost:{port}/simple/"
    async with index_of(tmp_path / "elsewhere") as elsewhere:
        wheel(elsewhere.folder, "plain")
        for begin in ("/simple/", "/files/"):
            found.redirects = {begin: f"http://127.0.0.1:{elsewhere.port}"}
            async with yard(tier, Indexes(default=address)) as place:
                path, line, message = await place.failure("# first", "plain")
                assert (path, line) == ("requirements.txt", 2)
                assert "s3same" not in message
                assert not list(place.disk.wheels.iterdir())
            assert elsewhere.asked == []
            async with yard(tier, Indexes(default=address, hosts=(f"127.0.0.1:{elsewhere.port}",))) as place:
                assert (await place.built("plain")).is_dir()
            assert elsewhere.asked
            assert set(elsewhere.authorized) == {None}
            elsewhere.asked.clear()
            elsewhere.authorized.clear()


async def test_a_file_on_another_host_than_the_index_is_not_had(tier: Tier, index: tuple[Index, int]) -> None:
    found, port = index
    wheel(found.folder, "plain")
    async with yard(tier, Indexes(default=f"http://localhost:{port}/simple/")) as place:
        requirements = place.requirements("plain")
        lock = await place.environments.resolve("default", requirements)
        (package,) = lock.packages
        before = len(found.asked)
        for host in ("127.0.0.1", "[::1]"):
            elsewhere = Lock(
                (
                    Package(
                        package.name, package.version, package.file, package.sha256, f"http://{host}:{port}/files/{package.file}"
                    ),
                )
            )
            with pytest.raises(Failed):
                await place.environments.build(elsewhere, requirements)
        assert len(found.asked) == before
        for url in ("file:///etc/passwd", "ftp://localhost/x", "data:,x"):
            with pytest.raises(Failed):
                await place.environments.build(
                    Lock((Package(package.name, "1.0", package.file, package.sha256, url),)), requirements
                )
        assert (await place.environments.build(lock, requirements)).is_dir()


async def test_two_executors_on_one_folder_build_once_and_both_have_it(place: Yard) -> None:
    for number in range(5):
        place.wheel(f"plain{number}", files={f"plain{number}.py": "x = 1\n" * 100})
    requirements = place.requirements(*(f"plain{number}" for number in range(5)))
    lock = await place.environments.resolve("default", requirements)
    both = await asyncio.gather(*(place.environments.build(lock, requirements) for _ in range(2)))
    assert both[0] == both[1]
    assert len(list(place.disk.built.iterdir())) == 1


async def test_an_environment_that_is_not_whole_is_built_anew_and_from_what_was_kept_without_the_index(place: Yard) -> None:
    path = place.wheel("plain")
    requirements = place.requirements("plain")
    lock = await place.environments.resolve("default", requirements)
    folder = await place.environments.build(lock, requirements)
    path.unlink()
    for one in sorted(folder.rglob("*"), reverse=True):
        one.rmdir() if one.is_dir() else one.unlink()
    folder.rmdir()
    again = await place.environments.build(lock, requirements)
    assert (again / "plain.py").read_text() == "VERSION = '1.0'\n"
    tree = place.disk.wheels / lock.packages[0].sha256 / "tree"
    (tree / "plain.py").unlink()
    for one in sorted(again.rglob("*"), reverse=True):
        one.rmdir() if one.is_dir() else one.unlink()
    again.rmdir()
    with pytest.raises(Failed):
        await place.environments.build(lock, requirements)
    place.wheel("plain")


async def test_what_was_not_used_goes_and_what_is_held_or_was_used_just_now_stays(place: Yard) -> None:
    for name in ("old", "held", "new"):
        place.wheel(name)
    folders = {name: await place.built(name) for name in ("old", "held", "new")}
    month = 30 * 24 * 3600
    for name in ("old", "held"):
        status = folders[name].stat()
        os.utime(folders[name], (status.st_atime, status.st_mtime - month))
    keeping = Housekeeping(place.disk, place.environments)
    with place.environments.held(folders["held"]):
        await keeping.look(time.time())
    assert [name for name, folder in folders.items() if folder.is_dir()] == ["held", "new"]
    assert keeping.state()["built"] == 2
    assert keeping.state()["wheels"] == 3
    small = Housekeeping(place.disk, place.environments, most_bytes=1)
    await small.look(time.time())
    assert small.state()["wheels"] == 3
    await small.look(time.time() + 2 * 3600)
    assert small.state()["wheels"] == 0
    assert not list(place.disk.built.iterdir())


async def test_an_organization_that_brings_too_much_is_stopped_and_gives_way_before_others(tier: Tier) -> None:
    large = os.urandom(300_000)
    async with yard(tier, most_each=700_000) as place:
        for number in range(4):
            place.wheel(f"large{number}", files={f"large{number}.bin": large})
        other = await place.built("large0", org="other")
        for number in (1, 2, 3):
            await place.built(f"large{number}", org="greedy")
        place.wheel("more")
        with pytest.raises(Failed, match="the packages of this organization already take more than 0 MB here"):
            await place.built("more", org="greedy")
        assert (await place.built("large1", "large0", org="greedy")).is_dir()
        assert (await place.built("more", org="other")).is_dir()
        keeping = Housekeeping(place.disk, place.environments, most_bytes=10_000_000, most_each=700_000)
        await keeping.look(time.time())
        assert keeping.state()["wheels"] == 5
        for folder in place.disk.wheels.iterdir():
            os.utime(folder, (time.time() - 7200,) * 2)
        await keeping.look(time.time())
        assert keeping.state()["wheels"] == 4
        assert (other / "large0.bin").exists()
        place.wheel("again")
        assert (await place.built("again", org="greedy")).is_dir()
        small = Housekeeping(place.disk, place.environments, most_bytes=700_000)
        await small.look(time.time())
        left = {path.name for folder in place.disk.wheels.iterdir() for path in (folder / "tree").glob("large*.bin")}
        assert "large0.bin" in left
        assert len(left) == 2


async def test_what_another_executor_removes_meanwhile_is_no_failure_and_what_a_resolver_kept_goes_too(place: Yard) -> None:
    place.wheel("plain")
    await place.built("plain")
    (place.disk.built / "gone").symlink_to(place.disk.folder / "nowhere")
    (kept,) = place.disk.resolving.iterdir()
    keeping = Housekeeping(place.disk, place.environments)
    await keeping.look(time.time())
    assert kept.is_dir()
    await keeping.look(time.time() + 15 * 24 * 3600)
    assert not kept.exists()


async def test_a_package_takes_no_more_than_a_part_of_what_the_disk_has_free(place: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    large = place.wheel("large", files={"large.bin": os.urandom(4 << 20)})
    place.wheel("small")
    free = shutil.disk_usage(place.folder)._replace(free=32 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: free)
    _, _, words = await place.refusal(large, "large")
    assert f"more than {2 << 20} bytes" in words or "more than 2 MB" in words
    assert (await place.built("small")).is_dir()
