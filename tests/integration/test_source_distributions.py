"""Source distributions: built where the operator allows them, behind walls, and whatever they try named and without effect."""

from __future__ import annotations

import io
import socket
import tarfile
from collections.abc import AsyncIterator

import msgspec
import pytest

from services.executor.environments.environments import Failed
from services.executor.sandbox.builder import StepLimits
from tests.support.packages import Yard, yard
from tests.support.sandbox import TIERS
from tests.support.sdists import sdist

pytestmark = pytest.mark.skipif(
    "A" not in TIERS, reason="source distributions are built in tier A alone, which this machine forbids"
)


@pytest.fixture
async def place() -> AsyncIterator[Yard]:
    async with yard("A", sdists=frozenset({"own", "evil", "second"})) as one:
        yield one


async def test_a_source_distribution_that_is_allowed_is_built_and_locked_with_what_its_wheel_requires(place: Yard) -> None:
    place.wheel("plain")
    place.wheel("odd")
    sdist(place.links, "own", requires=("second", "odd; extra == 'more'"), extra=("more",))
    sdist(place.links, "second", requires=("plain>=1",))
    steps: list[str] = []
    requirements = place.requirements("own[more]")
    lock = await place.environments.resolve("default", requirements, lambda step, *_: steps.append(step))
    assert [(one.name, one.file) for one in lock.packages] == [
        ("odd", "odd-1.0-py3-none-any.whl"),
        ("own", "own-1.0.tar.gz"),
        ("plain", "plain-1.0-py3-none-any.whl"),
        ("second", "second-1.0.tar.gz"),
    ]
    assert steps == ["own 1.0 from its source", "resolving", "second 1.0 from its source", "resolving"]
    folder = await place.environments.build(lock, requirements)
    assert (folder / "own.py").read_text() == "VERSION = '1.0'\n"
    assert {one.name for one in folder.glob("*.py")} == {"odd.py", "own.py", "plain.py", "second.py"}
    for path in place.links.iterdir():
        path.unlink()
    assert await place.environments.resolve("default", place.requirements()) is not None
    assert (await place.environments.build(lock, requirements)) == folder


async def test_a_build_has_the_packages_that_it_requires_and_nothing_else(place: Yard) -> None:
    place.wheel("tool", "2.0")
    place.wheel("late", "3.0")
    place.wheel("stranger")
    sdist(
        place.links,
        "own",
        build_requires=("tool>=2",),
        backend="""
        def get_requires_for_build_wheel(config_settings=None):
            import tool
            return ["late"]
        def found():
            import tool, late
            try:
                import stranger
            except ImportError:
                return f"VERSION = {(tool.VERSION, late.VERSION)!r}"
        """,
    )
    folder = await place.built("own")
    assert (folder / "own.py").read_text() == "VERSION = ('2.0', '3.0')"
    sdist(place.links, "second", build_requires=("absent-tool",))
    path, line, message = await place.failure("# first", "second")
    assert (path, line) == ("requirements.txt", 2)
    assert "second-1.0.tar.gz cannot be built, for what its build requires" in message
    assert "absent-tool" in message
    sdist(place.links, "evil", build_requires=("tool @ https://elsewhere.example/tool.whl",))
    assert "tool is asked for from an address" in (await place.failure("evil"))[2]


TRIES = """
import json, os, socket, sys
def found():
    told = {"environment": dict(os.environ), "read": [], "reached": [], "wrote": [], "seen": os.listdir("/")}
    for path in ("/etc/shadow", "/etc/hostname", %r, %r, %r):
        try:
            told["read"].append((path, open(path).read(10) if os.path.isfile(path) else os.listdir(path)))
        except OSError:
            pass
    for address in (("127.0.0.1", %d), ("192.0.2.1", 443), ("127.0.0.1", 3128)):
        try:
            with socket.socket() as one:
                one.settimeout(2)
                one.connect(address)
                told["reached"].append(address)
        except OSError:
            pass
    for path in ("/workspace/other", "/packages/x.py", "/usr/lib/x", "/x"):
        try:
            open(path, "w")
            told["wrote"].append(path)
        except OSError:
            pass
    return "FOUND = " + repr(told)
"""


