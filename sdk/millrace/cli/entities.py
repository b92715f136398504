"""Every kind of resource: list, get, put, patch, delete, made of its description; and the further commands of some."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from millrace.cli import connections, forms, organizations, show
from millrace.cli.api import Refused
from millrace.cli.http_file import test_source
from millrace.cli.kinds import Field, Kind, kinds
from millrace.cli.session import Session, asks
from millrace.cli.times import ahead, understood
from millrace.cli.values import a_value, an_object, fitting, pairs, secret

LIMIT = click.option("--limit", type=click.IntRange(0), default=0, help="At most so many; 0, the default: all.")
DRY = click.option("--dry-run", is_flag=True, help="Check everything, change nothing, and show what would be.")
WHOLE = click.option("--body", metavar="JSON|@FILE|-", help="The whole body as the API takes it; the other options change it.")
NAME = click.argument("name", metavar="NAME")
# Of these members the schema is known to the API only.
_SCHEMAS: dict[tuple[str, str], Callable[[Session, str, dict[str, Any]], dict[str, Any]]] = {
    ("source", "settings"): lambda session, name, body: _adapter(session, name, body)["settings_schema"],
    ("mapping", "config"): lambda session, name, _body: session.api.get("/integrations", name)["config_schema"],
}
# And which of them are secret.
_SECRETS: dict[str, Callable[[Session, str, dict[str, Any], dict[str, Any]], list[str]]] = {
    "source": lambda session, name, body, _schema: _adapter(session, name, body)["secrets"],
    "mapping": lambda _session, _name, _body, schema: [
        name
        for name, one in schema.get("properties", {}).items()
        if isinstance(one, dict) and (one.get("writeOnly") or one.get("format") == "password")
    ],
}


# Where people want another order than that of names.
_ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {"connection": connections.urgency}


def _group(kind: Kind) -> click.Group:
    group = click.Group(kind.plural, help=kind.doc)
    for command in (_list(kind), _get(kind), changing(kind, "put"), changing(kind, "patch"), deleting(kind)):
        group.add_command(command)
    return group


def _list(kind: Kind, called: str = "list") -> click.Command:
    help_ = f"List {kind.plural}." + (" With --org '*' everybody's." if kind.is_placed else "")

    @click.command(called, help=help_)
    @LIMIT
    @asks
    def list_them(session: Session, limit: int, name: str = "") -> None:
        order = _ORDERS.get(kind.noun)
        page = session.api.pages(*kind.collection(name), limit=0 if order is not None and not session.is_json else limit)
        if order is not None and not session.is_json:
            # The API knows the order of names only.
            page = page | {"items": sorted(page["items"], key=order)[: limit or None]}
        show.listing(page, [_column(column) for column in kind.columns], is_json=session.is_json)

    return NAME(list_them) if kind.is_placed else list_them


def _get(kind: Kind, called: str = "get") -> click.Command:
    @click.command(called, help=f"Show one {kind.noun}.")
    @NAME
    @asks
    def get_it(session: Session, name: str) -> None:
        show.entity(session.api.get(*kind.place(name, org_of(session))), is_json=session.is_json)

    return get_it


def deleting(kind: Kind, called: str = "delete") -> click.Command:
    """Return the command that deletes one of a kind."""

    @click.command(called, help=f"{called.capitalize()} {kind.one}.")
    @NAME
    @asks
    def delete_it(session: Session, name: str) -> None:
        session.api.call("DELETE", *kind.place(name, org_of(session)))

    return delete_it


def changing(kind: Kind, verb: str, called: str | None = None) -> click.Command:
    """Return the command that puts or patches one of a kind, or posts a new one."""
    members = any(field.has_secrets for field in kind.fields)
    replaces = f" `{kind.plural} patch` changes what is given of it alone." if called is not None else ""
    says = {
        "put": f"Create or replace {kind.one}." + (" Secrets that are not given stay as they are." if members else "") + replaces,
        "patch": f"Change what is given of {kind.one}.",
        "post": f"Create {kind.one} that is not there yet.",
    }

    @click.command(called or verb, help=says[verb])
    @NAME
    @DRY
    @asks
    def change_it(session: Session, name: str, *, dry_run: bool, body: str | None = None, **given: Any) -> None:
        made = {} if body is None else an_object(body, "--body")
        for field in kind.fields:
            _take(session, kind, name, field, made, given, wanted=verb != "patch" and body is None)
        query = {"dry_run": "true" if dry_run else None}
        is_new = verb == "post"
        place = kind.collection(name) if is_new else kind.place(name, org_of(session))
        answer = session.api.call(verb.upper(), *place, query=query, body=made | ({"name": name} if is_new else {}))
        show.entity(answer, is_json=session.is_json)
        for problem in answer.get("warnings") or ():
            show.aside(show.plain(f"warning: {problem['path']}: {problem['message']}"), "warning")

    general, change_it.params = change_it.params, []
    for field in kind.fields:
        for option in _options(field, verb):
            option(change_it)
    WHOLE(change_it)
    change_it.params = [general[0], *change_it.params, *general[1:]]
    return change_it


def _preview(kind: Kind) -> click.Command:
    @click.command("preview", help=f"Say what {kind.one} would do with the newest events of its source; nothing is kept or run.")
    @NAME
    @click.option("-n", "number", type=click.IntRange(1, 100), default=20, help="How many events.")
    @asks
    def preview_it(session: Session, name: str, *, number: int, body: str | None = None, **given: Any) -> None:
        made = {} if body is None else an_object(body, "--body")
        for field in kind.fields:
            _take(session, kind, name, field, made, given, wanted=False)
        found = session.api.call("POST", f"/{kind.plural}", name, "preview", query={"n": str(number)}, body=made)
        if session.is_json:
            show.document(found)
            return
        rows = [event | (event["outcome"] or {"outcome": "another type"}) for event in found["events"]]
        columns = [
            show.field("delivery"),
            show.moment("received_at"),
            show.field("type"),
            show.field("outcome"),
            show.field("reason"),
        ]
        show.listing({"items": rows, "next_cursor": None}, [*columns, ("input", _input)], is_json=False)
        show.said(f"{found['routed']} of {show.counted(len(rows), 'event')} would start a run")
        for problem in found["warnings"]:
            show.aside(show.plain(f"warning: {problem['path']}: {problem['message']}"), "warning")

    general, preview_it.params = preview_it.params, []
    for field in kind.fields:
        for option in _options(field, "patch"):
            option(preview_it)
    WHOLE(preview_it)
    preview_it.params = [*general[:2], *preview_it.params, *general[2:]]
    return preview_it


def _input(row: dict[str, Any]) -> str | None:
    return None if row.get("input") is None else show.compact(row["input"])[:200]


def _options(field: Field, verb: str) -> list[Callable[[Any], Any]]:
    """Return the option that sets a field; others can see a command line, so that nothing secret is an argument."""
    doc = str(field.marks.get("description", ""))
    if field.is_secret:
        file = f"Where the {field.name} is, `-` for standard input" + ("; without it, it is asked for." if verb == "put" else ".")
        return [click.option(f"{field.option}-file", f"{field.name}_file", metavar="FILE", help=file)]
    if not field.types:
        text = f"Take {field.name.upper()} as text, also where it is JSON."
        return [
            click.argument(field.name, required=False),
            click.option("--text", f"{field.name}_text", is_flag=True, help=text),
        ]
    if field.types == {"boolean"}:
        both = "--enabled/--disabled" if field.name == "enabled" else f"{field.option}/--no-{field.option[2:]}"
        return [click.option(both, field.name, default=None, help=doc)]
    if "object" not in field.types:
        metavar = "JSON" if "array" in field.types else None
        doc += " '' clears it." if "null" in field.types else ""
        return [click.option(field.option, field.name, metavar=metavar, help=doc)]
    found = [click.option(field.option, field.name, metavar="JSON|@FILE|-", help=doc)]
    if field.has_members:
        found.append(
            click.option(
                "--set", f"{field.name}_set", multiple=True, metavar="NAME=VALUE", help=f"A member of {field.option}. Repeatable."
            )
        )
    if field.has_secrets:
        member = f"A secret member of {field.option} from a file, `-` for standard input; without one it is asked for."
        found.append(click.option("--secret", f"{field.name}_secret", multiple=True, metavar="NAME[=FILE]", help=member))
    return found


def _take(
    session: Session, kind: Kind, name: str, field: Field, made: dict[str, Any], given: dict[str, Any], *, wanted: bool
) -> None:
    """Put a field's options into a body; `wanted`: a secret that is not given is asked for."""
    value = given.get(field.name)
    if field.is_secret:
        file = given[f"{field.name}_file"]
        if file is not None or (wanted and field.schema["required"]):
            made[field.name] = secret(file, field.name)
    elif not field.types:
        if value is not None:
            made[field.name] = value if given[f"{field.name}_text"] else fitting(value, {}, {})
        elif wanted:
            raise click.UsageError(f"Missing argument '{field.name.upper()}'.")
    elif value is not None:
        made[field.name] = _value(field, value)
    if chosen := given.get(f"{field.name}_set"):
        made[field.name] = dict(made.get(field.name) or {}) | _members(session, kind, name, field, made, chosen)
    for one in given.get(f"{field.name}_secret") or ():
        member, equals, file = one.partition("=")
        made[field.name] = dict(made.get(field.name) or {}) | {member: secret(file if equals else None, member)}


