"""Tools by which an agent builds and mends workflows: endpoints of the API under names of their own, for developers.

Each takes the role and the scopes of its endpoint besides. What it takes and what it answers follow from the declaration.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from services.gateway.api.access import denied
from services.gateway.api.commits import Commit, CommitQuery, CommitView, commit_files, commit_whole
from services.gateway.api.endpoint import PARTS, Answer, Call, Endpoint, Role
from services.gateway.api.environments import build_environments
from services.gateway.api.files import FileQuery, content_of, get_file, list_files
from services.gateway.api.logs import search_logs
from services.gateway.api.mcp.exchange import Exchange
from services.gateway.api.mcp.results import failed, structured
from services.gateway.api.resuming import resume_run
from services.gateway.api.runs import cancel_run, create_run, get_lines, get_run, get_why, list_runs
from services.gateway.api.workflows import list_workflows
from services.gateway.principals import is_at_least
from shared.errors import Conflict, Invalid, NotFound, PermissionDenied, PreconditionFailed, Problem, TooLarge
from shared.questions.files import FileView, VersionView
from shared.schemas import portable
from shared.values import Path, Words, fitted

PREFIX = "millrace_"
ROLE: Role = "developer"
# Bytes of a file that an agent reads at once.
MOST_READ = 256 * 1024


class FileText(msgspec.Struct, frozen=True):
    """A file that an agent reads; `sha256` is what a commit may expect to be there."""

    path: str
    sha256: str
    text: str


class TextCommit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files by path: their new text, null removes the file. `expected` holds the SHA-256 that must be there, or null for none."""

    files: Annotated[dict[Path, str | None], msgspec.Meta(description="New text by path; null removes the file.")]
    expected: Annotated[
        dict[Path, str | None], msgspec.Meta(description="SHA-256 by path that has to be there, null for no file.")
    ] = {}
    message: Annotated[Words | None, msgspec.Meta(description="What the change is for.")] = None


class AuthoringTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that an endpoint is; `body` and `handler` take the place of its own, where those are for bodies of other forms."""

    name: str
    endpoint: Endpoint
    doc: str
    read_only: bool = True
    body: Any = None
    handler: Callable[[Any], Awaitable[Any]] | None = None

    @property
    def arguments(self) -> list[tuple[str, str, msgspec.structs.FieldInfo | None, Any]]:
        """Return each argument: its name, the part of the call that it is of, its field, and its type."""
        parts = [(name, "path", None, PARTS[name]) for name in self.endpoint.parts]
        of_query = () if self.endpoint.query is None else msgspec.structs.fields(self.endpoint.query)
        body = self.body or (self.endpoint.body if self.endpoint.takes_body else None)
        of_body = () if body is None else msgspec.structs.fields(body)
        return [
            *parts,
            *((one.encode_name, "query", one, one.type) for one in of_query),
            *((one.encode_name, "body", one, one.type) for one in of_body),
        ]

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the arguments."""
        declared = {name: (field, type_) for name, _, field, type_ in self.arguments}
        found, components = msgspec.json.schema_components([type_ for _, type_ in declared.values()], ref_template="#/$defs/{name}")
        properties = dict(zip(declared, map(portable, found), strict=True))
        for name, (field, _) in declared.items():
            if field is not None and field.default not in {msgspec.NODEFAULT, None}:
                properties[name] = properties[name] | {"default": field.default}
        required = [name for name, (field, _) in declared.items() if field is None or field.required]
        schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        return schema | ({"required": required} if required else {}) | ({"$defs": portable(components)} if components else {})

    def shown(self) -> dict[str, Any]:
        """Return it as clients see tools."""
        hints = {"readOnlyHint": self.read_only, "openWorldHint": False}
        return {"name": self.name, "description": self.doc, "inputSchema": self.schema(), "annotations": hints}


async def read_text(call: Call[FileQuery, None]) -> FileText:
    """Return the text of a file, as it is or as it was."""
    found = await content_of(call)
    data = await read_bytes(call, found)
    try:
        return FileText(found.path, found.sha256 or "", data.decode())
    except UnicodeDecodeError as error:
        raise Invalid(f"{found.path[:120]} is no text", errors=(Problem("path", "is no text"),)) from error


async def read_bytes(call: Call[Any, None], found: FileView | VersionView) -> bytes:
    """Return a content that is not too large to be read at once."""
    if found.size > MOST_READ:
        raise TooLarge(f"{found.path[:120]} has {found.size} bytes, more than the {MOST_READ} that are read at once")
    return await call.gateway.workspace.read(found.sha256 or "") if found.size else b""


