"""Fetches one file from a package index into the working folder. Nothing of it is looked at: the supervisor compares its hash."""

import base64
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

_CHUNK = 1 << 20


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to other hosts and schemes without the credentials of the first; which hosts there are is up to the proxy."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            found.remove_header("Authorization")
        return found


def fetched(job: dict[str, Any]) -> dict[str, Any]:
    """Write the content of `url` to the file `wheel`; answer its size, or the reason why there is none."""
    request = urllib.request.Request(job["url"], headers={"User-Agent": "millrace"})  # noqa: S310 - which schemes: below
    if urlsplit(job["url"]).scheme not in ("https", "http", "file"):
        return {"problem": f"{job['shown']} has an address of a kind that is not fetched"}
    if job["credentials"] is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(job["credentials"].encode()).decode())
    context = ssl.create_default_context(cafile=job["certificates"])
    opener = urllib.request.build_opener(_Redirects(), urllib.request.HTTPSHandler(context=context))
    size = 0
    try:
        with opener.open(request, timeout=job["patience"]) as answer, open("wheel", "wb") as file:
            while part := answer.read(_CHUNK):
                size += len(part)
                if size > job["most_bytes"]:
                    return {"problem": f"{job['shown']} has more than {job['most_bytes']} bytes"}
                file.write(part)
    except urllib.error.HTTPError as error:
        return {"problem": f"{job['shown']} was not had: the index answered {error.code}"}
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return {"problem": f"{job['shown']} was not had: {reason}"[:1000]}
    return {"problem": None, "bytes": size}
