"""`sources`, `subscriptions`, `integrations`, `connections`, `variables`, `secrets` and the like: what is configured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import Session, asks
from millrace.cli.values import an_object, fitting, pairs, secret

LIMIT = click.option("--limit", type=click.IntRange(0), default=0, help="At most so many; 0, the default: all.")
WHOLE = click.option("--body", metavar="JSON|@FILE|-", help="The whole body as the API takes it; the other options change it.")


def _group(name: str, help_: str, columns: Sequence[show.Column], *, deletes: bool = True) -> click.Group:
    """Return the commands list, get and delete for the entities at /api/v1/`name`."""
    group = click.Group(name, help=help_)
    one = name.removesuffix("s")

    @group.command("list", help=f"List {name}.")
    @LIMIT
    @asks
    def list_them(session: Session, limit: int) -> None:
        show.listing(session.api.pages(f"/{name}", limit=limit), columns, is_json=session.is_json)

    @group.command("get", help=f"Show one {one}.")
    @click.argument("which", metavar="NAME")
    @asks
    def get_it(session: Session, which: str) -> None:
        show.entity(session.api.get(f"/{name}", which), is_json=session.is_json)

    if deletes:

        @group.command("delete", help=f"Delete a {one}.")
        @click.argument("which", metavar="NAME")
        @asks
        def delete_it(session: Session, which: str) -> None:
            session.api.call("DELETE", f"/{name}", which)

    return group


sources = _group(
    "sources",
    "Webhook endpoints.",
    [show.field("name"), show.field("adapter"), show.field("enabled"), show.field("url"), show.moment("updated_at")],
)
subscriptions = _group(
    "subscriptions",
    "Which events start which workflow.",
    [
        show.field("name"),
        ("source", lambda row: row["source_name"]),
        show.field("event"),
        show.field("filter"),
        show.field("workflow"),
        show.field("enabled"),
    ],
)
integrations = _group(
    "integrations",
    "External systems, and what each is for an organization.",
    [show.field("name"), show.field("org"), show.field("provider"), show.field("description"), show.moment("updated_at")],
)
connections = _group(
    "connections",
    "Credentials of an organization.",
    [show.field("name"), show.field("grant"), show.field("status"), show.moment("updated_at")],
)
variables = _group(
    "variables",
    "Values that runs get by name.",
    [show.field("name"), ("value", lambda row: show.compact(row["value"])), show.moment("updated_at")],
)
secrets = _group(
    "secrets",
    "Values that runs get by name, and nobody else.",
    [show.field("name"), show.field("status"), show.field("version"), show.moment("updated_at")],
)
workflows = _group(
    "workflows",
    "What can be run.",
    [
        show.field("name"),
        ("version", lambda row: row["version"][:12]),
        ("where", lambda row: f"{row['path']}:{row['line']}"),
        ("input", lambda row: ", ".join(row["input_schema"].get("properties", {}))),
        ("says", lambda row: row["doc"].partition("\n")[0]),
    ],
    deletes=False,
)


@sources.command("put")
@click.argument("name")
@click.option("--adapter", help="What the sender is: `millrace adapters` lists them.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting that is no secret. Repeatable.")
@click.option(
    "--secret",
    "given_secrets",
    multiple=True,
    metavar="NAME[=FILE]",
    help="A secret setting from a file, `-` for standard input; without one it is asked for.",
)
@click.option("--integration", help="The integration whose mapping its events are routed with.")
@click.option("--enabled/--disabled", default=None, help="Whether it takes webhooks.")
@WHOLE
@asks
def put_source(
    session: Session,
    name: str,
    *,
    adapter: str | None,
    integration: str | None,
    settings: tuple[str, ...],
    given_secrets: tuple[str, ...],
    enabled: bool | None,
    body: str | None,
) -> None:
    """Create or replace a source. Secrets that are not given stay as they are."""
    made = _body(body, {"adapter": adapter, "integration": integration, "enabled": enabled})
    given = dict(made.get("settings") or {})
    if settings:
        known = {one["name"]: one for one in session.api.get("/adapters")["items"]}
        described = known.get(made.get("adapter", ""), {"settings_schema": {}, "secrets": []})
        chosen = pairs(settings, described["settings_schema"], "--set")
        open_ones = sorted(chosen.keys() & set(described["secrets"]))
        if open_ones:
            raise click.UsageError(
                f"{open_ones[0]} is a secret, and others can see a command line: use --secret {open_ones[0]}=FILE."
            )
        given |= chosen
    for one in given_secrets:
        setting, equals, file = one.partition("=")
        given[setting] = secret(file if equals else None, setting)
    show.entity(session.api.call("PUT", "/sources", name, body=made | {"settings": given}), is_json=session.is_json)


@subscriptions.command("put")
@click.argument("name")
@click.option("--source", help="A source's name or id.")
@click.option("--event", help="`push`, `pull_request.*`, `*`.")
@click.option("--workflow", help="What is run.")
@click.option("--filter", "filter_", help="A CEL expression over `event`; '' clears it.")
@click.option("--input", "given", metavar="JSON|@FILE|-", help='The input by parameter: `{"ref": "event.data.ref"}`.')
@click.option("--enabled/--disabled", default=None, help="Whether it takes events.")
@WHOLE
@asks
def put_subscription(
    session: Session,
    name: str,
    *,
    filter_: str | None,
    given: str | None,
    body: str | None,
    **fields: Any,
) -> None:
    """Create or replace a subscription."""
    mapped = None if given is None else an_object(given, "--input")
    made = _body(body, {**fields, "filter": filter_, "input": mapped})
    if filter_ == "":
        made["filter"] = None
    show.entity(session.api.call("PUT", "/subscriptions", name, body=made), is_json=session.is_json)


@sources.command("emit")
@click.argument("name")
@click.argument("type_", metavar="TYPE")
@click.option("--data", metavar="JSON|@FILE|-", help="What happened.")
@asks
def emit_event(session: Session, name: str, type_: str, data: str | None) -> None:
    """Let a source of the adapter `topic` have an event. Prints its delivery's id."""
    body = {"type": type_, "data": None if data is None else an_object(data, "--data")}
    answer = session.api.call("POST", "/sources", name, "events", body=body)
    if session.is_json:
        show.document(answer)
    else:
        show.said(answer["id"])


