"""What may share a batch, whatever comes in whatever order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shared.batching import FEWEST_TO_SHARE, Batcher, PendingMessage

MAX_MESSAGES = 5
MAX_BYTES = 100

offers = st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(1, 60))
# True: end the oldest batch in flight; else offer a message.
scripts = st.lists(st.one_of(st.just(None), offers), max_size=80)


@given(scripts)
def test_every_batch_keeps_the_rules_and_everything_goes(script: list[tuple[str, bool, int] | None]) -> None:
    batcher: Batcher[int] = Batcher(max_messages=MAX_MESSAGES, max_bytes=MAX_BYTES)
    flying: list[list[PendingMessage[int]]] = []
    sent: list[PendingMessage[int]] = []
    offered: list[PendingMessage[int]] = []

    def take() -> None:
        while batch := batcher.take():
            flying.append(batch)
            sent.extend(batch)
            check(flying)

    for number, act in enumerate(script):
        if act is None:
            if flying:
                batcher.done(flying.pop(0))
        else:
            aggregate, expects, size = act
            offer = PendingMessage(str(number), aggregate, expects, size, number)
            offered.append(offer)
            batcher.offer(offer)
        take()
    while flying:
        batcher.done(flying.pop(0))
        take()
    assert Counter(offer.id for offer in sent) == Counter(offer.id for offer in offered)
    assert (len(batcher), batcher.waiting_bytes) == (0, 0)
    for aggregate in "abcde":
        order = [offer.bearer for offer in sent if offer.aggregate == aggregate]
        assert order == sorted(order), "messages of an aggregate keep their order"


def check(flying: list[list[PendingMessage[int]]]) -> None:
    assert len(flying) <= 2
    for batch in flying:
        assert len(batch) <= MAX_MESSAGES
        assert len(batch) == 1 or sum(offer.size for offer in batch) <= MAX_BYTES
    every = [offer for batch in flying for offer in batch]
    expecting = {offer.aggregate for offer in every if offer.expects}
    counted = Counter(offer.aggregate for offer in every)
    assert all(counted[aggregate] == 1 for aggregate in expecting)


@given(st.integers(1, 400))
def test_a_batch_leaves_half_for_the_next_unless_that_would_be_few(count: int) -> None:
    batcher: Batcher[None] = Batcher()
    for number in range(count):
        batcher.offer(PendingMessage(str(number), str(number), expects=False, size=1, bearer=None))
    assert len(batcher.take()) == min(count, max(FEWEST_TO_SHARE, count // 2))
