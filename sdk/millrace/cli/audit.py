"""`audit`: who did what to what, and the proof that the archive is untouched."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from millrace.cli import codes, erasing, search, show, stack
from millrace.cli.api import Refused, Unreachable
from millrace.cli.session import Session, asks

PATH = ("/audit", "digests")
# Entries in a bundle, and hashes in a tile (C2SP tlog-tiles).
WIDTH = 256
# Times that a list of rows that broke off is taken up again.
TRIES = 5


class _Searching(click.Group):
    """A group that searches where no other command of it is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, "--help", "-h"}:
            args = ["search", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Searching)
def audit() -> None:
    """Search who did what to what, with what outcome; prove that the archive is untouched.

    `millrace audit QUERY` is `millrace audit search QUERY`.
    """


audit.add_command(search.AUDIT)
audit.add_command(erasing.erase)


@audit.command("digests")
@asks
def list_digests(session: Session) -> int:
    """List the digest of each stream: its size, its root, and what keeps it from growing."""
    found = session.api.get(*PATH)
    columns = [show.field("stream"), show.field("size"), show.field("root"), show.field("problem")]
    show.listing({**found, "next_cursor": None}, columns, is_json=session.is_json)
    return codes.REFUSED if any(one["problem"] for one in found["items"]) else codes.DONE


@audit.command("key")
@asks
def show_keys(session: Session) -> int:
    """Print the public keys that sign the digests, one a line: keep them where nobody can change them."""
    for key in _keys(session.api.get(*PATH)["items"]):
        click.echo(key)
    return codes.DONE


@audit.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--stream", "streams", multiple=True, help="Only this stream, as AUDIT; repeatable.")
@asks
def export_archive(session: Session, folder: Path, streams: tuple[str, ...]) -> int:
    """Write the digests, and the archive's rows that they speak of, to FOLDER, for `millrace audit verify`.

    It may be stopped and begun anew at any time: what the folder has of a digest is not fetched again.
    """
    found = session.api.get(*PATH)
    known = [one["stream"] for one in found["items"]]
    if unknown := set(streams) - set(known):
        raise click.UsageError(f"there is no stream {', '.join(sorted(unknown))}: there are {', '.join(known)}.")
    folder.mkdir(parents=True, exist_ok=True)
    for one in found["items"]:
        if not streams or one["stream"] in streams:
            place = folder / one["stream"].lower()
            place.mkdir(exist_ok=True)
            fetched = _fetch_digest(session, one, place)
            rows = _fetch_rows(session, one["stream"], place)
            if not session.is_json:
                show.aside(f"{one['stream']}: {one['size']} sealed, {rows} rows, {fetched} files")
    _write(folder / "digests.json", json.dumps(found).encode())
    show.answer({"folder": str(folder)}, f"verify it with: millrace audit verify {folder}", is_json=session.is_json)
    return codes.DONE


def _keys(digests: list[dict[str, Any]]) -> list[str]:
    """Return one of the names of each key: written, it is the name, an id, and the key itself, with + between."""
    return list({key.rpartition("+")[2]: key for one in digests for key in one["keys"]}.values())


def _fetch_digest(session: Session, digest: dict[str, Any], place: Path) -> int:
    """Fetch what a stream's digest has at its checkpoint; return of how many files."""
    if digest["checkpoint"] is None:
        (place / "checkpoint").unlink(missing_ok=True)
        return 0
    fetched = 0
    for path in _files(digest["size"]):
        file = place / path
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, b"".join(session.api.parts(*PATH, digest["stream"], *path.split("/"))))
        fetched += 1
    _write(place / "checkpoint", digest["checkpoint"].encode())
    return fetched


def _files(size: int) -> Iterator[str]:
    """Yield the paths of the files of a digest of so many entries."""
    for bundle in range(-(-size // WIDTH)):
        yield f"salts/{bundle}"
        yield _tile("entries", bundle, size)
    level = 0
    while count := size >> (8 * level):
        for index in range(-(-count // WIDTH)):
            yield _tile(str(level), index, count)
        level += 1


def _tile(level: str, index: int, count: int) -> str:
    """Return the path of a tile, of a level of so many hashes (C2SP tlog-tiles)."""
    digits = str(index).zfill(-(-len(str(index)) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    width = min(WIDTH, count - index * WIDTH)
    return "/".join(["tile", level, *(f"x{one}" for one in groups[:-1]), groups[-1]]) + ("" if width == WIDTH else f".p/{width}")


def _fetch_rows(session: Session, stream: str, place: Path) -> int:
    """Fetch the archive's rows of a stream; return of how many."""
    last, rows, tries = b"", 0, 0
    part = place / "rows.ndjson.gz.part"
    with gzip.open(part, "wb", compresslevel=3) as file:
        while True:
            rest, after = b"", _key_of(last)
            try:
                for chunk in session.api.parts(*PATH, stream, "rows", query={"after": after}):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        file.write(line + b"\n")
                        rows += 1
                        last = line
            except (Unreachable, Refused) as error:
                tries += 1
                if tries > TRIES or (isinstance(error, Refused) and not error.is_passing):
                    raise
            else:
                break
    part.replace(place / "rows.ndjson.gz")
    return rows


def _key_of(line: bytes) -> str | None:
    """Return the place of a row, after which a list of them goes on."""
    if not line:
        return None
    row = json.loads(line)
    return f"{row['incarnation']}/{row['seq']}/{row['time']}"


def _write(file: Path, content: bytes) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(content)
    part.replace(file)


audit.add_command(stack.program_of("verify", "deploy.audit", "Hold an export against its digests, without anything that runs."))
COMMANDS: list[click.Command] = [audit]
