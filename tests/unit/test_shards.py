"""The shard of a run: from its key alone, and of one shard nothing is to be seen anywhere."""

from __future__ import annotations

from collections import Counter

import pytest

from services.executor.runs.worker import in_turns
from shared.envelope import new_id
from shared.messages.shards import MOST, noun_of, plain, shard_of, shards_of, subject_in, told
from shared.streams import STREAMS, WORK, Stream, Work


def test_a_key_stays_where_it_is_for_ever() -> None:
    # Another hash would look for the runs of an installation where they are not.
    key = "0193b0c4-7d2e-7a51-9c3f-5a2b8d1e6f70"
    assert [shard_of(key, shards) for shards in (1, 2, 3, 4, MOST)] == [0, 0, 1, 2, 10]
    assert shard_of("\udcff", 3) in range(3)  # a key that no subject takes is refused where it is one


def test_keys_are_spread_evenly() -> None:
    found = Counter(shard_of(new_id(), 4) for _ in range(4000))
    assert sorted(found) == [0, 1, 2, 3]
    assert min(found.values()) > 800


@pytest.mark.parametrize("raw", ["", " ", "0", "17", "-1", "two", "²", "9" * 5000])
def test_what_tells_no_number_of_shards_tells_one(raw: str) -> None:
    assert told({"MILLRACE_RUN_SHARDS": raw}) == 1
    assert told({}) == 1


def test_subjects_of_a_shard_are_those_of_its_noun() -> None:
    assert subject_in("run.*.requested.high", 0) == "run.*.requested.high"
    assert subject_in("run.*.requested.high", 2) == "run-2.*.requested.high"
    assert (plain("run-2"), plain("run"), plain("identity_provider")) == ("run", "run", "identity_provider")


def test_only_runs_are_split() -> None:
    assert noun_of("event", "a") == "event"
    assert all(shards_of(noun) == 1 for stream in STREAMS for noun in map(plain, stream.nouns) if noun != "run")


def test_no_two_streams_or_consumers_share_a_name() -> None:
    for named in (STREAMS, WORK):
        names = Counter(one.name for one in named if isinstance(one, Stream | Work))
        assert set(names.values()) == {1}


def test_of_each_kind_every_shard_is_asked_first_in_turn() -> None:
    like = WORK[-1]
    served = [
        Work(
            name=f"executor-runs-{lane}" + (f"={shard}" if shard else ""),
            service=like.service,
            messages=like.messages,
            subjects=(),
            shard=shard,
        )
        for lane in ("high", "low")
        for shard in range(3)
    ]
    orders = [[one.name.removeprefix("executor-runs-") for one in order] for order in in_turns(served)]
    assert orders == [
        ["high", "high=1", "high=2", "low", "low=1", "low=2"],
        ["high=1", "high=2", "high", "low=1", "low=2", "low"],
        ["high=2", "high", "high=1", "low=2", "low", "low=1"],
    ]
