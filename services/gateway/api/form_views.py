"""What is shown of a form that was sent, to people and to programs alike."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from services.gateway.api.form_access import HAVE_ROLE, FormSender
from services.gateway.links import SENT, SentLink
from services.gateway.parts import Gateway
from services.gateway.starts import RequestedRun, known
from shared.messages import Audited
from shared.questions import Page
from shared.questions.runs import ListSteps
from shared.resources.form import FormEntry
from shared.runs import ENDED

# The newest steps that are shown.
MOST_STEPS = 100
_WORDS = {
    "queued": "It waits for its turn.",
    "delayed": "It begins later.",
    "running": "It is being done.",
    "waiting": "It goes on later.",
    "cancelling": "It is being stopped.",
    "succeeded": "It is done.",
    "cancelled": "It was stopped.",
    "expired": "It did not begin in time.",
}
_WAITS = {"signal": "It waits for an answer.", "event": "It waits for an event.", "worker": "It waits for its turn."}


class SubmissionView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a form that was sent, as far as the form shows it: the `status` of its run, with words for people.

    `ended`: it does not change any more. `steps` are done. There is a `result` of what succeeded alone, and a `run` for those alone
    who have the form's role.
    """

    status: str
    words: str
    ended: bool
    steps: list[str] = []
    result: Any = None
    has_result: bool = False
    run: str | None = None


def ticket_of(form: FormEntry, who: FormSender, run: str) -> SentLink:
    """Return what somebody who has sent a form looks at its run by."""
    return SentLink(org=form.org, form=form.id, run=run, via=who.via, until=time.time() + SENT)


async def outcome_of(gateway: Gateway, form: FormEntry, link: SentLink) -> SubmissionView:
    """Return what a form shows of its run. Nobody but those with its role is told why a run failed, and which it is."""
    show = form.spec.show
    run = link.run if link.via in HAVE_ROLE else None
    if show == "nothing":
        return SubmissionView(status="sent", words="It was sent.", ended=True, run=run)
    view = await known(gateway, link.org, link.run)
    if view is None:
        return SubmissionView(status="queued", words=_WORDS["queued"], ended=False, run=run)
    ended = view.status in ENDED
    words = _WORDS.get(view.status, "It could not be done.")
    if view.status == "waiting":
        words = _WAITS.get(view.blocked_on or "", words)
    if run is not None and view.error is not None and ended:
        words += f" {view.error.type}: {view.error.message}"[:1000]
    steps: list[str] = []
    if not ended:
        page = await gateway.bus.ask(ListSteps(org=link.org, id=link.run, results=False, page=Page(limit=MOST_STEPS)))
        steps = [one.name for one in page.items if one.kind == "step"]
    has_result = show == "result" and view.status == "succeeded" and not view.erased
    result = view.result if has_result else None
    if has_result and view.result_ref is not None:
        has_result, words = False, f"{words} Its result is too large to be shown here."
    return SubmissionView(status=view.status, words=words, ended=ended, steps=steps, result=result, has_result=has_result, run=run)


async def recorded(gateway: Gateway, form: FormEntry, who: FormSender, requested: RequestedRun) -> None:
    """Have the audit of a form that was sent on disk; of one that came again there is one."""
    if requested.request is None:
        return
    said = Audited(
        category="form",
        verb="send",
        actor=who.actor,
        target=form.name,
        outcome="ok",
        remote=who.remote,
        detail={"run": requested.run, "via": who.via},
    )
    await gateway.trail.publish(said, org=form.org)
