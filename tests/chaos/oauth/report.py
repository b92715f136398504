"""The outcome of the drill of tokens."""

from __future__ import annotations

from typing import Any

from tests.chaos.report import TOKENS, Report, Row

WRONGS = ("lost", "stuck", "unpublished", "wrong")


class TokensReport(Report, frozen=True, kw_only=True):
    """The whole outcome. `spared` counts tokens that were sent again: each is a grant that a provider without a grace would end."""

    name = "chaos-oauth"
    part = TOKENS
    headings = ("what", "how often")
    words = frozenset({"what"})
    reading = """\
How to read it. *lost*: the provider has ended a grant, or a connection needs to be authorized again. *stuck*: a connection
that is being refreshed for ever, or has no token at the end. *unpublished*: messages that are left. *wrong*: any other refusal.
*answers cut off*: by the provider, after it had rotated. *sent again*: for such an answer, or since a replica was killed
between an answer and its storing, or stood still there, the old token was sent once more. A provider that rotates without a
grace ends that grant, whatever a client does; those with one give a minute or more.
"""

    families: int
    refreshes: int
    rotations: int
    spared: int
    cut: int
    unavailable: int
    unanswered: int
    disturbances: dict[str, int]
    seed: int

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        return not self.problems

    def introduction(self) -> str:
        """Return what was done."""
        return f"""\
Tokens of {self.families} grants are refreshed over the API while one of two oauth services is killed (SIGKILL) or paused
(SIGSTOP for longer than its claims live, then SIGCONT). The provider rotates: it takes an old refresh token again for a minute,
and after that ends the whole grant; some of its answers are cut off, and some are refusals of a moment.
`python -m tests.chaos.oauth` repeats this part alone."""

    def measured(self) -> str:
        """Return how much was done."""
        return f"{self.refreshes:,} refreshes at about {self.rate:g} a second, in {self.seconds:,.0f} s; seed {self.seed}"

    def rows(self) -> list[Row]:
        """Return a row for each thing that was counted."""
        done = [Row((what, f"{count:,}")) for what, count in sorted(self.disturbances.items())]
        counted = {"requests to the provider": self.rotations, "answers cut off": self.cut, "sent again": self.spared}
        answers = {"answered 503": self.unavailable, "not answered": self.unanswered}
        wrong = [Row((kind, f"{count:,}"), not count) for kind, count in self.totals().items()]
        return [*done, *(Row((what, f"{count:,}")) for what, count in (counted | answers).items()), *wrong]

    def sums(self) -> Row:
        """Return the last row."""
        return Row(("refreshes", f"{self.refreshes:,}"))

    def remarks(self) -> list[str]:
        """Return in sentences what the table does not show."""
        lines = [f"{self.spared:,} grants would have been lost with a provider without a grace, which no client can prevent"]
        lines += [f"{one.subject}: {one.kind}: {one.id}: {one.detail}" for one in self.problems[:20]]
        return [*lines, "every grant lives, and no connection is stuck"] if self.clean else lines

    def totals(self) -> dict[str, Any]:
        """Return the sums by name."""
        return {wrong: sum(one.kind == wrong for one in self.problems) for wrong in WRONGS}
