"""Chunks of a run's lines: none larger than what the broker takes, none lost, none told twice, in order."""

import asyncio

import msgspec
import pytest

from deploy.permissions import MAX_PAYLOAD
from services.executor.runs import output
from services.executor.runs.output import CHUNK_BYTES, LINE_BYTES, LINE_CHARS, RunOutput
from shared.messages import LineChunk

# More bytes as JSON than any other character.
WORST = "\x01"


class Kept:
    """A place for chunks that takes one whenever it is `open`."""

    def __init__(self) -> None:
        self.chunks: list[LineChunk] = []
        self.offered: list[LineChunk] = []
        self.open = asyncio.Event()
        self.output = RunOutput("r1", "w", 1, self.publish)

    async def publish(self, chunk: LineChunk) -> None:
        self.offered.append(chunk)
        await self.open.wait()
        self.chunks.append(chunk)

    @property
    def told(self) -> list[str]:
        return [line.message for chunk in self.chunks for line in chunk.lines]


async def test_what_gathers_while_the_bus_is_slow_leaves_in_chunks_of_a_size_that_travels() -> None:
    kept = Kept()

    async def talk() -> None:
        for number in range(200):
            await kept.output.log("info", str(number), {"text": "x" * 60_000})
            await kept.output.text("stdout", f"{number}\n{WORST * 10_000}\n")

    talking = asyncio.create_task(talk())
    await asyncio.sleep(0)
    kept.open.set()
    await talking
    await kept.output.flush()
    assert [text for text in kept.told if WORST not in text] == [str(number) for number in range(200) for _ in "ab"]
    assert [chunk.chunk for chunk in kept.chunks] == list(range(len(kept.chunks)))
    assert max(len(msgspec.json.encode(chunk)) for chunk in kept.chunks) < CHUNK_BYTES + 1000


async def test_the_longest_line_travels_with_the_largest_fields() -> None:
    kept = Kept()
    kept.open.set()
    await kept.output.log("info", WORST * (LINE_CHARS + 1), {"text": "x" * (LINE_BYTES - 20)})
    await kept.output.log("info", "more", {"text": "x" * LINE_BYTES})
    await kept.output.flush()
    first, second = [line for chunk in kept.chunks for line in chunk.lines]
    assert (len(first.message), len(first.fields["text"])) == (LINE_CHARS, LINE_BYTES - 20)
    assert "_cut" in second.fields
    assert max(len(msgspec.json.encode(chunk)) for chunk in kept.chunks) < MAX_PAYLOAD // 2


async def test_a_chunk_whose_sender_was_cut_short_is_offered_again_as_it_was() -> None:
    kept = Kept()
    await kept.output.log("info", "one", {})
    flushing = asyncio.create_task(kept.output.flush())
    await asyncio.sleep(0)
    await kept.output.log("info", "two", {})
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    kept.open.set()
    await kept.output.flush()
    # Whether the first offer was stored is not known; the second is the same message, and counts once.
    assert kept.offered[0] == kept.offered[1]
    assert kept.told == ["one", "two"]


async def test_a_line_is_sent_after_a_moment_also_when_it_came_while_a_chunk_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "GATHER", 0.0)
    kept = Kept()
    await kept.output.log("info", "one", {})
    async with asyncio.timeout(5):
        while not kept.offered:
            await asyncio.sleep(0)
        await kept.output.log("info", "two", {})
        kept.open.set()
        while len(kept.told) < 2:
            await asyncio.sleep(0)
    assert kept.told == ["one", "two"]
