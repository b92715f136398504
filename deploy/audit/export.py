"""An export as `millrace audit export` writes it: of each stream, in a folder of its name, its digest and its rows."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from deploy.errors import StartError
from services.logs.digests.copies import Diverged, narrowed
from services.logs.digests.entries import salts_name
from services.logs.digests.tree import WIDTH, Tile
from shared.questions.digests import ArchivedRow, DigestList

ROWS = "rows.ndjson.gz"
LIST = "digests.json"


class DigestFiles:
    """The files of digests in a folder: an export's, or a copy's, which may grow while it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, stream: str, name: str) -> bytes | None:
        """Return a file of a stream's digest; None where there is none."""
        try:
            return (self._folder / stream.lower() / name).read_bytes()
        except OSError:
            return None

    def tile(self, stream: str, tile: Tile) -> bytes | None:
        """Return a tile, or a bundle of entries, of a wider one the part; None where there is none."""
        content = self.read(stream, tile.path)
        if content is not None or tile.width == WIDTH:
            return content
        # The tree has grown since its checkpoint was read: what is wider was written before the partial one was removed.
        wider = sorted(
            (int(one.name) for one in (self._folder / stream.lower() / f"{tile.name}.p").glob("*") if one.name.isdecimal()),
            reverse=True,
        )
        for name in (tile.name, *(f"{tile.name}.p/{width}" for width in wider if width > tile.width)):
            content = self.read(stream, name)
            if content is not None:
                try:
                    return narrowed(tile, content)
                except Diverged:
                    return None
        return None

    def salts(self, stream: str, bundle: int) -> bytes | None:
        """Return the salts of a bundle; None where there are none."""
        return self.read(stream, salts_name(bundle))


class Export(DigestFiles):
    """A folder with an export: `time` is when it was begun, if it says so; `every`, in seconds, how often digests were sealed."""

    def __init__(self, folder: Path) -> None:
        """Raises `StartError` where there is none."""
        super().__init__(folder)
        try:
            listed = msgspec.json.decode((folder / LIST).read_bytes(), type=DigestList)
        except OSError as error:
            raise StartError(f"{folder} holds no export: {LIST} cannot be read ({error.strerror}).") from error
        except msgspec.MsgspecError as error:
            raise StartError(f"{folder / LIST} is damaged: {error}.") from error
        self.streams = [one.stream for one in listed.items if (folder / one.stream.lower()).is_dir()]
        self.time = listed.time
        self.every = listed.every
        self.keys = [key for one in listed.items for key in one.keys]

    def rows(self, stream: str) -> Iterator[ArchivedRow]:
        """Return the rows by incarnation, sequence and time. Raises `StartError` where the file is damaged or ends early."""
        path = self._folder / stream.lower() / ROWS
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ArchivedRow)
        number = 0
        try:
            with gzip.open(path) as lines:
                for line in lines:
                    number += 1
                    yield decoder.decode(line)
        except (OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
            raise StartError(f"{path} is damaged after line {number}: {error}; export it again.") from error
