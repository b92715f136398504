"""The webhooks of the drill: of several kinds, some sent again, and none in the order in which they were made."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Iterator, Sequence

import aiohttp
import msgspec

from tests.chaos.clients import PATIENCE, Tries, insist

# What becomes of a webhook, by the type of its event: a run, nobody's interest, no such workflow, a body that is none.
KINDS = {"run": "routed", "ignored": "filtered", "lost": "unroutable", "unreadable": "dead"}
# How many of twenty webhooks are of each kind.
MIX = {"run": 3, "ignored": 14, "lost": 2, "unreadable": 1}
# One of so many is sent once more, and one of so many of those a third time; this many places later at most.
REPEATED, AGAIN, LATER = 5, 4, 400
# Places by which two webhooks may change their order.
SHUFFLED = 50
ACCEPTED = (200, 202)


class Made(msgspec.Struct, kw_only=True):
    """One webhook of the source number `source`: its kind, its sender's id, and what was answered."""

    source: int
    kind: str
    sender_delivery: str
    sendings: int = 0
    answered: list[str] = []
    refusal: str | None = None

    @property
    def delivery(self) -> str | None:
        """Return the delivery that it was accepted as first."""
        return self.answered[0] if self.answered else None


def webhooks(number: int, sources: int, seed: int) -> list[Made]:
    """Return so many different webhooks."""
    chance = random.Random(seed)
    kinds = chance.choices(list(MIX), weights=list(MIX.values()), k=number)
    made = [Made(source=n % sources, kind=kind, sender_delivery=f"{seed}-{n}") for n, kind in enumerate(kinds)]
    for one, kind in zip(made, KINDS, strict=False):
        one.kind = kind  # each kind is there, however few there are
    return made


def order(made: Sequence[Made], seed: int) -> Iterator[Made]:
    """Yield webhooks in the order of their sendings, out of their own order, some of them twice or three times."""
    chance = random.Random(seed + 1)
    places: list[tuple[float, int]] = []
    for n in range(len(made)):
        places.append((n + chance.uniform(0, SHUFFLED), n))
        if chance.randrange(REPEATED) == 0:
            places.append((n + chance.uniform(0, LATER), n))
            if chance.randrange(AGAIN) == 0:
                places.append((n + chance.uniform(0, LATER), n))
    return (made[n] for _, n in sorted(places))


async def send(session: aiohttp.ClientSession, url: str, secret: str, one: Made) -> None:
    """Send a webhook until it is accepted or refused, or patience ends."""
    one.sendings += 1
    body = b'{"ref":' if one.kind == "unreadable" else msgspec.json.encode({"id": one.sender_delivery})
    headers = {
        "Content-Type": "application/json",
        "X-Event": one.kind,
        "X-Delivery": one.sender_delivery,
        "X-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    tries = Tries()
    answer = await insist(session, url, body, headers, tries)
    if answer is None:
        one.refusal = f"not accepted within {PATIENCE:.0f} s: {tries.met}"
    elif answer.status in ACCEPTED:
        one.answered = [*one.answered, msgspec.json.decode(answer.body)["id"]]
    else:
        one.refusal = f"{answer.status} {answer.body.decode(errors='replace')[:300]}"
