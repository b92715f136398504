"""What a pack needs beside what there is: each item with the command or the link by which it is settled."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from millrace.cli.api import Refused
from millrace.cli.kinds import kinds
from millrace.cli.packs.manifest import Manifest, Need
from millrace.cli.packs.planning import Plan
from millrace.cli.session import Session

# By these a person allows a connection at its provider.
_BY_PEOPLE = {"authorization_code", "device_code"}
# What such a connection shows is a secret that somebody has got there.
_GIVEN = {"token", "api_key", "basic"}


@dataclass(frozen=True)
class Check:
    """One item. `missing`: the pack cannot serve without; `todo`: to be done when it is there. `do`: commands, links, settings."""

    kind: str
    name: str
    status: Literal["ok", "missing", "todo"]
    reason: str = ""
    description: str = ""
    do: tuple[str, ...] = ()


def checklist(session: Session, pack: Manifest, found: Plan, values: Mapping[str, str]) -> list[Check]:
    """Return all that a pack needs, as it is now, and what is to be done with what it has brought."""
    needs = {section: list(pack.needs[section]) for section in ("connections", "secrets", "variables", "domains")}
    met = {(one["kind"], one["name"]): one for one in session.api.call("POST", "/needs", body=needs)["items"]}
    of = f" --org {shlex.quote(session.org)}" if session.org else ""
    return [
        *_connections(session, pack, found, met, of),
        *_values(pack, found, values),
        *_named(pack, "secret", met, of),
        *_named(pack, "variable", met, of),
        *(_domain(met["domain", name]) for name in pack.needs["domains"]),
        *_brought(session, found, of),
    ]


def _connections(
    session: Session, pack: Manifest, found: Plan, met: Mapping[tuple[str, str], dict[str, Any]], of: str
) -> Iterator[Check]:
    told: set[str] = set()
    for name, need in pack.needs["connections"].items():
        one = met["connection", name]
        if one["met"]:
            yield Check("connection", name, "ok", description=need.description)
            continue
        provider = need.given.get("provider")
        if one["status"] is None and provider is not None and provider not in told:
            told.add(provider)
            yield from _provider(session, provider, found, of)
        do = _authorizing(name, one["status"], of) if one["status"] is not None else _making(need, of)
        yield Check("connection", name, "missing", one["reason"], need.description, do)


def _provider(session: Session, name: str, found: Plan, of: str) -> Iterator[Check]:
    """Yield what is to be done where an OAuth provider is not there, and the pack does not bring it."""
    if ("provider", name) in found.documents:
        return
    try:
        session.api.get("/providers", name)
    except Refused as refused:
        if refused.status != 404:
            raise
        known = any(one["name"] == name for one in session.api.get("/known-providers")["items"])
        is_known = f" --known {shlex.quote(name)}" if known else ""
        command = f"millrace providers put {shlex.quote(name)}{is_known} --client-id ID --client-secret-file FILE{of}"
        yield Check("provider", name, "missing", "is not there", "the client that is registered with it", (command,))


def _making(need: Need, of: str) -> tuple[str, ...]:
    """Return the commands that make a connection."""
    name, grant = shlex.quote(need.name), need.given.get("grant", "token")
    options = [
        f" {field.option} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        for field in kinds()["connection"].fields
        if (value := need.given.get(field.name)) is not None
    ]
    token = " --token-file FILE" if grant in _GIVEN else ""
    made = f"millrace connections put {name}{''.join(options)}{token}{of}"
    return (made, *(_authorizing(need.name, "pending", of) if grant in _BY_PEOPLE else ()))


def _authorizing(name: str, status: str, of: str) -> tuple[str, ...]:
    """Return the command that settles how a connection is."""
    verb = "authorize" if status in {"pending", "needs_reauthorization"} else "get"
    return (f"millrace connections {verb} {shlex.quote(name)}{of}",)


def _values(pack: Manifest, found: Plan, values: Mapping[str, str]) -> Iterator[Check]:
    lacking = {name: place for place, one in found.documents.items() for name in one.unset if place not in found.present}
    for name, need in pack.needs["values"].items():
        if name in lacking and name not in values:
            kind, of = lacking[name]
            how = f"--value {shlex.quote(name)}=FILE (or --value {shlex.quote(name)}, to be asked for it)"
            yield Check("value", name, "missing", f"{kind} {of} is made with it", need.description, (how,))
        else:
            yield Check("value", name, "ok", description=need.description)


def _named(pack: Manifest, kind: str, met: Mapping[tuple[str, str], dict[str, Any]], of: str) -> Iterator[Check]:
    for name, need in pack.needs[f"{kind}s"].items():
        one = met[kind, name]
        example = need.given.get("example", "VALUE")
        value = "" if kind == "secret" else f" {shlex.quote(example if isinstance(example, str) else json.dumps(example))}"
        command = f"millrace {kind}s put {shlex.quote(name)}{value}{of}"
        status: Literal["ok", "missing"] = "ok" if one["met"] else "missing"
        yield Check(kind, name, status, one["reason"] or "", need.description, () if one["met"] else (command,))


def _domain(one: Mapping[str, Any]) -> Check:
    if one["met"]:
        return Check("domain", one["name"], "ok")
    setting = f"MILLRACE_EGRESS_ALLOW={one['name']} (set by the operator: docs/egress.md)"
    return Check("domain", one["name"], "missing", one["reason"], do=(setting,))


def _brought(session: Session, found: Plan, of: str) -> Iterator[Check]:
    """Yield what is left to do with resources of the pack that are there."""
    for kind, name in found.documents:
        shown = found.present.get((kind, name))
        if kind == "connection" and shown is not None:
            is_well = shown["status"] not in {"pending", "needs_reauthorization", "quarantined"}
            do = () if is_well else _authorizing(name, shown["status"], of)
            yield Check(
                kind, name, "ok" if is_well else "todo", "" if is_well else shown["reason"] or f"is {shown['status']}", do=do
            )
        elif kind == "source" and shown is not None and shown["url"] is not None:
            yield _source(session, shown, of)


def _source(session: Session, shown: Mapping[str, Any], of: str) -> Check:
    name, registration = shown["name"], shown["registration"]
    if registration is not None:
        is_well = registration["status"] == "active"
        command = f"millrace sources get {shlex.quote(name)}{of}"
        why = registration["error"] or f"its registration with the sender is {registration['status']}"
        return Check("source", name, "ok" if is_well else "todo", "" if is_well else why, do=() if is_well else (command,))
    if session.api.get("/deliveries", query={"source": name, "limit": 1})["items"]:
        return Check("source", name, "ok")
    return Check("source", name, "todo", "no webhook has come yet: give the sender its address", do=(shown["url"],))
