"""Cases by seed and number: the same ones whenever they are drawn, in this process or another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fuzz import hostile
from tests.fuzz.documents import DAMAGES
from tests.fuzz.hostile import Hostile
from tests.fuzz.shapes import Spot

# Cases that are drawn together. Hypothesis begins each lot with what is simplest, so that small ones would all be alike.
LOT = 500


class Target(NamedTuple):
    """Something that takes input: `spots` of its document, `texts` are the names of its path's parts, parameters and headers.

    `weight` says how often it comes.
    """

    name: str
    spots: tuple[Spot, ...] = ()
    texts: tuple[str, ...] = ()
    weight: int = 4
    damaged: bool = True


class Case(NamedTuple):
    """One input: a hostile value at a spot of a document or as one of the texts, or a whole document that is damaged."""

    target: str
    spot: Spot | None = None
    text: str | None = None
    value: Hostile | None = None
    damage: str | None = None
    salt: int = 0

    @property
    def kind(self) -> str:
        """Return what is hostile about it."""
        return self.damage or (self.value.kind if self.value else "as it should be")

    @property
    def where(self) -> str:
        """Return where that is."""
        return self.text or (self.spot.name if self.spot else "the document")

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {shortly(self.value.value)}"
        return f"{self.target}: {self.where}{shown} ({self.kind})"


def shortly(value: object, most: int = 160) -> str:
    """Return a value as a person can read it, however large it is."""
    shown = value.text if isinstance(value, hostile.Literal) else ascii(value)
    return shown if len(shown) <= most else f"{shown[: most // 2]}…{shown[-20:]} ({len(shown)} characters)"


def strategy(targets: Sequence[Target], without: frozenset[str]) -> st.SearchStrategy[Case]:
    """Return any case for any of the targets."""
    weighted = [target.name for target in targets for _ in range(target.weight)]
    # Made once: to make them anew for every case takes most of the time.
    by_name = {target.name: _of(target, without) for target in targets}
    return st.sampled_from(weighted).flatmap(by_name.__getitem__)


def _of(target: Target, without: frozenset[str]) -> st.SearchStrategy[Case]:
    ways: list[st.SearchStrategy[Case]] = []
    if target.spots:
        at = {spot: _cases(target.name, hostile.values(spot.of, without), spot=spot) for spot in target.spots}
        ways += [st.sampled_from(target.spots).flatmap(at.__getitem__)] * 4
    if target.texts:
        by = {name: _cases(target.name, hostile.texts(without), text=name) for name in target.texts}
        ways += [st.sampled_from(target.texts).flatmap(by.__getitem__)] * 3
    damages = [Case(target.name, damage=name) for name in DAMAGES if name not in without] if target.damaged else []
    if damages:
        ways.append(_salted(st.sampled_from(damages)))
    if target.spots and "missing" not in without:
        ways.append(_salted(st.sampled_from([Case(target.name, spot=spot, damage="missing") for spot in target.spots])))
    return st.one_of(*ways)


def _cases(
    target: str, values: st.SearchStrategy[Hostile], *, spot: Spot | None = None, text: str | None = None
) -> st.SearchStrategy[Case]:
    return _salted(values.map(lambda value: Case(target, spot=spot, text=text, value=value)))


def _salted(drawn: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    """Have a number in each case, by which a door chooses what the case leaves open."""
    return st.tuples(drawn, st.integers(0, 2**31)).map(lambda pair: pair[0]._replace(salt=pair[1]))


def lot(door: str, drawn: st.SearchStrategy[Case], seed: int, number: int) -> list[Case]:
    """Return the `number`th lot of a door's cases."""
    cases: list[Case] = []

    @seeded(int.from_bytes(hashlib.sha256(f"{seed}/{door}/{number}".encode()).digest()[:8]))
    @settings(max_examples=LOT, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(drawn)
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    return cases