async def commit_text(call: Call[CommitQuery, TextCommit]) -> CommitView:
    """Change files whose content is text."""
    given = call.body
    files = {path: None if text is None else base64.b64encode(text.encode()).decode() for path, text in given.files.items()}
    call.body = Commit(files=files, expected=given.expected, message=given.message)  # type: ignore[assignment]
    return await commit_whole(call)  # type: ignore[arg-type]


_SERVES = (
    "Python with @workflow functions serves once it is committed; the answer names the workflows and the problems of each file."
)
TOOLS = {
    one.name: one
    for one in (
        AuthoringTool(name="millrace_list_files", endpoint=list_files, doc="List the files of the workspace, by path."),
        AuthoringTool(name="millrace_read_file", endpoint=get_file, doc="Read a text file of the workspace.", handler=read_text),
        AuthoringTool(
            name="millrace_commit",
            endpoint=commit_files,
            doc=f"Change text files of the workspace, all of them or none. {_SERVES}",
            read_only=False,
            body=TextCommit,
            handler=commit_text,
        ),
        AuthoringTool(
            name="millrace_problems",
            endpoint=build_environments,
            doc="Look at all code of the workspace anew, with its packages, and list the problems, with path and line.",
            read_only=False,
        ),
        AuthoringTool(
            name="millrace_list_workflows",
            endpoint=list_workflows,
            doc="List the workflows that can be run, with their input schemas.",
        ),
        AuthoringTool(
            name="millrace_run",
            endpoint=create_run,
            doc="Start a run of any workflow, and wait up to `wait` seconds (60 at most) for its end.",
            read_only=False,
        ),
        AuthoringTool(name="millrace_list_runs", endpoint=list_runs, doc="List runs, newest first."),
        AuthoringTool(name="millrace_get_run", endpoint=get_run, doc="Show a run: status, input, result, error and traceback."),
        AuthoringTool(name="millrace_read_lines", endpoint=get_lines, doc="Read the lines of a run's output, in order."),
        AuthoringTool(name="millrace_why", endpoint=get_why, doc="Show what led to a run, and how it failed if it did."),
        AuthoringTool(
            name="millrace_search_logs",
            endpoint=search_logs,
            doc='Search the archive: `field:value` terms, as in `level:error workflow:orders`; `from` and `to` as in "now-1h".',
        ),
        AuthoringTool(
            name="millrace_resume",
            endpoint=resume_run,
            doc="Go on with a run that ended without success, in a new run that repeats none of the steps that were done. "
            "`version`: `latest` takes the code as it was mended.",
            read_only=False,
        ),
        AuthoringTool(name="millrace_cancel", endpoint=cancel_run, doc="Ask a run to stop.", read_only=False),
    )
}


@functools.cache
def _shown(name: str) -> dict[str, Any]:
    return TOOLS[name].shown()


def seen(exchange: Exchange) -> list[dict[str, Any]]:
    """Return the tools that the caller may call."""
    return [_shown(one.name) for one in TOOLS.values() if _is_developer(exchange) and _may(exchange, one)]


async def call(exchange: Exchange, tool: AuthoringTool, given: dict[str, Any]) -> dict[str, Any]:
    """Carry out a tool. What is wrong with the arguments, or is not there, is a result that says so. Raises `PermissionDenied`."""
    if not _is_developer(exchange):
        caller = exchange.call.caller
        denied(
            exchange.call.gateway,
            exchange.call.request,
            caller.actor,
            org=caller.org,
            outcome=PermissionDenied.kind,
            reason=tool.name,
        )
        raise PermissionDenied(f"{tool.name} takes the role {ROLE}")
    parts: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "body": {}}
    whose = {name: part for name, part, _, _ in tool.arguments}
    try:
        for name, value in given.items():
            if name not in whose:
                raise Invalid(
                    f"{name[:80]} is no argument of {tool.name}: it has {', '.join(whose)}", errors=(Problem(name, "is unknown"),)
                )
            parts[whose[name]][name] = value
        if missing := [name for name in tool.endpoint.parts if not isinstance(parts["path"].get(name), str)]:
            raise Invalid(f"{missing[0]} is missing, or no text", errors=(Problem(missing[0], "is missing, or no text"),))
        body = parts["body"] if tool.body is None else fitted(parts["body"], tool.body)
        answered = await exchange.of(tool.endpoint, path=parts["path"], query=parts["query"], body=body, handler=tool.handler)
    except (Invalid, NotFound, Conflict, PreconditionFailed, TooLarge) as error:
        return failed(error)
    return structured(answered.body if isinstance(answered, Answer) else answered)


def _is_developer(exchange: Exchange) -> bool:
    role = exchange.principal.role_in(exchange.call.caller.org)
    return role is not None and is_at_least(role, ROLE)


def _may(exchange: Exchange, tool: AuthoringTool) -> bool:
    """Return whether the caller may call the endpoint, whatever it is about."""
    return exchange.may(tool.endpoint)
