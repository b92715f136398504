"""`python -m deploy.audit`, which is `millrace audit verify`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.audit.export import Export
from deploy.audit.verify import Finding, Stream, recorded
from deploy.errors import StartError
from services.logs.digests.notes import Unverified, VerifierKey, verifier_key

# Findings of one kind and stream that are shown; all are counted.
SHOWN = 20


@click.command(name="audit verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="A public key that you know to be this installation's (`millrace audit key`); repeatable. Else the export's own.",
)
@click.option(
    "--copy",
    "copies",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder with a copy of the digests that nobody could change; repeatable.",
)
@click.option("--stream", "streams", multiple=True, help="Only this stream; repeatable.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print.")
def main(*, folder: Path, keys: tuple[str, ...], copies: tuple[Path, ...], streams: tuple[str, ...], output: str) -> None:
    """Hold what `millrace audit export` wrote into FOLDER against its digests; needs nothing that runs.

    Names each message that was changed, is missing, or was put in. Exit code 0: all is as it was sealed. 1: something is not. 2: it
    could not begin.
    """
    try:
        sys.exit(1 if _verify(folder, keys, copies, streams, is_json=output == "json") else 0)
    except (StartError, Unverified) as error:
        click.echo(f"millrace audit verify: {error}", err=True)
        sys.exit(2)


def _verify(folder: Path, keys: tuple[str, ...], copies: tuple[Path, ...], streams: tuple[str, ...], *, is_json: bool) -> bool:
    export = Export(folder)
    known: list[VerifierKey] = [verifier_key(key) for key in keys or export.keys]
    if unknown := set(streams) - set(export.streams):
        raise StartError(f"{folder} has no stream {', '.join(sorted(unknown))}; it has {', '.join(export.streams)}.")
    console = Console(highlight=False, soft_wrap=True, stderr=is_json)
    if not keys and not is_json:
        console.print("The keys are the export's own: name those that you know by --key, so that nobody can put in others.")
    found = False
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    records = recorded(export, keys=known, copies=copies)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        for name in export.streams:
            if streams and name not in streams:
                continue
            bar = bars.add_task(name, total=None)
            stream = Stream(
                name,
                export,
                keys=known,
                copies=copies,
                records=records,
                progress=lambda done, total, bar=bar: bars.update(bar, completed=done, total=total),  # type: ignore[misc]
            )
            kinds: Counter[str] = Counter()
            for finding in stream.findings():
                kinds[finding.kind] += 1
                if is_json:
                    click.echo(msgspec.json.encode(finding))
                elif kinds[finding.kind] <= SHOWN:
                    console.print(_shown(finding), markup=False)
            bars.remove_task(bar)
            found = found or bool(kinds)
            if is_json:
                click.echo(msgspec.json.encode({"stream": name, **msgspec.structs.asdict(stream.counts), "findings": kinds}))
            else:
                console.print(_summary(stream, kinds), markup=False)
    return found


def _shown(finding: Finding) -> str:
    where = "" if finding.seq is None else f" {finding.seq}"
    return f"{finding.stream}{where}: {finding.kind}: {finding.detail}"


def _summary(stream: Stream, kinds: Counter[str]) -> str:
    counts = stream.counts
    wrong = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "as sealed"
    younger = f", {counts.unsealed} younger than the digest" if counts.unsealed else ""
    erased = f", {counts.erased} erased" if counts.erased else ""
    removed = f", {counts.removed} removed by retention" if counts.removed else ""
    later = f", {counts.later} sealed after this export" if counts.later else ""
    return f"{stream.name}: {counts.entries} messages sealed, {counts.rows} rows{younger}{erased}{removed}{later}: {wrong}"


if __name__ == "__main__":
    main()
