"""/api/v1/audit/digests: what proves that the archive is untouched, and the archive's rows to hold against it.

The files of a digest are those of a transparency log in tiles (C2SP tlog-tiles), below `/api/v1/audit/digests/<stream>/`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Audit, Call, Example, Reply, endpoint
from shared.errors import Malformed, NotFound, Problem
from shared.questions.digests import (
    ArchivedRow,
    DigestList,
    ListDigests,
    ReadArchivedDocument,
    ReadArchivedRows,
    ReadDigestFile,
    RowKey,
)

PATH = "/api/v1/audit/digests"
STREAM = f"{PATH}/{{stream}}"
# The files of a tree and the rows are the platform's: they are of all organizations.
PLATFORM = "global"


class RowsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go on."""

    after: Annotated[
        str, msgspec.Meta(description="Incarnation, sequence and time of a row, with `/` between them: those after it.")
    ] = ""


@endpoint("GET", PATH, role="admin", platform=True)
async def list_digests(call: Call[None, None]) -> DigestList:
    """List the digest of each stream: its size, its root, the signed checkpoint, and the keys to verify it with."""
    return await call.ask(ListDigests(org=PLATFORM))


@endpoint(
    "GET",
    f"{STREAM}/rows",
    role="admin",
    platform=True,
    answers={200: Reply(ArchivedRow, media="application/x-ndjson")},
    errors=(Malformed, NotFound),
    audit=Audit("audit", "export", "stream"),
    example=Example(path={"stream": "AUDIT"}),
)
async def read_archived_rows(call: Call[RowsQuery, None]) -> web.StreamResponse:
    """Send every archived row of a stream as it stands, a line of JSON each, its whole `document` in base64."""
    stream, after = call.path["stream"], _after(call.query.after)
    page = await call.ask(ReadArchivedRows(org=PLATFORM, stream=stream, after=after))
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(call.request)
    while True:
        for row in page.items:
            key = RowKey(row.incarnation, row.seq, row.time)
            document = row.document
            while len(document) < row.size:
                part = await call.ask(ReadArchivedDocument(org=PLATFORM, stream=stream, of=key, start=len(document)))
                if not part.content:
                    break
                document += part.content
            await response.write(msgspec.json.encode(msgspec.structs.replace(row, document=document)) + b"\n")
        if not page.more:
            break
        page = await call.ask(ReadArchivedRows(org=PLATFORM, stream=stream, after=key))
    await response.write_eof()
    return response


@endpoint(
    "GET",
    f"{STREAM}/{{path:.+}}",
    role="admin",
    platform=True,
    answers={200: Reply(bytes, media="application/octet-stream")},
    errors=(NotFound,),
    example=Example(path={"stream": "AUDIT", "path": "checkpoint"}),
)
async def read_digest_file(call: Call[None, None]) -> web.Response:
    """Send a file of a digest: `checkpoint`, `tile/<level>/<number>`, `tile/entries/<number>`, or `salts/<number>`."""
    part = await call.ask(ReadDigestFile(org=PLATFORM, stream=call.path["stream"], path=call.path["path"]))
    if part.content is None:
        raise NotFound(f"the digest of {call.path['stream']} has no file {call.path['path']!r}")
    return web.Response(body=part.content, content_type="application/octet-stream")


def _after(text: str) -> RowKey | None:
    if not text:
        return None
    incarnation, _, rest = text.partition("/")
    seq, _, time = rest.partition("/")
    try:
        return msgspec.convert({"incarnation": incarnation, "seq": int(seq), "time": time}, RowKey)
    except ValueError as error:
        raise Malformed("after is incarnation/sequence/time of a row", errors=(Problem("after", "cannot be read"),)) from error


ENDPOINTS = (list_digests, read_archived_rows, read_digest_file)
