"""`python -m deploy.restore`, which is `millrace restore`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from deploy.backup.backup import alone
from deploy.backup.remote import Remote, is_remote
from deploy.commands import run
from deploy.errors import StartError
from deploy.rebuild.display import Display
from deploy.restore.restore import Restore, check_empty


@click.command(name="restore", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("place")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The new data folder.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of the keys.  [default, of a folder: FOLDER.keys.json]",
)
@click.option("--nats", help="Administrator URL of a vacant NATS server to fill, instead of an embedded one.")
@click.option("--postgres", help="Administrator URL of an empty Postgres database to fill, instead of an embedded one.")
def main(*, place: str, data: Path, keys: Path | None, nats: str | None, postgres: str | None) -> None:
    """Make a data folder of the backup in PLACE, a folder or a URL; nothing that was done is done again.

    Exit code 0: the data folder is there. 2: it is not, as of a backup that is damaged or of a newer version.
    """
    data = data.expanduser().absolute()
    stores = {"nats": nats, "postgres": postgres}
    if is_remote(place):
        run("millrace restore", _download(place, data, keys, stores))
    else:
        folder = Path(place).expanduser().absolute()
        run("millrace restore", _restore(folder, data, keys or folder.with_name(f"{folder.name}.keys.json"), stores))


async def _download(url: str, data: Path, keys: Path | None, stores: dict[str, str | None]) -> bool:
    """Copy a backup beside the data folder and restore it; a copy that an earlier call began is gone on with."""
    if keys is None:
        raise StartError("The keys are not beside a backup elsewhere: name their file with --keys.")
    check_empty(data)
    folder, display = data.with_name(f"{data.name}.downloaded"), Display()
    with alone(folder):
        with display.progressing():
            await Remote(url).download(folder, display.progress)
        await _restore(folder, data, keys, stores)
        shutil.rmtree(folder)
    return True


async def _restore(folder: Path, data: Path, keys: Path, stores: dict[str, str | None]) -> bool:
    await Restore(folder, keys, Display(), **stores).run(data)
    return True


if __name__ == "__main__":
    main(prog_name="millrace restore")
