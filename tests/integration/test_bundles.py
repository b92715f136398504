"""The code of workspaces on disk: as many trees as the bound allows, and never one that is in use taken away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from services.executor.workspaces.bundles import Bundles
from services.executor.workspaces.bytecode import cached
from shared.blobs import Blobs
from tests.support.inside import bus_of, eventually
from tests.support.river import river, uncompiled
from tests.support.servers import Place


async def stored(blobs: Blobs, content: bytes) -> str:
    async def parts() -> AsyncIterator[bytes]:
        yield content

    return (await blobs.put(parts())).sha256


async def test_the_trees_used_longest_ago_go_first_and_what_is_held_stays(place: Place, data: Path) -> None:
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        forgotten: list[Path] = []
        bundles = Bundles(data / "bundles", blobs, compile_=uncompiled, forget=forgotten.append, most_trees=3)
        await bundles.start()
        shared = await stored(blobs, b"shared = 1\n")
        versions: list[str] = []
        for number in range(3):
            own = await stored(blobs, b"own = %d\n" % number)
            versions.append(await bundles.publish({"shared.py": shared, "own.py": own}, []))
        folders = [(await bundles.get(version)).folder for version in versions]
        # What is being compiled is held as well.
        await asyncio.gather(*bundles._compiling)
        await bundles.get(versions[0])
        with bundles.held(folders[1]):
            for number in range(3, 5):
                await bundles.tree({"own.py": await stored(blobs, b"own = %d\n" % number)})
            assert forgotten == [folders[2], folders[0]]
            assert [folder.exists() for folder in folders] == [False, True, False]
            assert (folders[1] / "shared.py").read_bytes() == b"shared = 1\n"
        # What went comes again when it is asked for.
        again = await bundles.get(versions[0])
        assert (again.folder / "own.py").read_bytes() == b"own = 0\n"
        assert again.folder == folders[0]


async def test_trees_of_very_many_files_are_bounded_by_the_number_of_files(place: Place, data: Path) -> None:
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        bundles = Bundles(data / "bundles", blobs, compile_=uncompiled, most_entries=5)
        await bundles.start()
        same = await stored(blobs, b"x")
        trees = [await bundles.tree({f"{number}/{name}": same for name in "ab"}) for number in range(3)]
        assert [folder.exists() for folder in trees] == [False, True, True]
        second = Bundles(data / "bundles", blobs, compile_=uncompiled, most_entries=4)
        await second.start()
        await second.tree({"a": same, "b": same, "c": same})
        assert [folder.exists() for folder in trees] == [False, False, False]


async def test_trees_that_are_made_at_a_time_share_a_large_file(place: Place, data: Path) -> None:
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        bundles = Bundles(data / "bundles", blobs, compile_=uncompiled)
        await bundles.start()
        content = bytes(range(256)) * 8192
        large = await stored(blobs, content)
        trees = await asyncio.gather(*(bundles.tree({f"{number}.bin": large}) for number in range(4)))
        assert [(folder / f"{number}.bin").read_bytes() == content for number, folder in enumerate(trees)] == [True] * 4
        assert len({(folder / f"{number}.bin").stat().st_ino for number, folder in enumerate(trees)}) == 1


async def test_a_cache_that_was_left_behind_is_used_and_bounded_too(place: Place, data: Path) -> None:
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        first = Bundles(data / "bundles", blobs, compile_=uncompiled)
        await first.start()
        own = [await stored(blobs, b"own = %d\n" % number) for number in range(3)]
        left = [await first.tree({"own.py": sha256}) for sha256 in own[:2]]
        second = Bundles(data / "bundles", blobs, compile_=uncompiled, most_trees=2)
        await second.start()
        assert await second.tree({"own.py": own[1]}) == left[1]
        newest = await second.tree({"own.py": own[2]})
        assert [folder.exists() for folder in (*left, newest)] == [False, True, True]
        assert hashlib.sha256((newest / "own.py").read_bytes()).hexdigest() == own[2]


async def test_bytecode_counts_and_goes_with_its_tree(place: Place, data: Path) -> None:
    async def compiled(_tree: Path, paths: list[str]) -> dict[str, bytes | None]:
        return dict.fromkeys(paths, b"x" * 1000)

    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        bundles = Bundles(data / "bundles", blobs, compile_=compiled, most_bytes=2500)
        await bundles.start()
        folders = []
        for number in range(3):
            files = {
                "lib/own.py": await stored(blobs, b"own = %d\n" % number),
                "requirements.txt": await stored(blobs, b"# none\n"),
            }
            folders.append((await bundles.get(await bundles.publish(files, []))).folder)
            laid = cached(folders[-1], "lib/own.py")
            await eventually(lambda laid=laid: exists(laid))
        assert [path.name for path in (folders[2] / "lib" / "__pycache__").iterdir()] == [cached(folders[2], "lib/own.py").name]
        await eventually(lambda: gone(folders[0]))
        assert folders[1].exists()
        await bundles.close()
        # Those that were left behind count, too.
        second = Bundles(data / "bundles", blobs, compile_=compiled, most_bytes=1500)
        await second.start()
        await second.tree({"own.py": await stored(blobs, b"own = 3\n")})
        assert not folders[1].exists()
        await second.close()


async def test_what_is_deployed_is_compiled_before_it_is_asked_for(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("flow.py", b"from millrace import workflow\n@workflow\ndef main(): return 1\n")

        async def compiled() -> bool:
            return bool(list(data.glob("**/bundles/trees/*/__pycache__/flow.*.pyc")))

        await eventually(compiled)
        assert (await outside.run(await outside.request("main"), "succeeded")).result == 1


async def exists(path: Path) -> bool:
    return path.exists()


async def gone(path: Path) -> bool:
    return not path.exists()
