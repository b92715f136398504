"""Runs the code of adapters: what it makes of one request, within a time, and no more of it at a time than hurts nobody else.

The code has its request, and the settings and secrets of its source: no network, no credentials, nothing of the platform.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, Protocol, cast

import msgspec
import structlog

from services.executor.environments.builds import Builds
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import Capabilities, Failure, Job, KeptResult, Outcome, Sandbox
from services.executor.sandbox.masking import Masker
from services.executor.workspaces.adapter_jobs import BUSY, PATIENCE, AdapterJobs, ReadyCode, asker_of
from services.executor.workspaces.bundles import Bundles
from shared.blobs import Blobs
from shared.encryption import CannotOpen, Keyring
from shared.errors import MillraceError, PermissionDenied, TooLarge, Unavailable
from shared.questions.adapters import CODE_TIMEOUT, MOST_PARSED, AdapterAnswer, AdapterReply, AskAdapter, MadeEvent, check_answer
from shared.values import MOST_TYPE, check

# Bytes as JSON of all events that a request makes: an answer has to fit into a message.
LARGEST = 1024 * 1024
# Characters of a reason.
LONGEST_REASON = 1000

_log = structlog.get_logger()


class AdapterDeps(Protocol):
    """Dependencies of the code of adapters."""

    bundles: Bundles
    builds: Builds
    sandbox: Sandbox
    keyring: Keyring
    bodies: Blobs
    adapter_jobs: AdapterJobs


class _Made(msgspec.Struct, frozen=True):
    """A result as a child may send it."""

    genuine: bool = False
    refused: str | None = None
    delivery: str | None = None
    reply: AdapterReply | None = None
    events: list[MadeEvent] | None = None


class _Nothing:
    """The capabilities of an adapter's code: none. Its prints are dropped."""

    network = None

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self.result = b""

    def __getattr__(self, name: str) -> NoReturn:
        raise PermissionDenied("an adapter reads its request, and asks the platform for nothing")

    async def begin(self) -> None:
        """See `interface.Capabilities`, as for all that follows."""
        self._begin()

    async def log(self, _level: str, _event: str, _fields: dict[str, Any]) -> None:
        """Drop it."""

    async def output(self, _stream: str, _text: str) -> None:
        """Drop it."""

    async def keep_result(self, parts: AsyncIterator[bytes]) -> KeptResult:
        """Keep it in memory."""
        kept = bytearray()
        async for part in parts:
            kept += part
            if len(kept) > LARGEST:
                raise TooLarge(f"the events of a request have at most {LARGEST} bytes together")
        self.result = bytes(kept)
        return KeptResult(hashlib.sha256(kept).hexdigest(), len(kept))


async def ask_adapter(asked: AskAdapter, deps: AdapterDeps) -> AdapterAnswer:
    """Return what an adapter's code makes of a request. Raises `NotFound`, `Unavailable`."""
    jobs, until = deps.adapter_jobs, asyncio.get_running_loop().time() + PATIENCE
    asker = asker_of(asked)
    with jobs.admitted(asked.org, asker), jobs.trial(asked) as outcome:
        code = await jobs.ready(asked, deps, until)
        async with jobs.place(asked.org, asker, until):
            answer = await _answer(asked, code, deps, until)
        outcome.append(answer.outcome == "lost")
    return answer


async def _answer(asked: AskAdapter, code: ReadyCode, deps: AdapterDeps, until: float) -> AdapterAnswer:
    """Return an answer of code that begins before a time of the loop. Raises `Unavailable` where it does not."""
    secrets = _opened(asked, deps.keyring)
    request = {
        "method": asked.request.method,
        "url": asked.request.url,
        "headers": asked.request.headers,
        "query": asked.request.query,
    }
    job = Job(
        run=f"adapter of {asked.source}",
        attempt=1,
        org=asked.org,
        # No workflow's name: no process serves both.
        workflow=f"adapter {asked.adapter}",
        bundle=code.bundle.folder,
        module=code.declared.module,
        function=code.declared.function,
        input={},
        # Not by the job's own time-out, after which code may go on for the grace of a run.
        timeout=2 * CODE_TIMEOUT,
        isolation="workflow",
        site_packages=code.packages,
    )
    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        has_begun = True
        # What came before is not the code's fault.
        deadline.reschedule(asyncio.get_running_loop().time() + CODE_TIMEOUT)

    nothing = _Nothing(begin)
    try:
        with deps.bundles.held(code.bundle.folder), deps.builds.held(code.packages):
            async with asyncio.timeout_at(until) as deadline:
                request["body_base64"] = await _body(asked, deps)
                given = {"act": asked.act, "request": request, "settings": asked.settings, "secrets": secrets}
                ended = await deps.sandbox.run(msgspec.structs.replace(job, input=given), cast("Capabilities", nothing))
    except TimeoutError as error:
        if not has_begun:
            raise Unavailable("no process was free for the adapter's code", retry_after=BUSY) from error
        return AdapterAnswer(outcome="lost", reason=f"it took longer than {CODE_TIMEOUT:g} s")
    except TooLarge as error:
        return AdapterAnswer(outcome="failed", reason=error.detail)
    except SandboxUnavailable as error:
        raise Unavailable(f"code cannot be run now: {error}") from error
    answer = _judged(asked, ended, nothing.result)
    if answer.reason is None and not answer.events:
        return answer
    return await asyncio.to_thread(_masked, answer, secrets)


