"""A tar on its way, member by member: nothing of it is kept but the part that is read (POSIX.1-2001 pax, GNU long names)."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass

from shared.errors import Malformed

BLOCK = tarfile.BLOCKSIZE
# Of the header before a member: its name, mostly.
LONGEST_HEADER = 64 * 1024
# An empty file of this name beside another removes that one, as in a layer of a container image (OCI image-spec, "Whiteouts").
REMOVED = ".wh."
EXPECTED = "MILLRACE.expected"
# Records of a file whose holes are left out (GNU tar manual, "Storing Sparse Files").
SPARSE = "GNU.sparse."


@dataclass(frozen=True)
class ArchiveEntry:
    """A file: `content` has `size` bytes and is to be read before the next entry; None removes the file.

    `expected` is the SHA-256 that must be there, "" for none.
    """

    path: str
    content: AsyncIterator[bytes] | None
    size: int
    expected: str | None


async def unpacked(parts: AsyncIterator[bytes]) -> AsyncIterator[ArchiveEntry]:
    """Yield the files of a tar; folders are passed over. Raises `Malformed` for other members, and for bytes that are no tar."""
    body = _Body(parts)
    fields: dict[str, str] = {}
    while (info := _header(await body.exactly(BLOCK))) is not None:
        if info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE}:
            header = await body.padded(info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                fields["path"] = _text(header.rstrip(b"\0"))
            elif info.type != tarfile.XGLTYPE:
                # One stands before a member: several are not merged.
                fields = _records(header)
            continue
        name = fields.get("path", info.name).removeprefix("./")
        is_sparse = info.type == tarfile.GNUTYPE_SPARSE or any(one.startswith(SPARSE) for one in fields)
        expected, fields = fields.get(EXPECTED), {}
        if info.isdir():
            continue
        if is_sparse:
            raise Malformed(f"the tar has {name[:120]!r} without its holes: make it without --sparse")
        if not info.isreg():
            raise Malformed(f"the tar has {name[:120]!r}, which is no file")
        folder, _, last = name.rpartition("/")
        if last.startswith(REMOVED):
            await body.padded(info.size)
            yield ArchiveEntry(f"{folder}/{last.removeprefix(REMOVED)}".removeprefix("/"), None, 0, expected)
            continue
        content = body.content(info.size)
        yield ArchiveEntry(name, content, info.size, expected)
        async for _ in content:
            pass  # the unread rest of it
        await body.exactly(-info.size % BLOCK)
    await body.drain()


class _Body:
    """The bytes of a tar, as many at a time as are asked for."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self._kept = b""

    async def content(self, size: int) -> AsyncIterator[bytes]:
        while size:
            if not self._kept:
                self._kept = await anext(self._parts, b"")
            if not self._kept:
                raise Malformed("the tar ends in the middle")
            part, self._kept = self._kept[:size], self._kept[size:]
            size -= len(part)
            yield part

    async def exactly(self, size: int) -> bytes:
        return b"".join([part async for part in self.content(size)])

    async def padded(self, size: int) -> bytes:
        if size > LONGEST_HEADER:
            raise Malformed(f"the tar has a header of {size} bytes; at most {LONGEST_HEADER} are read")
        return (await self.exactly(size + -size % BLOCK))[:size]

    async def drain(self) -> None:
        """Read the padding of the last record after the end."""
        while await anext(self._parts, b""):
            pass


def _header(block: bytes) -> tarfile.TarInfo | None:
    """Return a parsed header; None for the end of the tar."""
    if not any(block):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
        raise Malformed(f"the body is no tar: {error}") from error
    if info.size < 0:
        raise Malformed("the tar has a member of no size")
    return info


def _records(header: bytes) -> dict[str, str]:
    """Return the records of an extended header, each `length keyword=value` and a line feed."""
    found: dict[str, str] = {}
    while header:
        length, blank, _ = header.partition(b" ")
        if not blank or not length.isdigit() or len(length) > 6 or not len(length) + 1 < int(length) <= len(header):
            raise Malformed("the tar has an extended header that cannot be read")
        keyword, _, value = header[len(length) + 1 : int(length) - 1].partition(b"=")
        found[_text(keyword)] = _text(value)
        header = header[int(length) :]
    return found


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed("the tar has a name that is no UTF-8") from error
