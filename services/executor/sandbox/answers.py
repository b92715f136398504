"""Answers the requests of one attempt from the run's capabilities, and masks the secrets in them that the run was given."""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import msgspec

from services.executor.sandbox import frames, masking
from services.executor.sandbox.control import ControlSocket
from services.executor.sandbox.errors import FrameError, OverLimit
from services.executor.sandbox.interface import Capabilities
from services.executor.sandbox.masked import masked_document
from services.executor.sandbox.masking import Masker
from services.executor.sandbox.requests import SERVED, ChildRequest, documents_of
from shared.errors import MillraceError, PermissionDenied

MOST = 32
"""Requests of one child that are served at a time; the socket is not read while there are more."""


class Answers:
    """The requests that are being answered. Its creator must `drop` them.

    Without capabilities each is refused. `exceed` is called with the message and type of a limit that a request exceeds; `fail`
    with an error of a capability that is no refusal.
    """

    def __init__(
        self,
        control: ControlSocket,
        capabilities: Capabilities | None,
        masker: Masker,
        exceed: Callable[[str, str], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._control = control
        self._capabilities = capabilities
        self._masker = masker
        self._exceed = exceed
        self._fail = fail
        self._tasks: dict[asyncio.Task[None], bool] = {}
        self._context = contextvars.copy_context()

    @property
    def are_many(self) -> bool:
        """Whether the next request has to wait for `room`."""
        return len(self._tasks) >= MOST

    async def room(self) -> None:
        """Return when another request may be served."""
        while self.are_many:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def serve(self, request: ChildRequest) -> None:
        """Begin to answer a request."""
        # Frames come in the context of whoever made the child; questions are asked in that of the attempt.
        task = asyncio.create_task(self._answer(request), context=self._context.copy())
        self._tasks[task] = SERVED[type(request)].is_kept
        task.add_done_callback(self._answered)

    async def finish_kept(self, seconds: float) -> None:
        """Finish the records that the child asked for before its end, for so long at most."""
        keeping = [task for task, is_kept in self._tasks.items() if is_kept]
        if keeping:
            await asyncio.wait(keeping, timeout=seconds)

    async def drop(self) -> None:
        """Answer nothing any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: ChildRequest) -> None:
        answer: dict[str, Any] = {"kind": "answer", "id": request.id}
        try:
            answer["value"] = await self._value(request)
        except OverLimit as error:
            self._exceed(str(error), error.name)
            return
        except MillraceError as error:  # a refusal; any other error is a fault of ours, and ends the attempt
            answer["error"] = {"type": type(error).__name__, "message": error.detail}
        try:
            encoded = frames.encode(answer)
        except FrameError as error:  # a record that grew past the limit when numbers in it were written out
            self._exceed(f"what it asked for {error}", "OutputLimit")
            return
        self._control.write(encoded)
        await self._control.drained()

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
            masked = await masked_document(self._masker, document)
            if masked is not document:
                changed[name] = masked
        return msgspec.structs.replace(request, **changed) if changed else request

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
