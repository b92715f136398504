"""/api/v1/runs/{id}/artifacts: the files that a run has left."""

from __future__ import annotations

import msgspec
from aiohttp import web

from services.gateway.api.content import CONTENT, IF_RANGE, RANGE, Content, sent
from services.gateway.api.endpoint import CACHED, Call, Example, endpoint
from services.gateway.api.files import path_of
from services.gateway.api.lists import Paged
from shared.errors import Malformed, NotFound, RangeNotSatisfiable
from shared.questions.files import GetFile, ListFiles
from shared.questions.runs import GetRun

ARTIFACTS = "/api/v1/runs/{id}/artifacts"


class ArtifactView(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a run; `path` is below the run's own folder."""

    path: str
    sha256: str
    size: int
    updated_at: str


class ArtifactList(msgspec.Struct, frozen=True):
    """A page of artifacts, by path."""

    items: list[ArtifactView]
    next_cursor: str | None


@endpoint("GET", ARTIFACTS, role="viewer", errors=(NotFound, Malformed))
async def list_artifacts(call: Call[Paged, None]) -> ArtifactList:
    """List the files that a run has left, by path."""
    folder = _folder(call.path["id"])
    await call.ask(GetRun(org=call.caller.org, id=call.path["id"]))
    page = await call.ask(ListFiles(org=call.caller.org, prefix=folder, page=call.query.page))
    items = [
        ArtifactView(path=one.path.removeprefix(folder), sha256=one.sha256, size=one.size, updated_at=one.updated_at)
        for one in page.items
    ]
    return ArtifactList(items, page.next_cursor)


@endpoint(
    "GET",
    ARTIFACTS + r"/{path:[\s\S]+}",
    role="viewer",
    answers=CONTENT,
    headers=(CACHED, RANGE, IF_RANGE),
    errors=(NotFound, RangeNotSatisfiable),
    example=Example(path={"path": "report.txt"}),
)
async def get_artifact(call: Call[None, None]) -> web.StreamResponse:
    """Send a file that a run has left, or one range of it."""
    view = await call.ask(GetFile(org=call.caller.org, path=_folder(call.path["id"]) + path_of(call)))
    return await sent(call.request, Content(view.sha256, view.size), call.gateway.workspace)


def _folder(run: str) -> str:
    return f"artifacts/{run}/"


ENDPOINTS = (list_artifacts, get_artifact)
