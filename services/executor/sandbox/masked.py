"""Masks the output of one attempt, its lines and its printed text, and passes it on in the order of arrival."""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import msgspec

from services.executor.sandbox import frames, masking
from services.executor.sandbox.interface import Capabilities, Stream, ToldSpan
from services.executor.sandbox.masking import Masker

_MOST_LOGGED = 4 << 20
_MOST_AT_ONCE = 1 << 20
"""Characters that are looked through for secrets in the event loop, once for each form of each; for more there is a thread."""

P = ParamSpec("P")
T = TypeVar("T")


async def unhurried(masker: Masker, characters: int, mask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of `mask`: at once where that is quick, else from a thread, so that only the caller waits."""
    if masker.effort(characters) <= _MOST_AT_ONCE:
        return mask(*args, **kwargs)
    return await asyncio.to_thread(mask, *args, **kwargs)


async def masked_document(masker: Masker, document: msgspec.Raw) -> msgspec.Raw:
    """Return a JSON document masked; the very same where there is nothing to mask."""
    if not masker:
        return document
    return await unhurried(masker, len(bytes(document)), masker.masked_json, document)


class MaskedOutput:
    """Passes output on one piece at a time, so that a slow bus slows nothing but this. Its creator must `drop` it.

    Without capabilities all is dropped. `fail` is called with an error of a capability; then no more is passed on.
    """

    def __init__(self, capabilities: Capabilities | None, masker: Masker, fail: Callable[[BaseException], None]) -> None:
        self._capabilities = capabilities
        self._masker = masker
        self._fail = fail
        self._waiting: list[tuple[frames.Log | frames.SpanFrame, int] | tuple[Stream, str | None]] = []
        """Lines with their size, and printed text; None is its end."""
        self._printed: dict[Stream, masking.MaskedStream] = {
            "stdout": masking.MaskedStream(masker),
            "stderr": masking.MaskedStream(masker),
        }
        self._logged = 0
        self._passing: asyncio.Task[None] | None = None

    def line(self, line: frames.Log, size: int) -> None:
        """Take a line that came in a frame of so many bytes."""
        before, self._logged = self._logged, self._logged + size
        if self._logged <= _MOST_LOGGED:
            self._take((line, size))
        elif before <= _MOST_LOGGED:
            self._take((frames.Log("warning", "log.cut", {"kept_bytes": before}), 0))

    def span(self, span: frames.SpanFrame, size: int) -> None:
        """Take a span that came in a frame of so many bytes."""
        self._logged += size
        if self._logged <= _MOST_LOGGED:
            self._take((span, size))

    def print(self, printed: list[tuple[Stream, str]]) -> None:
        """Take what was printed."""
        for one in printed:
            self._take(one)

    async def finish(self) -> None:
        """Pass the rest on. Later output is dropped."""
        if self._masker:
            self._waiting += [(name, None) for name in self._printed]
        if self._passing is not None:
            await self._passing
        await self._pass_on()
        self._capabilities = None

    async def drop(self) -> None:
        """Drop the output that is not passed on yet."""
        self._capabilities = None
        if self._passing is not None:
            self._passing.cancel()
            await asyncio.gather(self._passing, return_exceptions=True)

    def _take(self, piece: tuple[frames.Log | frames.SpanFrame, int] | tuple[Stream, str | None]) -> None:
        if self._capabilities is None:
            return
        self._waiting.append(piece)
        if self._passing is None:
            self._passing = asyncio.create_task(self._pass())

    async def _pass(self) -> None:
        try:
            await self._pass_on()
        except Exception as error:
            self._capabilities = None
            self._fail(error)
        finally:
            self._passing = None

    async def _pass_on(self) -> None:
        while self._capabilities is not None and self._waiting:
            pieces, self._waiting = self._waiting, []
            for piece in pieces:
                if not isinstance(piece[0], str):
                    await self._tell(piece[0], piece[1], self._capabilities)
                else:
                    name, text = piece
                    if masked := await unhurried(self._masker, len(text or ""), self._masked_text, name, text):
                        await self._capabilities.output(name, masked)

    async def _tell(self, told: frames.Log | frames.SpanFrame, size: int, capabilities: Capabilities) -> None:
        if isinstance(told, frames.Log):
            await capabilities.log(told.level, *await unhurried(self._masker, size, self._masked_line, told))
        else:
            await capabilities.span(await unhurried(self._masker, size, self._masked_span, told.span))

    def _masked_line(self, line: frames.Log) -> tuple[str, dict[str, Any]]:
        if not self._masker:
            return line.event, line.fields
        return self._masker.mask(line.event), self._masker.masked(line.fields)

    def _masked_span(self, span: ToldSpan) -> ToldSpan:
        if not self._masker:
            return span
        error = None if span.error is None else self._masker.mask(span.error)
        attributes = self._masker.masked(span.attributes)
        return msgspec.structs.replace(span, name=self._masker.mask(span.name), attributes=attributes, error=error)

    def _masked_text(self, name: Stream, text: str | None) -> str:
        return self._printed[name].end() if text is None else self._printed[name].feed(text)
