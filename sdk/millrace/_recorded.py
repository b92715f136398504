"""A request that was recorded in a file, as HTTP/1.1 has it."""

import re
from dataclasses import dataclass

_LINE = re.compile(r"([A-Z]{1,20}) (\S+)(?: HTTP/[0-9.]+)?")


@dataclass(frozen=True)
class Recorded:
    """A request: `target` is its path and query as they were sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def parsed(recorded: bytes) -> Recorded:
    """Return a recorded request: a request line, headers, an empty line, and the body as it came.

    Where Content-Length says how long the body is, blank lines behind it are no part of it: editors add one. Raises ValueError
    with a sentence that names what is wrong.
    """
    head, body = _parted(recorded)
    lines = head.decode("utf-8", "replace").splitlines()
    first = _LINE.fullmatch(lines[0].strip()) if lines else None
    if first is None:
        msg = "The first line is a method and an address, such as POST /hooks/id HTTP/1.1."
        raise ValueError(msg)
    headers: list[tuple[str, str]] = []
    for number, line in enumerate(lines[1:], 2):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            msg = f"Line {number} is no header: it has no colon."
            raise ValueError(msg)
        headers.append((name.strip(), value.strip()))
    named = {name.lower(): value for name, value in headers}
    if "chunked" in named.get("transfer-encoding", "").lower():
        msg = "A chunked body is not read: record it as one, without Transfer-Encoding."
        raise ValueError(msg)
    length = named.get("content-length", "")
    if length.isdigit() and not body[int(length) :].strip():
        body = body[: int(length)]
    return Recorded(first[1], first[2], tuple(headers), body)


def _parted(recorded: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body, at the first empty line, whichever line ends the file has."""
    found = re.search(rb"\r?\n\r?\n", recorded)
    return (recorded, b"") if found is None else (recorded[: found.start()], recorded[found.end() :])