def _masked(answer: AdapterAnswer, secrets: dict[str, str]) -> AdapterAnswer:
    """Return an answer without the secrets that the code had: it may repeat them in what it says of itself, and in events."""
    masker = Masker()
    masker.learn(*secrets.values())
    reason = None if answer.reason is None else masker.mask(answer.reason)[:LONGEST_REASON]
    events = answer.events and [
        MadeEvent(type=masker.mask(one.type), data=masker.masked(one.data), headers=masker.masked(one.headers))
        for one in answer.events
    ]
    return msgspec.structs.replace(answer, reason=reason, events=events)


def _judged(asked: AskAdapter, ended: Outcome, kept: bytes) -> AdapterAnswer:
    """Return the answer that the end of a job means."""
    if ended.status != "succeeded":
        error = ended.error or Failure("Error", ended.status)
        is_own = ended.status == "failed" and ended.reason == "error"
        reason = f"{error.type}: {error.message}{_where(error.traceback)}"
        return AdapterAnswer(outcome="failed" if is_own else "lost", reason=reason)
    try:
        made = msgspec.json.decode(kept or bytes(ended.result or b"null"), type=_Made)
        check(msgspec.to_builtins(made))
        return _meant(asked, made)
    except (msgspec.MsgspecError, MillraceError, ValueError) as error:
        return AdapterAnswer(outcome="failed", reason=f"what it answered cannot be used: {error}")


def _meant(asked: AskAdapter, made: _Made) -> AdapterAnswer:
    if asked.act == "parse":
        if made.events is None:
            raise ValueError("there are no events")
        for event in made.events:
            if not 0 < len(event.type) <= MOST_TYPE:
                raise ValueError(f"an event's type has 1 to {MOST_TYPE} characters")
        return AdapterAnswer(outcome="events", events=made.events)
    if made.reply is not None:
        check_answer(made.reply.content_type, made.reply.headers)
        if not 200 <= made.reply.status < 600 or 300 <= made.reply.status < 400:
            raise ValueError("an answer's status is from 200 to 599, and no redirection")
        base64.b64decode(made.reply.body_base64, validate=True)
        return AdapterAnswer(outcome="reply", reply=made.reply)
    if made.genuine and asked.act == "receive":
        return AdapterAnswer(outcome="genuine", delivery=made.delivery)
    if made.refused is not None and asked.act == "receive":
        return AdapterAnswer(outcome="refused", reason=made.refused)
    return AdapterAnswer(outcome="nothing")


def _where(traceback: str) -> str:
    """Return the last line of the author's that a traceback shows, as " (adapters/acme.py line 7)"."""
    places = [line.strip() for line in traceback.splitlines() if line.strip().startswith('File "')]
    if not places:
        return ""
    file, _, rest = places[-1].removeprefix('File "').partition('", line ')
    return f" ({file} line {rest.partition(',')[0]})"


def _opened(asked: AskAdapter, keyring: Keyring) -> dict[str, str]:
    try:
        return {name: keyring.open(sealed, asked.org, asked.source, name) for name, sealed in asked.sealed.items()}
    except CannotOpen as error:
        # The keys of two services differ while they are being rotated.
        raise Unavailable(f"a secret of the source cannot be opened: {error}") from error


async def _body(asked: AskAdapter, deps: AdapterDeps) -> str:
    if asked.request.body_ref is None:
        return asked.request.body_base64
    blob = await deps.bodies.stat(asked.request.body_ref)
    if blob is not None and blob.size > MOST_PARSED:
        raise TooLarge(f"a request that an adapter of a workspace reads has at most {MOST_PARSED} bytes")
    return base64.b64encode(await deps.bodies.read(asked.request.body_ref)).decode()
