"""Masking: how fast printed text is looked through for the secrets of a run, beside what replacing bytes takes at best.

The limit is `bytes.replace` of one text that is not there, over the same bytes in the same run. Measured, in MB of text a second,
each the median over the rounds:

- `token`: one token of 40 characters, in some ten writings (`ratio`: of the limit; wanted: at least a fifteenth);
- `key`: a private key of 28 lines, each of which is masked by itself;
- `repetitive`: 64 KiB of one letter, in a text of nothing but that letter: the worst that a secret and a text can be;
- `lines`: lines a second that are masked one by one as they are printed, with the token.
"""

from __future__ import annotations

import random
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench.support import outcome
from bench.support.outcome import Outcome
from services.executor.sandbox.masking import MaskedStream, Masker

PIECE = 65_536
LINE = "a line of printed text that says nothing much, number 12345\n"
WANTED = 1 / 15
_DRAWN = random.Random(1)


async def measure(_folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds."""
    letters = string.ascii_letters + string.digits
    token = "gho_" + "".join(_DRAWN.choices(letters, k=36))
    key = "\n".join("".join(_DRAWN.choices(letters, k=64)) for _ in range(28))
    text = (LINE * (PIECE // len(LINE) + 1))[:PIECE]
    slot = seconds / 5
    data = text.encode()
    limit = _rate(lambda: data.replace(token.encode(), b"***"), len(data), slot)
    rates = {
        "token": _rate(_feeding(token, text), PIECE, slot),
        "key": _rate(_feeding(key, text), PIECE, slot),
        "repetitive": _rate(_feeding("a" * PIECE, "a" * PIECE), PIECE, slot),
    }
    lines = _rate(_feeding(token, LINE), 1, slot)
    ratio = rates["token"] / limit
    more = {f"{name}_mb_per_s": rate / 1e6 for name, rate in rates.items()}
    more |= {"lines_per_s": lines, "limit_mb_per_s": limit / 1e6, "wanted_ratio": WANTED}
    return Outcome(name="masking", figure=rates["token"] / 1e6, unit="MB/s", limit=limit / 1e6, ratio=ratio, more=more)


def _feeding(secret: str, text: str) -> Callable[[], object]:
    masker = Masker()
    masker.learn(secret)
    stream = MaskedStream(masker)
    return lambda: stream.feed(text)


def _rate(once: Callable[[], object], size: int, seconds: float) -> float:
    """Return how much is done a second: the median of some rounds, each of which takes a few milliseconds at least."""
    rates: list[float] = []
    times = 1
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(rates) < 3:
        began = time.perf_counter()
        for _ in range(times):
            once()
        took = time.perf_counter() - began
        rates.append(times * size / took)
        times = max(1, round(times * 0.005 / took)) if took > 0 else times * 2
    return median(rates)


main = outcome.command(measure, seconds=10.0, about="Measure what masking credentials costs.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
