"""The conversation with one child, from the job to its end."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec

from services.executor.sandbox import frames, masking
from services.executor.sandbox.egress.network import Network, Record
from services.executor.sandbox.egress.proxy import Proxy, is_shared
from services.executor.sandbox.errors import FrameError, OverLimit, SandboxUnavailable
from services.executor.sandbox.incoming import Incoming, TooMuch
from services.executor.sandbox.jail import LARGEST_RESULT, Capabilities, KeptResult, Stream
from services.executor.sandbox.masking import Masker
from services.executor.sandbox.output import FATAL
from services.executor.sandbox.process import Child, ChildExit
from services.executor.sandbox.ration import Ration
from services.executor.sandbox.requests import SERVED, ChildRequest, documents_of
from shared.errors import MillraceError, PermissionDenied

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL: enough to close a connection, too little to go on working."""

_LAST_WORDS = 1.0
"""Seconds that a child with a closed socket has to exit, so that its exit code is known."""
_MOST_REQUESTS = 32
"""Requests of one child that are served at a time; the socket is not read while there are more."""
_MOST_LOGGED = 4 << 20
_MOST_RECEIVED = 256 << 20
"""Bytes of frames of one attempt: decoding them is the supervisor's time."""
_MOST_AT_ONCE = 1 << 20
"""Characters that are looked through for secrets in the event loop, once for each form of each; for more there is a thread."""

P = ParamSpec("P")
T = TypeVar("T")
Stopped = Literal["timed_out", "cancelled"]


@dataclass(frozen=True)
class ChildGone:
    """The child gave no answer; `alive` if the process was still there, with its socket closed."""

    alive: bool


@dataclass(frozen=True)
class Broken:
    """The child sent something that is no frame."""

    message: str


@dataclass(frozen=True)
class Excess:
    """The child sent more than the supervisor reads."""

    message: str
    type: str = "OutputLimit"


@dataclass(frozen=True)
class Starved:
    """The child and what it started took more memory than they may."""


Last = frames.Terminal | KeptResult | ChildGone | Broken | Excess | Starved


@dataclass(frozen=True)
class AttemptEnd:
    """All that is known about an end. `stopped` is set when SIGTERM was sent before the child had answered."""

    last: Last
    stopped: Stopped | None
    exit: ChildExit
    duration: float
    is_full: bool = False
    """Whether the child ran into its limit of processes and threads."""
    importing: str | None = None
    """The file that it imported last, of those that it was to describe."""


