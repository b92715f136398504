"""What one webhook may start: so many subscriptions of a source, and so many bytes of their inputs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from services.events import handlers, subscriptions
from shared.errors import Invalid
from shared.resources import KINDS
from shared.streams import INLINE_BYTES
from tests.support.inside import bus_of, running
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOW = b"from millrace import workflow\n@workflow\ndef greet(event: dict) -> int: return 1\n"


async def test_a_source_and_an_organization_have_so_many_and_what_is_there_can_be_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MOST_SUBSCRIPTIONS", 2)
    monkeypatch.setitem(KINDS, "source", msgspec.structs.replace(KINDS["source"], most=2))
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        for name in ("repo", "other"):
            await outside.source(name)
        with pytest.raises(Invalid, match="2 sources already") as refused:
            await outside.source("third")
        assert [problem.path for problem in refused.value.errors] == ["name"]
        for name in ("a", "b"):
            await outside.subscription(name=name)
        with pytest.raises(Invalid, match="2 subscriptions already") as refused:
            await outside.subscription(name="c")
        assert [problem.path for problem in refused.value.errors] == ["source"]
        await outside.source("repo")
        await outside.subscription(name="a", event="*")
        await outside.subscription(name="c", source="other")
        with pytest.raises(Invalid, match="2 subscriptions already"):
            await outside.subscription(name="c", source="repo")


async def test_large_inputs_of_one_event_are_bounded_together_and_the_rest_says_so(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "LARGEST_FAN_OUT", 3 * INLINE_BYTES)
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        for name in ("a", "b", "c"):
            await outside.subscription(name=name)
        small = await outside.delivery(await outside.webhook(source, {"n": 1}), "routed")
        assert len(small.runs) == 3
        large = await outside.delivery(await outside.webhook(source, {"text": "x" * (INLINE_BYTES + 1000)}), "unroutable")
        assert [one.status for one in large.subscriptions].count("unroutable") == 1
        assert "more than 0 MiB together" in (large.reason or "")
        assert len(large.runs) == 2
