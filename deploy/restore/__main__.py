"""`python -m deploy.restore`, which is `millrace restore`."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands import run
from deploy.rebuild.display import Display
from deploy.restore.restore import Restore


@click.command(name="restore", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The new data folder.")
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="The file of the keys.  [default: FOLDER.keys.json]")
def main(*, folder: Path, data: Path, keys: Path | None) -> None:
    """Make a data folder of the backup in FOLDER; nothing that was done is done again.

    Exit code 0: the data folder is there. 2: it is not, as of a backup that is damaged or of a newer version.
    """
    folder, data = folder.expanduser().absolute(), data.expanduser().absolute()
    run("millrace restore", _restore(folder, data, keys or folder.with_name(f"{folder.name}.keys.json")))


async def _restore(folder: Path, data: Path, keys: Path) -> bool:
    await Restore(folder, keys, Display()).run(data)
    return True


if __name__ == "__main__":
    main(prog_name="millrace restore")
