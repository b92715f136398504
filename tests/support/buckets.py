"""An object store that speaks as much of S3 as uploads, ranges, lists and uploads in parts take."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from xml.sax.saxutils import escape, unescape

from aiohttp import web

_WRITTEN = "Thu, 01 Jan 2026 00:00:00 GMT"


class Buckets:
    """The objects by path, `/bucket/name`; after `fail_after` requests that write, if it is set, no more are taken."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.asked: Counter[str] = Counter()
        self.largest = 0
        self.fail_after: int | None = None

    @property
    def application(self) -> web.Application:
        """The application to be served."""
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self.answer)
        return application

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked[request.method] += 1
        body = await request.read()
        self.largest = max(self.largest, len(body))
        if request.method == "PUT" and self.fail_after is not None and self.asked["PUT"] > self.fail_after:
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        query = request.query
        match request.method:
            case "POST" if "uploads" in query:
                self.parts[request.path] = {}
                return _xml("InitiateMultipartUploadResult", "<UploadId>u</UploadId>")
            case "POST" if "delete" in query:
                for name in re.findall("<Key>(.*?)</Key>", body.decode()):
                    del self.objects[f"{request.path.rstrip('/')}/{unescape(name)}"]
                return _xml("DeleteResult", "")
            case "POST":
                parts = self.parts.pop(request.path)
                self.objects[request.path] = b"".join(parts[number] for number in sorted(parts))
                return _xml("CompleteMultipartUploadResult", f"<ETag>{_tag(self.objects[request.path])}</ETag>")
            case "PUT":
                if "partNumber" in query:
                    self.parts[request.path][int(query["partNumber"])] = body
                else:
                    self.objects[request.path] = body
                return web.Response(headers={"ETag": _tag(body)})
            case "GET" if "list-type" in query:
                return self._list(request.path.strip("/"), query.get("prefix", ""))
        return self._read(request)

    def _list(self, bucket: str, prefix: str) -> web.Response:
        found = ""
        for path, content in sorted(self.objects.items()):
            if path.startswith(f"/{bucket}/{prefix}"):
                key = escape(path.removeprefix(f"/{bucket}/"))
                found += f"<Contents><Key>{key}</Key><Size>{len(content)}</Size><ETag>{_tag(content)}</ETag>"
                found += "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        return _xml("ListBucketResult", f"<IsTruncated>false</IsTruncated>{found}")

    def _read(self, request: web.Request) -> web.Response:
        content = self.objects.get(request.path)
        if content is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        headers = {"ETag": _tag(content), "Last-Modified": _WRITTEN}
        if (wanted := request.http_range).start is None:
            return web.Response(body=content, headers=headers)
        part = content[wanted]
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.start + len(part) - 1}/{len(content)}"
        return web.Response(status=206, body=part, headers=headers)


def _xml(name: str, content: str) -> web.Response:
    return web.Response(text=f"<{name}>{content}</{name}>", content_type="application/xml")


def _tag(content: bytes) -> str:
    # As S3 has it.
    return f'"{hashlib.md5(content).hexdigest()}"'
