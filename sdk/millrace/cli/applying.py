"""`apply` and `export`: resources as files, asked for until they are so, and written as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from millrace.cli import show
from millrace.cli.api import Refused
from millrace.cli.entities import org_of
from millrace.cli.kinds import Kind, kinds
from millrace.cli.session import Session, asks

FAILED = 1


@dataclass(frozen=True)
class Outcome:
    """The outcome for one resource: created, changed, none (it was so already), removed or failed, and why."""

    change: str
    kind: str
    name: str
    org: str
    where: str | None
    reasons: tuple[str, ...] = ()


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be created, changed and removed.")
@click.option("--prune", is_flag=True, help="Remove what this set of files had made and no longer names.")
@click.option("--as", "called", default="default", metavar="NAME", help="The name of this set of files; `default` without one.")
@asks
def apply(session: Session, paths: tuple[str, ...], *, dry_run: bool, prune: bool, called: str) -> None:
    """Bring resources to the state in files: YAML or JSON, one or many documents in each, or folders of them.

    A document holds `kind`, `name`, `org` if it is another one, and the fields; `{"$env": NAME}` and `{"$file": PATH}` stand for
    secrets. A resource that is so already is left alone. Exits with 1 if anything failed; the others are done.
    """
    # Loaded only here: the parser is not needed for anything else.
    from millrace.cli.documents import Document, Faulty, ordered, read

    documents, faults = read(paths)
    done = [Outcome("failed", "", "", "", None, (str(fault),)) for fault in faults]
    made: set[tuple[str, str, str]] = set()

    def put(one: Document) -> Outcome:
        org = one.org or org_of(session)
        about = (one.kind.noun, one.name, org, one.where)
        query = {"applied_as": called, "dry_run": "true" if dry_run else None}
        try:
            _, change = session.api.change("PUT", *one.kind.place(one.name, org), query=query, body=one.fields, org=org)
        except Refused as refused:
            if dry_run and refused.status in {404, 422} and _needs(one.kind, one.name, one.fields, org) & made:
                # The resource that it refers to would be there by then.
                made.add((one.kind.noun, org, one.name))
                return Outcome("created", *about)
            return Outcome(
                "failed", *about, tuple(f"{one.at(path)}: {path + ': ' if path else ''}{said}" for path, said in refused.problems)
            )
        if change == "created":
            made.add((one.kind.noun, org, one.name))
        return Outcome(change, *about)

    done += _told(session, (put(one) for one in documents))
    if prune and not faults:
        named = {(one.kind.noun, one.org or org_of(session), one.name) for one in documents}
        orgs = {org for _, org, _ in named} | {org_of(session)}
        kept = [kinds()[noun] for noun in reversed(ordered())]
        done += _told(session, _pruned(session, kept, sorted(orgs), called, named, dry_run=dry_run))
    for fault in faults if not session.is_json else ():
        assert isinstance(fault, Faulty)  # noqa: S101 - for the reader
        show.aside(str(fault), "error")
    _summed_up(session, done, dry_run=dry_run)


@click.command()
@click.argument("nouns", nargs=-1, metavar="[KIND]...")
@click.option("--secrets", "secrets", type=click.Choice(["env", "file"]), default="env", help="What stands for a secret.")
@asks
def export(session: Session, nouns: tuple[str, ...], *, secrets: str) -> None:
    """Write the organization's resources as YAML that `apply` takes; secrets as references to variables or files."""
    import yaml

    from millrace.cli.documents import ordered

    by_name = {called: kind for kind in kinds().values() for called in (kind.noun, kind.plural)}
    if unknown := next((noun for noun in nouns if noun not in by_name), None):
        raise click.UsageError(f"There is no kind {unknown!r}: {', '.join(sorted(kinds()))}.")
    wanted = {by_name[noun].noun for noun in nouns} or set(kinds())
    org = org_of(session)
    found = [
        _exported(kinds()[noun], shown, org, secrets)
        for noun in ordered()
        if noun in wanted
        for shown in _every(session, kinds()[noun], org)
    ]
    if session.is_json:
        show.document(found)
    else:
        click.echo(yaml.safe_dump_all(found, sort_keys=False, allow_unicode=True, explicit_start=True), nl=False)


