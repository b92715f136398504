"""The conversation with one child, from the job to its end."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from services.executor.sandbox import frames
from services.executor.sandbox.answers import Answers
from services.executor.sandbox.egress.network import Network, Record
from services.executor.sandbox.egress.proxy import Proxy, is_shared
from services.executor.sandbox.ends import AttemptEnd, Broken, ChildGone, Excess, Last, Starved, Stopped
from services.executor.sandbox.errors import FrameError, SandboxUnavailable
from services.executor.sandbox.incoming import Incoming, TooMuch
from services.executor.sandbox.interface import LARGEST_RESULT, Cancellation, Capabilities, KeptResult
from services.executor.sandbox.masked import MaskedOutput, masked_document, unhurried
from services.executor.sandbox.masking import Masker
from services.executor.sandbox.output import FATAL
from services.executor.sandbox.process import Child, ChildExit
from services.executor.sandbox.ration import Ration
from services.executor.sandbox.requests import ChildRequest

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL: enough to close a connection, too little to go on working."""

_EXIT_WITHIN = 1.0
"""Seconds that a child with a closed socket has to exit, so that its exit code is known."""
_MOST_RECEIVED = 256 << 20
"""Bytes of frames of one attempt: decoding them is the supervisor's time."""


class Attempt:
    """Serves one child until it ends. `ended` is called once.

    Without capabilities the child's output is dropped and its requests are refused.
    """

    def __init__(
        self, child: Child, capabilities: Capabilities | None, *, network: Network | None = None, may_stay: bool = False
    ) -> None:
        """`network` is the way out of a child without capabilities."""
        self._child = child
        self._may_stay = may_stay
        self.stays = False
        """Whether the child lives on after the attempt, if it may: it has answered in time, and nothing is left to wait for."""
        self._capabilities = capabilities
        self._network = network if capabilities is None else capabilities.network
        self._loop = asyncio.get_running_loop()
        self._last: asyncio.Future[Last] = self._loop.create_future()
        self._stopped: Stopped | None = None
        self._fault: BaseException | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._pause: asyncio.TimerHandle | None = None
        # A child that stays may print secrets of earlier runs.
        self._masker = child.masker = child.masker or Masker()
        self._output = MaskedOutput(capabilities, self._masker, self._fail)
        self._answers = Answers(child.control, capabilities, self._masker, self._exceed, self._fail)
        self._ration = Ration()
        self._received = 0
        self._handling: asyncio.Task[None] | None = None
        """The handling of a frame that takes time; no other frame is read meanwhile."""
        self._incoming: Incoming | None = None
        self._importing: str | None = None
        self._has_hung_up = False

    async def ended(self, opening: bytes, seconds: float, cancel: Cancellation | None) -> AttemptEnd:
        """Hand the job over, serve the child's requests, and return once the end is known and its output is recorded.

        Raises the errors of capabilities, and `SandboxUnavailable` where the death of what forked the child took it along. On any
        exit the child's process has been killed, unless it `stays`; `Child.end` waits until nothing is left of it.
        """
        child = self._child
        child.output.on_text = self._take_printed
        child.output.on_flood = self._flood
        child.on_starved = self._starve
        proxy = self._proxy(self._network)
        try:
            if proxy is not None and (address := _started(proxy)) != child.proxy:
                child.proxy = address
                opening = frames.encode({"kind": "network", "proxy": address}) + opening
            if self._capabilities is not None:
                await self._capabilities.begin()
            began = time.monotonic()
            child.begin(opening)
            child.exited.add_done_callback(self._died)
            child.control.listen(self._receive, self._hang_up)
            if cancel is not None:
                cancel.add_callback(self._cancel)
            self._after(seconds, self._stop, "timed_out")
            last = await self._last
            ended = await self._ended(last, time.monotonic() - began)
        except BaseException:
            self.stays = False
            raise
        finally:
            if not self.stays:
                child.kill()
            child.exited.remove_done_callback(self._died)
            child.control.mute()
            if cancel is not None:
                cancel.remove_callback(self._cancel)
            for timer in self._timers:
                timer.cancel()
            if self._pause is not None:
                self._pause.cancel()
            await self._drop()
            if proxy is not None:
                await proxy.close()
        return ended

    async def _ended(self, last: Last, duration: float) -> AttemptEnd:
        child = self._child
        await self._answers.finish_kept(GRACE)
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
        await self._output.finish()
        if self._fault is not None:
            raise self._fault
        if exit_ is None:
            msg = f"the {child.parent} died, and the child with it"
            raise SandboxUnavailable(msg)
        return AttemptEnd(await self._masked(last), self._stopped, exit_, duration, is_full, self._importing)

    async def _drop(self) -> None:
        """Let go of all that is still going on for the child."""
        await self._output.drop()
        await self._answers.drop()
        if self._handling is not None:
            self._handling.cancel()
            await asyncio.gather(self._handling, return_exceptions=True)
        if self._incoming is not None:
            await self._incoming.drop()

    def _receive(self, frame: frames.Frame, size: int) -> None:
        self._received += size
        if self._received > _MOST_RECEIVED:
            self._settle(Excess(f"it sent more than {_MOST_RECEIVED >> 20} MB to the platform"))
        elif isinstance(frame, frames.Terminal):
            self._settle(frame)
        elif isinstance(frame, frames.Log):
            self._output.line(frame, size)
            self._spend(size)
        elif isinstance(frame, frames.SpanFrame):
            self._output.span(frame, size)
            self._spend(size)
        elif isinstance(frame, frames.Importing):
            self._importing = frame.path
            self._spend(size)
        elif isinstance(frame, frames.ResultPart | frames.ResultEnd):
            self._handle_later(frame, size)
        elif isinstance(frame, frames.Ready | frames.Placed | frames.Again):
            self._settle(Broken("it said that it is ready while it had a job"))
        elif self._answers.are_many:
            self._handle_later(frame, size)
        else:
            self._answers.serve(frame)
            self._spend(size)

    def _spend(self, size: int) -> None:
        """Read no more for a moment, where the child has used its share of the supervisor's time."""
        pause = self._ration.spend(size)
        if pause is not None:
            self._child.control.pause()
            self._pause = self._loop.call_later(pause, self._child.control.resume)

    def _handle_later(self, frame: frames.ResultPart | frames.ResultEnd | ChildRequest, size: int) -> None:
        self._child.control.pause()
        self._handling = asyncio.create_task(self._handle(frame, size))

    async def _handle(self, frame: frames.ResultPart | frames.ResultEnd | ChildRequest, size: int) -> None:
        try:
            if isinstance(frame, frames.ResultPart | frames.ResultEnd):
                await self._take_part(frame)
            else:
                await self._answers.room()
                self._answers.serve(frame)
        except Exception as error:
            self._hang_up(error)
        else:
            self._pause = self._loop.call_later(self._ration.spend(size) or 0.0, self._child.control.resume)

    async def _take_part(self, frame: frames.ResultPart | frames.ResultEnd) -> None:
        """Take a part of a large result, or its end."""
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
            self._ration.charge(await self._incoming.take(frame.text))
        else:
            self._settle(await self._incoming.end(frame.bytes))

    def _take_printed(self) -> None:
        self._output.print(self._child.output.take())

    async def _masked(self, last: Last) -> Last:
        """Mask the run's end. A description needs none: its bundle was given no secret."""
        if not self._masker:
            return last
        if isinstance(last, frames.Result):
            return frames.Result(await masked_document(self._masker, last.result))
        if isinstance(last, frames.Error):
            texts = (last.type, last.message, last.traceback)
            return frames.Error(*[await unhurried(self._masker, len(text), self._masker.mask, text) for text in texts])
        return last

    def _proxy(self, network: Network | None) -> Proxy | None:
        """Return the proxy of this run, if there is something to serve it on.

        Without a network the child's way out is closed, but that of one that is to have runs, which will have one.
        """
        listener = self._child.egress_listener
        if listener is None:
            return None
        if network is None:
            if not self._may_stay:
                listener.close()
            return None

        def masked(record: Record) -> None:
            # A request may have changed the case of a host's letters.
            network.record(msgspec.structs.replace(record, host=self._masker.mask_any_case(record.host)))

        token = secrets.token_urlsafe(24) if is_shared(listener) else None
        return Proxy(msgspec.structs.replace(network, record=masked), listener, token, keep_listener=self._may_stay)

    def _flood(self) -> None:
        self._settle(Excess(f"it printed more than {FATAL >> 20} MB"))

    def _starve(self) -> None:
        self._settle(Starved())

    def _exceed(self, message: str, kind: str) -> None:
        self._settle(Excess(message, kind))

    def _fail(self, error: BaseException) -> None:
        self._fault = self._fault or error
        self._settle(ChildGone(alive=True))

    def _cancel(self) -> None:
        self._stop("cancelled")

    def _stop(self, why: Stopped) -> None:
        if self._last.done() or self._stopped is not None:
            return
        self._stopped = why
        self._child.terminate()
        self._after(GRACE, self._give_up)

    def _hang_up(self, error: Exception | None) -> None:
        """Record that no more frames will come."""
        if isinstance(error, FrameError):
            self._settle(Broken(str(error)))
        elif isinstance(error, TooMuch):
            self._settle(Excess(str(error), "ResultTooLarge"))
        elif error is not None:
            self._fail(error)
        elif self._child.exited.done():
            self._give_up()
        else:
            self._has_hung_up = True
            self._after(_EXIT_WITHIN, self._give_up)

    def _died(self, _exit: "asyncio.Future[ChildExit | None]") -> None:
        if self._has_hung_up:
            self._give_up()
        else:  # its last frames are still to be read
            self._after(_EXIT_WITHIN, self._give_up)

    def _give_up(self) -> None:
        self._settle(ChildGone(alive=not self._child.exited.done()))

    def _settle(self, last: Last) -> None:
        if not self._last.done():
            self._last.set_result(last)
            self._child.control.mute()

    def _after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self._timers.append(self._loop.call_later(seconds, call, *args))


def _started(proxy: Proxy) -> str:
    try:
        return proxy.start()
    except OSError as error:
        msg = f"the run's way to the network cannot be served: {error}"
        raise SandboxUnavailable(msg) from error