class Attempt:
    """Serves one child until it ends. `ended` is called once.

    Without capabilities the child's output is dropped and its requests are refused.
    """

    def __init__(self, child: Child, capabilities: Capabilities | None, *, may_stay: bool = False) -> None:
        self._child = child
        self._may_stay = may_stay
        self.stays = False
        """Whether the child lives on after the attempt, if it may: it has answered in time, and nothing is left to wait for."""
        self._capabilities = capabilities
        self._last: asyncio.Future[Last] = asyncio.get_running_loop().create_future()
        self._stopped: Stopped | None = None
        self._fault: BaseException | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._requests: dict[asyncio.Task[None], bool] = {}
        self._words: list[tuple[frames.Log, int] | tuple[Stream, str | None]] = []
        """Output still to be masked and passed on: lines with their size, printed text, None at the end."""
        # A child that stays may print secrets of earlier runs.
        self._masker = child.masker = child.masker or Masker()
        self._printed: dict[Stream, masking.MaskedStream] = {
            "stdout": masking.MaskedStream(self._masker),
            "stderr": masking.MaskedStream(self._masker),
        }
        self._incoming: Incoming | None = None
        self._importing: str | None = None
        self._logged = 0
        self._has_output = asyncio.Event()
        self._is_over = False
        self._has_hung_up = False

    async def ended(self, opening: bytes, seconds: float, cancel: asyncio.Event | None) -> AttemptEnd:
        """Hand the job over, serve the child's requests, and return once the end is known and its output is recorded.

        Raises the errors of capabilities, and `SandboxUnavailable` where the zygote's death took the child along. On any
        exit the child's process has been killed; `Child.end` waits until nothing is left of it.
        """
        child = self._child
        child.output.on_text = self._hear
        child.output.on_flood = self._flood
        child.on_starved = self._starve
        proxy = self._proxy(None if self._capabilities is None else self._capabilities.network)
        try:
            if proxy is not None:
                opening = frames.encode({"kind": "network", "proxy": await _started(proxy)}) + opening
            return await self._ended(opening, seconds, cancel)
        finally:
            if not self.stays:
                child.kill()
            if proxy is not None:
                await proxy.close()

    async def _ended(self, opening: bytes, seconds: float, cancel: asyncio.Event | None) -> AttemptEnd:
        began = time.monotonic()
        child = self._child
        child.begin(opening)
        child.exited.add_done_callback(self._died)
        passing_on = asyncio.create_task(self._pass_on())
        passing_on.add_done_callback(self._failed)
        listening = asyncio.create_task(self._listen())
        listening.add_done_callback(self._failed)
        tasks = [passing_on, listening]
        if cancel is not None:
            tasks.append(asyncio.create_task(self._heed(cancel)))
        self._after(seconds, self._stop, "timed_out")
        try:
            last = await self._last
            duration = time.monotonic() - began
            await self._finish_kept()
            exit_ = None if isinstance(last, ChildGone) else child.used()
            is_full = not isinstance(last, frames.Result | KeptResult) and child.is_full
            is_orderly = isinstance(last, frames.Result | frames.Error) and self._stopped is None and self._fault is None
            self.stays = self._may_stay and is_orderly and exit_ is not None
            if not self.stays:
                child.kill()
            if exit_ is None:
                exit_ = await asyncio.shield(child.exited)
            if isinstance(last, ChildGone) and child.has_starved:
                last = Starved()
            if self.stays:
                child.output.settle()
            else:
                child.output.drain()
            self._words += [(name, None) for name in self._printed]
            self._is_over = True
            self._has_output.set()
            await passing_on
            if self._fault is not None:
                raise self._fault
            if exit_ is None:
                msg = "the zygote died, and the child with it"
                raise SandboxUnavailable(msg)
            return AttemptEnd(await self._masked(last), self._stopped, exit_, duration, is_full, self._importing)
        except BaseException:
            self.stays = False
            raise
        finally:
            if not self.stays:
                child.kill()
            child.exited.remove_done_callback(self._died)
            for timer in self._timers:
                timer.cancel()
            left = [*tasks, *self._requests]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            if self._incoming is not None:
                await self._incoming.drop()

    async def _listen(self) -> None:
        received_bytes = 0
        ration = Ration()
        try:
            while not self._last.done():
                received = await frames.read(self._child.reader)
                if received is None:
                    self._hang_up()
                    return
                frame, size = received
                received_bytes += size
                if received_bytes > _MOST_RECEIVED:
                    self._settle(Excess(f"it sent more than {_MOST_RECEIVED >> 20} MB to the platform"))
                elif isinstance(frame, frames.Terminal):
                    self._settle(frame)
                elif isinstance(frame, frames.Log):
                    self._count(frame, size)
                elif isinstance(frame, frames.Importing):
                    self._importing = frame.path
                elif isinstance(frame, frames.ResultPart | frames.ResultEnd):
                    ration.charge(await self._receive(frame))
                elif isinstance(frame, frames.Ready | frames.Placed | frames.Again):
                    self._settle(Broken("it said that it is ready while it had a job"))
                else:
                    await self._serve(frame)
                await ration.spend(size)
        except FrameError as error:
            self._settle(Broken(str(error)))
        except TooMuch as error:
            self._settle(Excess(str(error), "ResultTooLarge"))

    async def _receive(self, frame: frames.ResultPart | frames.ResultEnd) -> float:
        """Take a part of a large result, or its end; return the seconds that took."""
        if self._capabilities is None:
            msg = "a result in parts where a description was asked for"
            raise FrameError(msg)
        if self._incoming is None:
            if isinstance(frame, frames.ResultEnd):
                if frame.bytes > LARGEST_RESULT:
                    raise TooMuch(frame.bytes)
                msg = "the end of a result that has not begun"
                raise FrameError(msg)
            self._incoming = Incoming(self._masker, self._capabilities.keep_result)
        if isinstance(frame, frames.ResultPart):
            return await self._incoming.take(frame.text)
        self._settle(await self._incoming.end(frame.bytes))
        return 0.0

    async def _serve(self, request: ChildRequest) -> None:
        while len(self._requests) >= _MOST_REQUESTS:
            await asyncio.wait(self._requests, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._answer(request))
        self._requests[task] = SERVED[type(request)].is_kept
        task.add_done_callback(self._answered)

    async def _answer(self, request: ChildRequest) -> None:
        answer: dict[str, Any] = {"kind": "answer", "id": request.id}
        try:
            answer["value"] = await self._value(request)
        except OverLimit as error:
            self._settle(Excess(str(error), error.name))
            return
        except MillraceError as error:  # a refusal; anything else is a fault of ours, and ends the attempt
            answer["error"] = {"type": type(error).__name__, "message": error.detail}
        try:
            encoded = frames.encode(answer)
        except FrameError as error:  # a record that grew past the limit when numbers in it were written out
            self._settle(Excess(f"what it asked for {error}"))
            return
        with contextlib.suppress(ConnectionError):  # the child is gone; its exit gives the reason
            self._child.writer.write(encoded)
            await self._child.writer.drain()

    async def _value(self, request: ChildRequest) -> Any:
        if self._capabilities is None:
            raise PermissionDenied("this can be asked for by a run only, not while a file is imported to see what it defines")
        served = SERVED[type(request)]
        masked = await self._masked_request(request)
        value = await served.call(self._capabilities, masked)
        learned = tuple(served.secrets(value))
        if sum(map(len, learned)) < masking.LONG:
            self._masker.learn(*learned)
        else:
            await asyncio.to_thread(self._masker.learn, *learned)
        return value if masked is request or served.instead is None else served.instead(masked)

    async def _masked_request(self, request: ChildRequest) -> ChildRequest:
        changed: dict[str, msgspec.Raw] = {}
        for name in documents_of(type(request)):
            document: msgspec.Raw = getattr(request, name)
            masked = await self._masked_json(document)
            if masked is not document:
                changed[name] = masked
        return msgspec.structs.replace(request, **changed) if changed else request

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._requests.pop(task, None)
        self._failed(task)

    async def _finish_kept(self) -> None:
        """Finish the records that the child asked for before its end."""
        keeping = [task for task, is_kept in self._requests.items() if is_kept]
        if keeping:
            await asyncio.wait(keeping, timeout=GRACE)

    async def _pass_on(self) -> None:
        """Mask words and pass them on in the order of arrival, one at a time, so that a slow bus slows nothing but this."""
        while not (self._is_over and not self._words):
            await self._has_output.wait()
            self._has_output.clear()
            words, self._words = self._words, []
            for word in words:
                if self._capabilities is None:
                    continue
                if isinstance(word[0], frames.Log):
                    line, size = word
                    await self._capabilities.log(line.level, *await self._masking(size, self._masked_line, line))
                else:
                    name, text = word
                    if masked := await self._masking(len(text or ""), self._masked_text, name, text):
                        await self._capabilities.output(name, masked)

    async def _masking(self, characters: int, mask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of `mask`: at once where that is quick, else from a thread, so that only the caller waits."""
        if self._masker.effort(characters) <= _MOST_AT_ONCE:
            return mask(*args, **kwargs)
        return await asyncio.to_thread(mask, *args, **kwargs)

    def _masked_line(self, line: frames.Log) -> tuple[str, dict[str, Any]]:
        if not self._masker:
            return line.event, line.fields
        return self._masker.mask(line.event), self._masker.masked(line.fields)

    def _masked_text(self, name: Stream, text: str | None) -> str:
        return self._printed[name].end() if text is None else self._printed[name].feed(text)

    async def _heed(self, cancel: asyncio.Event) -> None:
        await cancel.wait()
        self._stop("cancelled")

    def _count(self, frame: frames.Log, size: int) -> None:
        before, self._logged = self._logged, self._logged + size
        if self._logged <= _MOST_LOGGED:
            self._words.append((frame, size))
        elif before <= _MOST_LOGGED:
            self._words.append((frames.Log("warning", "log.cut", {"kept_bytes": before}), 0))
        self._has_output.set()

    def _hear(self) -> None:
        self._words += self._child.output.take()
        self._has_output.set()

    async def _masked(self, last: Last) -> Last:
        """Mask the run's end. A description needs none: its bundle was given no secret."""
        if isinstance(last, frames.Result):
            return frames.Result(await self._masked_json(last.result))
        if isinstance(last, frames.Error):
            texts = (last.type, last.message, last.traceback)
            return frames.Error(*[await self._masking(len(text), self._masker.mask, text) for text in texts])
        return last

    async def _masked_json(self, document: msgspec.Raw) -> msgspec.Raw:
        if not self._masker:
            return document
        return await self._masking(len(bytes(document)), self._masker.masked_json, document)

    def _proxy(self, network: Network | None) -> Proxy | None:
        """Return the proxy of this run, if there is something to serve it on; None closes the child's way out."""
        listener = self._child.egress_listener
        if listener is None:
            return None
        if network is None:
            listener.close()
            return None

        def masked(record: Record) -> None:
            # A request may have changed the case of a host's letters.
            network.record(msgspec.structs.replace(record, host=self._masker.mask_any_case(record.host)))

        token = secrets.token_urlsafe(24) if is_shared(listener) else None
        # A proxy serves one run and closes its socket; a child that stays needs the socket for the next run.
        own = listener.dup() if self._may_stay else listener
        return Proxy(msgspec.structs.replace(network, record=masked), own, token)

    def _flood(self) -> None:
        self._settle(Excess(f"it printed more than {FATAL >> 20} MB"))

    def _starve(self) -> None:
        self._settle(Starved())

    def _stop(self, why: Stopped) -> None:
        if self._last.done() or self._stopped is not None:
            return
        self._stopped = why
        self._child.terminate()
        self._after(GRACE, self._give_up)

    def _hang_up(self) -> None:
        self._has_hung_up = True
        if self._child.exited.done():
            self._give_up()
        else:
            self._after(_LAST_WORDS, self._give_up)

    def _died(self, _exit: "asyncio.Future[ChildExit | None]") -> None:
        if self._has_hung_up:
            self._give_up()
        else:  # its last frames are still to be read
            self._after(_LAST_WORDS, self._give_up)

    def _give_up(self) -> None:
        self._settle(ChildGone(alive=not self._child.exited.done()))

    def _failed(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        self._fault = self._fault or task.exception()
        self._settle(ChildGone(alive=True))

    def _settle(self, last: Last) -> None:
        if not self._last.done():
            self._last.set_result(last)

    def _after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, call, *args))


async def _started(proxy: Proxy) -> str:
    try:
        return await proxy.start()
    except OSError as error:
        msg = f"the run's way to the network cannot be served: {error}"
        raise SandboxUnavailable(msg) from error