def _told(session: Session, outcomes: Iterator[Outcome]) -> list[Outcome]:
    """Return the outcomes, each told as it comes."""
    found = []
    for one in outcomes:
        found.append(one)
        if not session.is_json and one.change != "none":
            level = "error" if one.change == "failed" else "info"
            show.said(f"{one.change} {one.kind} {one.name}" + (f" of {one.org}" if one.org != org_of(session) else ""), level)
            for reason in one.reasons:
                show.aside(f"  {reason}", level)
    return found


def _summed_up(session: Session, done: list[Outcome], *, dry_run: bool) -> None:
    if session.is_json:
        show.document([asdict(one) for one in done])
    else:
        counts = {
            change: sum(one.change == change for one in done) for change in ("created", "changed", "removed", "failed", "none")
        }
        told = [f"{number} {change}" for change, number in counts.items() if number and change != "none"]
        untouched = f"{counts['none']} as they are" if counts["none"] else ""
        summary = ", ".join([*told, *([untouched] if told and untouched else [])]) or "nothing to do"
        show.said(f"{'would be: ' if dry_run and told else ''}{summary}")
    if any(one.change == "failed" for one in done):
        raise click.exceptions.Exit(FAILED)


def _pruned(
    session: Session, kept: list[Kind], orgs: list[str], called: str, named: set[tuple[str, str, str]], *, dry_run: bool
) -> Iterator[Outcome]:
    for kind in kept:
        for org in orgs:
            for shown in _every(session, kind, org):
                if shown["applied_as"] != called or (kind.noun, org, shown["name"]) in named:
                    continue
                about = (kind.noun, shown["name"], org, None)
                try:
                    if not dry_run:
                        session.api.call("DELETE", *kind.place(shown["name"], org), headers=_for(org))
                except Refused as refused:
                    yield Outcome("failed", *about, (str(refused),))
                else:
                    yield Outcome("removed", *about)


def _every(session: Session, kind: Kind, org: str) -> Iterator[dict[str, Any]]:
    """Yield an organization's own resources of a kind."""
    parents = [None]
    if kind.is_placed:
        parents = [one["name"] for one in session.api.pages("/integrations", headers=_for(org))["items"]]
    for parent in parents:
        for shown in session.api.pages(*kind.collection(parent or ""), headers=_for(org))["items"]:
            if shown["org"] == org:
                yield shown


def _exported(kind: Kind, shown: dict[str, Any], org: str, secrets: str) -> dict[str, Any]:
    """Return a resource as a document: what is as it is by default is left out."""
    fields = kind.body_of(shown)
    made: dict[str, Any] = {"kind": kind.noun, "name": shown["name"], "org": org}
    for field in kind.fields:
        if field.is_secret:
            made[field.name] = _reference(kind, shown["name"], field.name, secrets)
        elif field.has_secrets:
            members = {member: _reference(kind, shown["name"], member, secrets) for member in shown["secrets"]}
            made[field.name] = fields[field.name] | members
        elif field.schema["required"] or fields[field.name] != field.schema.get("default"):
            made[field.name] = fields[field.name]
    return made


def _reference(kind: Kind, name: str, member: str, secrets: str) -> dict[str, str]:
    if secrets == "file":
        return {"$file": f"secrets/{kind.noun}-{name}-{member}"}
    return {"$env": re.sub(r"\W", "_", f"{kind.noun}_{name}_{member}").upper()}


def _needs(kind: Kind, name: str, fields: dict[str, Any], org: str) -> set[tuple[str, str, str]]:
    """Return what a resource refers to."""
    found = {(noun, org, str(fields.get(field))) for field, noun in kind.referring.items()}
    return found | {(one.noun, owner, name) for one in kind.parents for owner in (org, "global")}


def _for(org: str) -> dict[str, str]:
    return {"X-Millrace-Org": org}


COMMANDS: list[click.Command] = [apply, export]