async def test_a_build_reads_no_file_and_no_environment_and_reaches_nobody(place: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_TEST_PASSWORD", "s3same")
    place.wheel("tool")
    (place.folder / "private").write_text("s3same")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        paths = (str(place.folder / "private"), str(place.disk.folder), str(place.links))
        sdist(place.links, "evil", build_requires=("tool",), backend=TRIES % (*paths, port))
        folder = await place.built("evil")
    text = (folder / "evil.py").read_text()
    assert "s3same" not in text
    found: dict[str, object] = {}
    exec(text, found)
    told = msgspec.convert(found["FOUND"], dict[str, object])
    assert told["read"] == []
    assert told["reached"] == []
    assert told["wrote"] == []
    assert set(msgspec.convert(told["environment"], dict[str, str])) <= {
        *(
            "HOME",
            "LANG",
            "LC_CTYPE",
            "LD_LIBRARY_PATH",
            "PATH",
            "PYTHONDONTWRITEBYTECODE",
            "PYTHONPATH",
            "SOURCE_DATE_EPOCH",
            "TMPDIR",
        )
    }


HOSTILE = {
    "raises": ("raise SystemExit('no ' + 'thanks')", "no thanks"),
    "forks": (
        """
        import os, time
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(60)
            except OSError as error:
                raise SystemExit(f"no more: {error}")
        """,
        "no more: ",
    ),
    "fills": (
        """
        number = 0
        while True:
            with open(f"large{number}", "wb") as file:
                for _ in range(8):
                    file.write(bytes(1 << 20))
            number += 1
        """,
        "No space left on device",
    ),
    "fills out of sight": (
        """
        import os
        kept = []
        while True:
            kept.append(open("unseen", "wb"))
            os.unlink("unseen")
            for _ in range(8):
                kept[-1].write(bytes(1 << 20))
        """,
        "No space left on device",
    ),
    "floods": ("""import os\nwhile True:\n    os.write(1, b'x' * (1 << 20))""", "it ran longer than 6 s"),
    "takes memory": ("kept = []\nwhile True:\n    kept.append(bytearray(16 << 20))\n", "memory"),
    "segfaults": ("import ctypes\nctypes.string_at(0)\n", "its build was ended by signal 11"),
    "hangs": ("import time\ntime.sleep(600)\n", "it ran longer than 6 s"),
    "hangs and stays": (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nos.setsid()\ntime.sleep(600)\n",
        "it ran longer than 6 s",
    ),
    "kills its parent": (
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(60)\n",
        "cannot be built",
    ),
    "names another": ("def build_wheel(*_):\n    return '../../../etc/passwd'\n", "name of a wheel"),
    "names another's": (
        """
        _own = build_wheel
        def build_wheel(folder, *_):
            os.rename(f"{folder}/{_own(folder)}", f"{folder}/plain-1.0-py3-none-any.whl")
            return "plain-1.0-py3-none-any.whl"
        """,
        "its build made 'plain-1.0-py3-none-any.whl', which is no wheel of evil 1.0",
    ),
    "shadows": (
        """
        _own = build_wheel
        def build_wheel(folder, *_):
            name = _own(folder)
            with zipfile.ZipFile(f"{folder}/{name}", "a") as wheel:
                wheel.writestr("json/__init__.py", "x")
            return name
        """,
        "has a name of Python's own: json",
    ),
    "requires an address": ("def found():\n    return ''\n", "requires other from an address"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_build_that_misbehaves_is_named_with_its_line_and_others_are_built(what: str) -> None:
    backend, told = HOSTILE[what]
    small = StepLimits(seconds=6.0, bytes=32 << 20, files=1000, memory=256 << 20, processes=32, cores=1.0, scratch_mb=48)
    async with yard("A", sdists=frozenset({"evil", "own"}), of_strangers=small) as place:
        requires = ("other @ https://elsewhere.example/other.whl",) if what == "requires an address" else ()
        sdist(place.links, "evil", backend=backend, requires=requires)
        sdist(place.links, "own")
        path, line, message = await place.failure("# a comment", "evil")
        assert (path, line) == ("requirements.txt", 2)
        assert "evil-1.0.tar.gz" in message
        assert told in message
        assert str(place.folder) not in message
        assert (await place.built("own")).is_dir()
        (own,) = (place.disk.folder / "work").iterdir()
        assert list(own.iterdir()) == []


async def test_archives_that_lead_out_or_are_none_are_refused(place: Yard) -> None:
    for member, kind in (("../evil", tarfile.REGTYPE), ("evil-1.0/link", tarfile.SYMTYPE), ("/tmp/evil", tarfile.REGTYPE)):
        path = sdist(place.links, "evil")
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo(member)
            entry.type = kind
            entry.linkname = "/etc/passwd"
            archive.addfile(entry, io.BytesIO(b""))
        _, _, message = await place.failure("evil")
        assert "evil-1.0.tar.gz cannot be built" in message
    (place.links / "evil-1.0.tar.gz").write_bytes(b"nothing of the kind")
    assert "evil-1.0.tar.gz cannot be built" in (await place.failure("evil"))[2]


async def test_what_is_not_allowed_is_not_built_also_from_a_lock_of_before(place: Yard) -> None:
    sdist(place.links, "own")
    requirements = place.requirements("own")
    lock = await place.environments.resolve("default", requirements)
    async with yard("A") as other:
        with pytest.raises(Failed, match=r"own-1\.0\.tar\.gz would be built from its source, which this inst"):
            await other.environments.build(lock, requirements)


@pytest.mark.skipif("B" not in TIERS, reason="tier B does not stand on this machine")
async def test_tier_b_builds_no_source_and_says_so() -> None:
    async with yard("B", sdists=frozenset({"own"})) as place:
        sdist(place.links, "own")
        path, line, message = await place.failure("# first", "own")
        assert (path, line) == ("requirements.txt", 2)
        assert "own-1.0.tar.gz is not built from its source: that is done in tier A of the sandbox only" in message
