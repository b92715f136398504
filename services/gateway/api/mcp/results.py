"""Results of tools: what was returned, or what failed."""

from __future__ import annotations

from typing import Any

import msgspec

from services.gateway.api.mcp.protocol import RpcRequest
from shared.errors import MillraceError
from shared.questions.runs import RunView
from shared.runs import ENDED

# In `_meta` of a result: the run.
RUN = "millrace/run"


def text(said: str) -> dict[str, Any]:
    """Return text as a part of a result."""
    return {"type": "text", "text": said}


def structured(found: Any) -> dict[str, Any]:
    """Return a struct as a result: as JSON in text, and as itself."""
    encoded = msgspec.json.encode(found)
    return {"content": [text(encoded.decode())], "structuredContent": msgspec.Raw(encoded)}


def failed(error: MillraceError | str) -> dict[str, Any]:
    """Return a result that says what has failed, and where."""
    if isinstance(error, str):
        return {"content": [text(error)], "isError": True}
    said = [error.detail, *(f"{one.path}: {one.message}" for one in error.errors)]
    return {"content": [text("\n".join(said))], "isError": True}


def result_of(request: RpcRequest, run: str, view: RunView | None) -> dict[str, Any]:
    """Return a run as the result of a tool: what the workflow returned, how it failed, or that it goes on."""
    about = {"_meta": {RUN: run}}
    link = {"type": "resource_link", "uri": f"millrace://runs/{run}", "name": f"run {run}", "mimeType": "application/json"}
    if view is None or view.status not in ENDED:
        status = "asked for" if view is None else view.status
        return {"content": [text(f"The run {run} is {status}, and goes on."), link]} | about
    if view.status != "succeeded":
        how = view.status if view.error is None else f"{view.error.type}: {view.error.message}"
        return failed(f"The run {run} {view.status.replace('_', ' ')}: {how}") | about
    if view.result_ref is not None:
        return {"content": [text(f"The result has {view.result_bytes} bytes, too many for an answer."), link]} | about
    result = view.result
    shown = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    # Before, a structure was an object alone.
    structure = {"structuredContent": result} if isinstance(result, dict) or (request.is_modern and result is not None) else {}
    return {"content": [text(shown)]} | structure | about