@integrations.command("put")
@click.argument("name")
@click.option("--description", help="What it is, in a sentence.")
@click.option("--schema", metavar="JSON|@FILE|-", help="The JSON Schema of each mapping's config, in which nothing is secret.")
@click.option("--provider", help="The OAuth provider of its connections.")
@WHOLE
@asks
def put_integration(
    session: Session, name: str, *, description: str | None, schema: str | None, provider: str | None, body: str | None
) -> None:
    """Create or replace an integration: the organization's own, or with `--org global` everybody's."""
    config_schema = None if schema is None else an_object(schema, "--schema")
    made = _body(body, {"description": description, "config_schema": config_schema, "provider": provider})
    show.entity(session.api.call("PUT", "/integrations", name, body=made), is_json=session.is_json)


@integrations.command("mappings")
@click.argument("name")
@LIMIT
@asks
def list_mappings(session: Session, name: str, limit: int) -> None:
    """List the organization's mapping of an integration; with `--org '*'` everybody's."""
    columns = [
        show.field("org"),
        show.field("entity_id"),
        show.field("connection"),
        show.field("config"),
        ("problems", lambda row: "; ".join(f"{one['path']}: {one['message']}" for one in row["problems"])),
    ]
    show.listing(session.api.pages("/integrations", name, "mappings", limit=limit), columns, is_json=session.is_json)


@integrations.command("mapping")
@click.argument("name")
@asks
def get_mapping(session: Session, name: str) -> None:
    """Show what an integration is for the organization."""
    show.entity(session.api.get("/integrations", name, "mappings", _org(session)), is_json=session.is_json)


@integrations.command("map")
@click.argument("name")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="A value of the config. Repeatable.")
@click.option("--config", metavar="JSON|@FILE|-", help="The config; --set changes it. Secrets belong into a connection.")
@click.option("--entity-id", help="Who the organization is in the external system.")
@click.option("--connection", help="The connection by which it is reached.")
@WHOLE
@asks
def put_mapping(
    session: Session,
    name: str,
    *,
    values: tuple[str, ...],
    config: str | None,
    entity_id: str | None,
    connection: str | None,
    body: str | None,
) -> None:
    """Say what an integration is for the organization, or replace what was said."""
    given = None if config is None else an_object(config, "--config")
    made = _body(body, {"config": given, "entity_id": entity_id, "connection": connection})
    if values:
        schema = session.api.get("/integrations", name)["config_schema"]
        made["config"] = dict(made.get("config") or {}) | pairs(values, schema, "--set")
    answer = session.api.call("PUT", "/integrations", name, "mappings", _org(session), body=made)
    show.entity(answer, is_json=session.is_json)


@integrations.command("unmap")
@click.argument("name")
@asks
def delete_mapping(session: Session, name: str) -> None:
    """Delete what was said of an integration for the organization."""
    session.api.call("DELETE", "/integrations", name, "mappings", _org(session))


@connections.command("put")
@click.argument("name")
@click.option("--token-file", metavar="FILE", help="Where the token is, `-` for standard input; without it, it is asked for.")
@asks
def put_connection(session: Session, name: str, token_file: str | None) -> None:
    """Create or replace a connection that is a token."""
    body = {"grant": "token", "token": secret(token_file, "token")}
    show.entity(session.api.call("PUT", "/connections", name, body=body), is_json=session.is_json)


@variables.command("put")
@click.argument("name")
@click.argument("value")
@click.option("--text", "is_text", is_flag=True, help="Take VALUE as text, also where it is JSON.")
@asks
def put_variable(session: Session, name: str, value: str, *, is_text: bool) -> None:
    """Create or replace a variable. VALUE is JSON where it is JSON, else text; others can see a command line."""
    body = {"value": value if is_text else fitting(value, {}, {})}
    show.entity(session.api.call("PUT", "/variables", name, body=body), is_json=session.is_json)


@secrets.command("put")
@click.argument("name")
@click.option("--value-file", metavar="FILE", help="Where the value is, `-` for standard input; without it, it is asked for.")
@asks
def put_secret(session: Session, name: str, value_file: str | None) -> None:
    """Create or replace a secret. Its value is never an argument, and never shown again."""
    body = {"value": secret(value_file, "value")}
    show.entity(session.api.call("PUT", "/secrets", name, body=body), is_json=session.is_json)


@click.command()
@asks
def adapters(session: Session) -> None:
    """List the adapters that a source may use, with their settings."""
    columns = [
        show.field("name"),
        ("settings", lambda row: ", ".join(row["settings_schema"].get("properties", {}))),
        ("secret", lambda row: ", ".join(row["secrets"])),
        show.field("description"),
    ]
    show.listing(session.api.get("/adapters"), columns, is_json=session.is_json)


def _org(session: Session) -> str:
    return session.org or session.place.org or "default"


def _body(whole: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    made = {} if whole is None else an_object(whole, "--body")
    return made | {name: value for name, value in changes.items() if value is not None}


COMMANDS: list[click.Command] = [sources, subscriptions, integrations, connections, variables, secrets, workflows, adapters]
