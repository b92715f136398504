"""`ask` and `approvals`: questions to people, for whose answers no process waits.

In a workflow:

    from dataclasses import dataclass

    from millrace import ask, workflow

    @dataclass
    class Refund:
        amount: int
        reason: str = ""

    @workflow
    async def refund(order: str) -> str:
        answer = await ask(f"Refund order {order}?", form=Refund, to=["finance"], timeout=86_400, remind=3600)
        return f"{answer.form.amount} EUR" if answer.approved else "refused"
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from millrace import _bounds, _order, _waiting
from millrace._binding import value_of
from millrace._runtime import channel
from millrace._runtime.encode import to_json
from millrace._schema import form_schema
from millrace.errors import AskTimeout, NotInRun

_PROMPT, _QUESTION, _ADDRESSEES = 4000, 16 * 1024, 20


@dataclass(frozen=True)
class Answer:
    """Somebody's answer. `form` is what was filled in, of the type that `ask` was given, None where it was refused."""

    approved: bool
    form: Any
    comment: str
    by: str
    """The user or key that answered, or `link:` and the name that the link was made for."""
    via: str
    """`session`, `key` or `link`."""
    at: datetime
    """Aware, in UTC."""
    remote: str | None
    """The address that it came from."""


class Ask:
    """Asks people; see `__call__`."""

    async def __call__(
        self,
        prompt: str,
        /,
        form: type | None = None,
        *,
        to: Sequence[str] = (),
        timeout: float | timedelta | None = None,
        remind: float | timedelta | None = None,
        escalate: float | timedelta | None = None,
        escalate_to: Sequence[str] = (),
        name: str = "ask",
    ) -> Answer:
        """Await `ask("Refund 120 EUR?")`: the answer that somebody gives, by `POST /api/v1/approvals/{id}` or by a link.

        `form` is a dataclass, which an approval comes with. `to` names those who are asked: a role of the organization (`admin`:
        all with that role or more), `user:` and a login, `key:` and a key's name, or a name that only those know who pass the
        question on; without any of the first three operators may answer. The question is an event `ask.opened` of the topic
        `millrace`; every `remind` seconds without an answer it is `ask.reminded`, after `escalate` seconds `ask.escalated` to
        `escalate_to`.

        One question is asked once, however many attempts come by: it is known by its `name`, and how often that was used before.
        Raises `AskTimeout` after `timeout` seconds, `Refused` for a question that cannot be asked, `NotInRun` outside a run.
        """
        question = _question(prompt, form, to, remind, escalate, escalate_to)
        call, seconds = _called(name, timeout)
        return _answer(call.name, form, await _waiting.over(call, seconds, ("ask", {"question": question})))

    def sync(
        self,
        prompt: str,
        /,
        form: type | None = None,
        *,
        to: Sequence[str] = (),
        timeout: float | timedelta | None = None,
        remind: float | timedelta | None = None,
        escalate: float | timedelta | None = None,
        escalate_to: Sequence[str] = (),
        name: str = "ask",
    ) -> Answer:
        """Do the same in a plain `def` workflow."""
        question = _question(prompt, form, to, remind, escalate, escalate_to)
        call, seconds = _called(name, timeout)
        return _answer(call.name, form, _waiting.over_sync(call, seconds, ("ask", {"question": question})))


class Approvals:
    """Links by which people without an account answer what runs of the organization ask."""

    def link(self, approval: str, name: str) -> str:
        """Answer the address at which somebody of this name answers a question, once; it is a secret, and masked in all lines.

        `approval` is the id in the event `ask.opened`; the name is on record with the answer. Of use until the question is over,
        and for a week at most. Raises `Refused` where there is no such question, or it takes no answer any more.
        """
        made: str = channel.ask("approvals", "approval_link", **_linked(approval, name))["url"]
        return made

    async def alink(self, approval: str, name: str) -> str:
        """Do the same without holding up the event loop."""
        made: str = (await channel.aask("approvals", "approval_link", **_linked(approval, name)))["url"]
        return made


def _linked(approval: object, name: object) -> dict[str, Any]:
    return {"approval": _bounds.text(approval, "an approval's id"), "name": _bounds.text(name, "a name")}


def _called(name: object, timeout: float | timedelta | None) -> tuple[_order.Call, float | None]:
    checked = _bounds.text(name, "a question's name")
    seconds = None if timeout is None else _bounds.seconds(timeout, "timeout")
    if channel.current is None:
        msg = "only a run can ask people"
        raise NotInRun(msg)
    return _waiting.next_wait("ask", checked), seconds


def _question(prompt: object, form: Any, to: object, remind: Any, escalate: Any, escalate_to: object) -> dict[str, Any]:
    asked = {
        "prompt": _bounds.text(prompt, "a question", _PROMPT),
        "form": None if form is None else form_schema(form),
        "to": _names(to, "to"),
        "remind": None if remind is None else _bounds.seconds(remind, "remind", above_zero=True),
        "escalate": None if escalate is None else _bounds.seconds(escalate, "escalate"),
        "escalate_to": _names(escalate_to, "escalate_to"),
    }
    document: dict[str, Any] = json.loads(to_json(asked, what="the question", limit=_QUESTION))
    return document


def _names(given: object, what: str) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        msg = f"{what} is a list of names, not {type(given).__name__}"
        raise TypeError(msg)
    if len(given) > _ADDRESSEES:
        msg = f"{what} has at most {_ADDRESSEES} names, not {len(given)}"
        raise ValueError(msg)
    return [_bounds.text(one, f"a name in {what}") for one in given]


def _answer(name: str, form: Any, found: Any) -> Answer:
    if found.get("timed_out"):
        msg = f"nobody answered {name!r} in time"
        raise AskTimeout(msg)
    told = found["result"]
    filled = value_of(told["data"], form, "form") if form is not None and told["approved"] else None
    at = datetime.fromisoformat(told["at"]).astimezone(UTC)
    return Answer(told["approved"], filled, told["comment"], told["by"], told["via"], at, told["remote"])


ask = Ask()
approvals = Approvals()