def _value(field: Field, given: Any) -> Any:
    if "object" in field.types:
        return an_object(given, field.option) if "null" not in field.types or given else None
    if given == "" and "null" in field.types:
        return None
    if field.marks.get("format") == "date-time":
        return understood(ahead(given, datetime.now(UTC)), field.option, "+15m (from now)")
    value = given if isinstance(given, bool) or "string" in field.types else fitting(given, field.schema, {})
    if "array" in field.types and isinstance(value, str):
        raise click.UsageError(f"{field.option} takes a JSON list, such as '[\"one\"]', not {given!r}.")
    return value


def _members(session: Session, kind: Kind, name: str, field: Field, made: dict[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    """Return members that are given one by one, as the schema that they have takes them; a secret one is refused."""
    known = _SCHEMAS.get((kind.noun, field.name))
    schema = {} if known is None else known(session, name, made)
    found = pairs(chosen, schema, "--set")
    secrets = _SECRETS[kind.noun](session, name, made, schema) if field.has_secrets else []
    if open_ones := sorted(found.keys() & set(secrets)):
        raise click.UsageError(f"{open_ones[0]} is a secret, and others can see a command line: use --secret {open_ones[0]}=FILE.")
    return found


def _adapter(session: Session, source: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the adapter that a body names, or that the source has; one without anything where there is neither."""
    name = body.get("adapter")
    if name is None:
        with contextlib.suppress(Refused):
            name = session.api.get("/sources", source)["adapter"]
    known = {one["name"]: one for one in session.api.get("/adapters")["items"]}
    found: dict[str, Any] = known.get(name, {"settings_schema": {}, "secrets": []})
    return found


def _column(name: str) -> show.Column:
    if name.endswith("_at"):
        return show.moment(name)
    if name in {"problems", "warnings"}:
        return name, lambda row: "; ".join(f"{one['path']}: {one['message']}" for one in row[name])
    if name == "value":
        return name, lambda row: show.compact(row["value"])
    return name.removesuffix("_name"), lambda row: row.get(name)


def org_of(session: Session) -> str:
    """Return the organization that is meant."""
    return session.org or session.place.org or "default"


GROUPS = {noun: _group(kind) for noun, kind in kinds().items()}
_mapping = kinds()["mapping"]
for _command in (
    _list(_mapping, "mappings"),
    _get(_mapping, "mapping"),
    changing(_mapping, "put", "map"),
    deleting(_mapping, "unmap"),
):
    GROUPS["integration"].add_command(_command)


@GROUPS["source"].command("emit")
@NAME
@click.argument("type_", metavar="TYPE")
@click.option("--data", metavar="JSON|@FILE|-", help="What happened.")
@asks
def emit_event(session: Session, name: str, type_: str, data: str | None) -> None:
    """Let a source of the adapter `topic` have an event. Prints its delivery's id."""
    body = {"type": type_, "data": None if data is None else a_value(data, "--data")}
    answer = session.api.call("POST", "/sources", name, "events", body=body)
    show.answer(answer, answer["id"], is_json=session.is_json)


GROUPS["organization"].add_command(organizations.delete_organization)
GROUPS["source"].add_command(test_source)
GROUPS["connection"].add_command(connections.authorize)
GROUPS["connection"].add_command(connections.refresh)
GROUPS["connection"].add_command(connections.try_out)
GROUPS["provider"].add_command(connections.known)
GROUPS["form"].add_command(forms.link)
GROUPS["subscription"].add_command(_preview(kinds()["subscription"]))


@GROUPS["subscription"].command("held")
@NAME
@asks
def list_held(session: Session, name: str) -> None:
    """List the keys of which a subscription holds events, and the run of each that they may wait for."""
    columns = [*map(show.field, ("key", "events")), show.moment("since"), *map(show.field, ("run", "status", "delivery"))]
    show.listing(session.api.get("/subscriptions", name, "held"), columns, is_json=session.is_json)


@GROUPS["schedule"].command("next")
@NAME
@click.option("-n", "number", type=click.IntRange(1, 100), default=5, show_default=True, help="How many.")
@asks
def next_times(session: Session, name: str, number: int) -> None:
    """Show the next times of a schedule."""
    page = session.api.get("/schedules", name, "next", query={"n": str(number)})
    show.listing(page, [show.field("at"), show.field("local")], is_json=session.is_json)
    if not session.api.get("/schedules", name)["enabled"]:
        said = f"{name} is disabled and does not fire: these are its times once `millrace schedules patch {name} --enabled` is done"
        show.aside(show.plain(said), "warning")


@GROUPS["schedule"].command("run")
@NAME
@asks
def run_schedule(session: Session, name: str) -> None:
    """Fire a schedule now, switched on or not. Prints the id of the run, or of the event's delivery."""
    answer = session.api.call("POST", "/schedules", name, "run")
    show.answer(answer, answer["run"] or answer["delivery"], is_json=session.is_json)


workflows = click.Group("workflows", help="What can be run.")


@workflows.command("list")
@LIMIT
@asks
def list_workflows(session: Session, limit: int) -> None:
    """List workflows."""
    columns = [
        show.field("name"),
        ("version", lambda row: row["version"][:12]),
        ("where", lambda row: f"{row['path']}:{row['line']}"),
        ("input", lambda row: ", ".join(row["input_schema"].get("properties", {}))),
        ("says", lambda row: row["doc"].partition("\n")[0]),
    ]
    show.listing(session.api.pages("/workflows", limit=limit), columns, is_json=session.is_json)


@workflows.command("get")
@NAME
@asks
def get_workflow(session: Session, name: str) -> None:
    """Show one workflow."""
    show.entity(session.api.get("/workflows", name), is_json=session.is_json)


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@asks
def adapters(session: Session, name: str | None) -> None:
    """List the adapters that a source may use; show the settings and the types of events of one."""
    page = session.api.get("/adapters")
    if name is not None:
        found = next((one for one in page["items"] if one["name"] == name), None)
        if found is None:
            raise click.UsageError(f"There is no adapter {name!r}; there are {', '.join(one['name'] for one in page['items'])}.")
        _show_adapter(found, is_json=session.is_json)
        return
    columns = [
        show.field("name"),
        ("secrets", lambda row: ", ".join(row["secrets"])),
        show.field("description"),
        show.field("link"),
    ]
    show.listing(page, columns, is_json=session.is_json)


def _show_adapter(adapter: dict[str, Any], *, is_json: bool) -> None:
    if is_json:
        show.document(adapter)
        return
    show.said(show.plain(adapter["description"]))
    schema = adapter["settings_schema"]
    required = schema.get("required", [])
    rows = [
        {"setting": name, "": "required" if name in required else "", "secret": "secret" if name in adapter["secrets"] else ""}
        | {"default": show.compact(one["default"]) if "default" in one else "", "says": one.get("description", "")}
        for name, one in schema.get("properties", {}).items()
    ]
    if rows:
        columns = [show.field(title) for title in ("setting", "", "secret", "default", "says")]
        show.listing({"items": rows, "next_cursor": None}, columns, is_json=False)
    for title, said in (
        ("events", ", ".join(adapter["event_types"])),
        ("answers before", adapter["handshake"]),
        ("its own page", adapter["link"]),
    ):
        if said:
            show.said(f"{title}: {show.plain(said)}")


COMMANDS: list[click.Command] = [*GROUPS.values(), workflows, adapters]
