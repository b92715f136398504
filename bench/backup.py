"""Backup, restore and both ways of rebuild, in seconds per GB of the data folder, beside a plain copy of the same bytes.

A data folder gets messages of a kilobyte, and its archive their rows. Then each command runs as an operator calls it, without
services: the time of starting the stores is within. The limit copies the stopped folder, and waits until it is on the disk.
`--keep` names a data folder that the next call finds filled.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import click

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome
from deploy.credentials import load_or_create
from deploy.positions import administrator
from deploy.prepare import prepare
from deploy.rebuild.parts import open_parts, replay
from shared.bus import connected
from shared.commit import outgoing_of
from shared.health import Health
from shared.messages.log import Logged
from shared.pull import api_request
from shared.sending import send_batch
from tests.support.states import stores_of

MESSAGES = 100_000
TOGETHER = 500
# A vocabulary of five thousand words: text of them compresses as text does, to about a third.
RANDOM = random.Random(1)
WORDS = ["".join(RANDOM.choices("aeinorstlduc", k=RANDOM.randint(3, 9))) for _ in range(5000)]
LENGTH = 120
GB = 1e9


async def measure(folder: Path, messages: int, keep: Path | None) -> Outcome:
    """Fill a data folder with so many messages, unless it is filled, and time everything."""
    data = folder / "data" if keep is None else keep.absolute()
    if not data.exists():
        await _timed("fill", lambda: _fill(data, messages))
    size = _size(data) / GB
    copied = await _timed("copy", lambda: asyncio.to_thread(_copy, data, folder / "copy"))
    shutil.rmtree(folder / "copy")
    saved = await _timed("backup", lambda: _program("deploy.backup", str(folder / "backup"), "--data", str(data)))
    restored = await _timed(
        "restore", lambda: _program("deploy.restore", str(folder / "backup"), "--data", str(folder / "restored"))
    )
    shutil.rmtree(folder / "restored")
    async with stores_of(data) as stores, administrator(stores.nats_url) as admin:
        await api_request(admin, "$JS.API.STREAM.DELETE.LOGS", None)
    rebuilt = await _timed("rebuild from the archive", lambda: _program("deploy.rebuild", "--from", "archive", "--data", str(data)))
    await asyncio.to_thread(shutil.rmtree, data / "postgres")
    replayed = await _timed("rebuild from the bus", lambda: _program("deploy.rebuild", "--from", "bus", "--data", str(data)))
    more: dict[str, Any] = {
        "data_folder_gb": size,
        "backup_gb": _size(folder / "backup") / GB,
        "messages": messages,
        "copy_s_per_gb": copied / size,
        "backup_s_per_gb": saved / size,
        "restore_s_per_gb": restored / size,
        "from_archive_s_per_gb": rebuilt / size,
        "from_bus_s_per_gb": replayed / size,
        "backup_s": saved,
        "restore_s": restored,
        "from_archive_s": rebuilt,
        "from_bus_s": replayed,
    }
    return Outcome(
        name="backup", figure=saved / size, unit="s/GB", limit=copied / size, ratio=saved / copied if copied else 0.0, more=more
    )


async def _fill(data: Path, messages: int) -> None:
    async with stores_of(data) as stores:
        credentials = load_or_create(data / "credentials.json", None)
        await prepare(nats_url=stores.nats_url, database_url=stores.database_url, credentials=credentials)
        async with connected(stores.nats_url_of("executor"), service="executor", health=Health("executor")) as bus:
            for start in range(0, messages, TOGETHER):
                numbers = range(start, min(start + TOGETHER, messages))
                told = (
                    Logged(
                        service="executor",
                        level="info",
                        event="x",
                        fields={"n": n, "text": " ".join(RANDOM.choices(WORDS, k=LENGTH))},
                    )
                    for n in numbers
                )
                batch = [outgoing_of(bus.client, bus.seal(one, org="global"), None) for one in told]
                if await send_batch(bus.client, batch) is None:
                    raise BenchError("the broker refused a batch")
        connection = await asyncpg.connect(stores.database_url)
        async with administrator(stores.nats_url) as admin, open_parts(stores, ("logs",)) as parts:
            await replay(parts, admin, connection, lambda *_: None)
        await connection.close()


async def _program(module: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise BenchError(f"{module} failed")


async def _timed(name: str, work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    took = time.perf_counter() - began
    sys.stderr.write(f"{name}: {took:.1f} s\n")
    return took


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
    os.sync()


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--messages", default=MESSAGES, show_default=True, help="How many messages there are to be.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    help="The data folder; one that is there is measured as it is, and is the same afterwards.",
)
def main(*, as_json: bool, messages: int, keep: Path | None) -> None:
    """Time backup, restore and rebuild beside a copy."""
    raise SystemExit(outcome.main(lambda folder, _seconds: measure(folder, messages, keep), seconds=0, as_json=as_json))


if __name__ == "__main__":
    main()
