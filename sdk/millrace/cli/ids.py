"""Ids as people type them: whole, or as they begin, as `watch` and tables in a narrow window show them."""

from __future__ import annotations

import click

from millrace.cli.api import Api
from millrace.cli.show import plain

# Characters of an id that is whole.
WHOLE = 36
# Candidates that are named.
NAMED = 10


def whole(api: Api, path: str, given: str) -> str:
    """Return the id that begins so among those of a list. `click.UsageError` names the candidates where there are several.

    A text that no id begins with is returned as it is: the next request finds that it is not there.
    """
    if not given:
        raise click.UsageError("The ID is empty.")
    if len(given) >= WHOLE:
        return given
    found = [str(item["id"]) for item in api.get(path, query={"id": given, "limit": NAMED + 1})["items"]]
    if given in found or not found:
        return given
    if len(found) == 1:
        return found[0]
    more = ", …" if len(found) > NAMED else ""
    raise click.UsageError(f"{plain(given)} is the beginning of several: {', '.join(found[:NAMED])}{more}.")
