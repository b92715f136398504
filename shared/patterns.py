"""The cost of matching patterns, estimated from their words before any text is matched.

The engine matches in time linear in the text, and in the states of the pattern as well. Counted repetitions make thousands of
states out of few signs: `((a{1,30}){1,30}){1,30}b` takes a millisecond for each character.
"""

from __future__ import annotations

import re

CHEAP = 12
"""States of a pattern whose sets of states the engine has all at hand."""
MODEST = 50
"""States of an anchored pattern without counted repetitions, such as that of a time of day."""
_MOST = 10**6
_REPEATED = re.compile(r"\{\s*([0-9]*)\s*(,?)\s*([0-9]*)\s*\}")
# One sign of a pattern: an escape, a class, what opens a group, or any other character.
_SIGN = re.compile(
    r"\\(?:[pPuUx]\{[^}]*\}|[\s\S]?)|\[(?:\\[\s\S]|[^\]\\])*\]?|\((?:\?(?:P?<\w+>|[a-zA-Z-]*:))?|[\s\S]",
)
# Blanks and comments mean nothing in this mode: what is read here as a group may be none.
_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")


def looks(pattern: str) -> int:
    """Return how many looks at a value each 64 characters of its text cost, a look being some 30 ns; rather too many."""
    states, is_bound, is_counted, is_endless = _read(pattern)
    if _VERBOSE.search(pattern) is not None:
        return _MOST
    if states <= CHEAP:
        return 3
    if is_bound and not is_counted and states <= MODEST:
        # Those of the SDK stand beside large inputs. At worst such a one costs forty times as much.
        return states
    if is_bound and not is_endless:
        # It is over after as many characters as it has states, and these count as looks as well.
        return min(states * 50, states * states // 16)
    return states * 50


def _read(pattern: str) -> tuple[int, bool, bool, bool]:
    """Return the states of a pattern, and whether it is bound to the beginning of a text, counts, and repeats without end."""
    outer: list[int] = []
    states = last = 0
    is_bound, is_counted, is_endless = pattern.startswith("^"), False, False
    at = 0
    while at < len(pattern):
        if last and (repeated := _REPEATED.match(pattern, at)) is not None and any(repeated.group(1, 3)):
            least, comma, most = repeated.groups()
            times = _number(most or least)
            states, last = min(_MOST, states + last * (times - 1)), min(_MOST, last * times)
            is_counted = is_counted or times > 1
            is_endless = is_endless or (bool(comma) and not most)
            at = repeated.end()
            continue
        sign = _SIGN.match(pattern, at)
        assert sign is not None  # noqa: S101 - the last alternative takes any character
        at = sign.end()
        if sign[0].startswith("("):
            outer.append(states)
            states = last = 0
        elif sign[0] == ")" and outer:
            last = max(1, states)
            states = min(_MOST, last + outer.pop())
        elif sign[0] in {"*", "+"}:
            is_endless = True
        elif sign[0] != "?":
            is_bound = is_bound and (sign[0] != "|" or bool(outer))
            states, last = min(_MOST, states + 1), 1
    return min(_MOST, states + sum(outer)), is_bound, is_counted, is_endless


def _number(digits: str) -> int:
    return min(_MOST, int(digits[:7])) if digits.strip("0") else 1
