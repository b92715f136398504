"""Prompts: the Markdown files below `prompts/` of the workspace. What stands in double braces is an argument."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from services.gateway.api.endpoint import Call
from services.gateway.api.files import FilesQuery, content_of, get_file, list_files
from services.gateway.api.mcp.authoring import read_bytes
from services.gateway.api.mcp.exchange import Exchange, Result
from services.gateway.api.mcp.protocol import INVALID_PARAMS, RpcError, listed
from services.gateway.api.mcp.results import text
from shared.errors import MillraceError, NotFound
from shared.questions import Page
from shared.questions.files import FileList, ListFiles

FOLDER, SUFFIX = "prompts/", ".md"
# Of a page, whose files are read; and the files that are read at a time.
MOST_LISTED, AT_ONCE = 50, 8
_ARGUMENT = re.compile(r"\{\{ ?([A-Za-z][A-Za-z0-9_]{0,63}) ?\}\}")


async def list_prompts(exchange: Exchange) -> Result:
    """Answer a page of prompts: the first line of each says what it is for."""
    request = exchange.request
    if not exchange.may(list_files) or not exchange.may(get_file):
        return listed(request, "prompts", [], None)
    page: FileList = await exchange.of(list_files, query={"cursor": request.cursor}, handler=_listed)
    names = [name for one in page.items if (name := _name_of(one.path)) is not None]
    room = asyncio.Semaphore(AT_ONCE)

    async def shown(name: str) -> dict[str, Any] | None:
        async with room:
            try:
                return _shown(name, await _read(exchange, name))
            except MillraceError:
                # One that was removed meanwhile, or cannot be read, keeps no other from being listed.
                return None

    items = await asyncio.gather(*map(shown, names))
    return listed(request, "prompts", [one for one in items if one is not None], page.next_cursor)


async def get_prompt(exchange: Exchange) -> Result:
    """Answer a prompt with its arguments in their places."""
    name, given = exchange.request.text("name"), exchange.request.object("arguments")
    try:
        said = await _read(exchange, name)
    except NotFound as error:
        raise RpcError(INVALID_PARAMS, f"there is no prompt {name[:80]!r}") from error
    if (missing := [one for one in _arguments(said) if not isinstance(given.get(one), str)]) != []:
        raise RpcError(INVALID_PARAMS, f"the argument {missing[0]} is missing, or no text")
    filled = _ARGUMENT.sub(lambda found: str(given[found[1]]), said)
    return {"description": _description(said), "messages": [{"role": "user", "content": text(filled)}]}


async def _listed(call: Call[FilesQuery, None]) -> FileList:
    page = Page(limit=MOST_LISTED, cursor=call.query.cursor)
    return await call.ask(ListFiles(org=call.caller.org, prefix=FOLDER, page=page))


async def _read(exchange: Exchange, name: str) -> str:
    async def content(call: Call[Any, None]) -> bytes:
        return await read_bytes(call, await content_of(call))

    data: bytes = await exchange.of(get_file, path={"path": f"{FOLDER}{name}{SUFFIX}"}, handler=content)
    return data.decode(errors="replace").replace("\0", "\ufffd")


def _name_of(path: str) -> str | None:
    """Return the name of the prompt that a file is, None for other files."""
    return path.removeprefix(FOLDER).removesuffix(SUFFIX) if path.startswith(FOLDER) and path.endswith(SUFFIX) else None


def _shown(name: str, said: str) -> dict[str, Any]:
    arguments = [{"name": one, "required": True} for one in _arguments(said)]
    return {"name": name, "description": _description(said)} | ({"arguments": arguments} if arguments else {})


def _description(said: str) -> str:
    return said.lstrip().partition("\n")[0].lstrip("# ").rstrip()[:500]


def _arguments(said: str) -> list[str]:
    return list(dict.fromkeys(_ARGUMENT.findall(said)))
