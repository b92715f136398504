"""`apply` and `export`: resources as files, asked for until they are so, and written as they are."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from millrace.cli import codes, show
from millrace.cli.api import Api, Refused, Unreachable
from millrace.cli.entities import org_of
from millrace.cli.kinds import Kind, kinds
from millrace.cli.session import Session, asks

if TYPE_CHECKING:
    from millrace.cli.documents import Document

# Resources that are asked for at the same time: an answer waits for a disk, and one commit takes many.
AT_ONCE = 8
FORBIDDEN = 403
# The kind, the organization and the name of a resource.
Key = tuple[str, str, str]
CHANGES = ("created", "changed", "removed", "failed", "none")


@dataclass(frozen=True)
class Outcome:
    """The outcome for a resource: created, changed, removed, failed, or none, as it was so already.

    A document that is no resource failed without a name. Each reason begins with a file and a line, where one is known. `key`: the
    value of a key that was created, which is not shown again.
    """

    change: str
    kind: str | None
    name: str | None
    org: str | None
    where: str | None
    reasons: tuple[str, ...] = ()
    key: str | None = None


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be created, changed and removed.")
@click.option("--prune", is_flag=True, help="Remove what the set of --as had made and no longer names.")
@click.option("--as", "called", metavar="NAME", help="The name of this set of files: what they name belongs to it from now on.")
@asks
def apply(session: Session, paths: tuple[str, ...], *, dry_run: bool, prune: bool, called: str | None) -> None:
    """Bring resources to the state in files: YAML or JSON, one or many documents in each, or folders; `-` is standard input.

    A document holds `kind`, `name`, `org` if it is another one, and the fields; a secret may be `{"$env": NAME}` or
    `{"$file": PATH}`. A resource that is so already is left alone. Exits with 1 if anything failed; the others are done.
    """
    # Loaded only here: the parser is not needed for anything else.
    from millrace.cli.documents import read

    if prune and not called:
        raise click.UsageError("--prune needs --as NAME: what other files have made is not to be removed.")
    documents, faults = read(paths, org_of(session))
    done = printed(session, (Outcome("failed", None, None, None, fault.where, (str(fault),)) for fault in faults))
    asked = FileSet(session, called, documents, dry_run=dry_run)
    done += printed(session, asked.put_all(documents))
    if prune and (faults or asked.lost):
        show.aside("nothing was pruned: not everything that the files name is known", "warning")
    elif prune:
        done += printed(session, asked.pruned())
    _summed_up(session, done, dry_run=dry_run)


@click.command()
@click.argument("nouns", nargs=-1, metavar="[KIND]...")
@click.option("--secrets", type=click.Choice(["env", "file"]), default="env", help="What stands for a secret.")
@asks
def export(session: Session, nouns: tuple[str, ...], *, secrets: str) -> None:
    """Write the organization's resources as YAML that `apply` takes; secrets as references to variables or files."""
    from millrace.cli.documents import ordered, written

    by_name = {called: kind for kind in kinds().values() for called in (kind.noun, kind.plural)}
    if unknown := next((noun for noun in nouns if noun not in by_name), None):
        raise click.UsageError(f"There is no kind {unknown!r}: {', '.join(sorted(kinds()))}.")
    # The record of a pack would say elsewhere that files were brought, and removed by hand since.
    wanted = {by_name[noun].noun for noun in nouns} or set(kinds()) - {"pack"}
    org = org_of(session)
    references: dict[str, tuple[str, ...]] = {}

    def reference(*place: str) -> dict[str, str]:
        if secrets == "file":
            return {"$file": "/".join(("secrets", *place))}
        name = re.sub(r"\W", "_", "_".join(place)).upper()
        # `a-b` and `a_b` are two names, and would be one variable.
        while references.setdefault(name, place) != place:
            name += "_"
        return {"$env": name}

    def exported(kind: Kind, shown: dict[str, Any]) -> dict[str, Any]:
        """Return a resource as a document, without fields at their defaults."""
        fields, made = kind.body_of(shown), {"kind": kind.noun, "name": shown["name"], "org": org}
        for field in kind.fields:
            if field.has_secrets:
                fields[field.name] |= {member: reference(kind.noun, shown["name"], member) for member in shown["secrets"]}
            if field.is_secret and not field.schema["required"] and field.name not in shown["secrets"]:
                continue
            if field.is_secret:
                made[field.name] = reference(kind.noun, shown["name"], field.name)
            elif field.schema["required"] or fields[field.name] != field.schema.get("default"):
                made[field.name] = fields[field.name]
        return made

    found = [
        exported(kinds()[noun], shown)
        for noun in ordered()
        if noun in wanted
        for shown in every(session, kinds()[noun], org)
        # What stands beside code comes with the code; as a document it would be taken from it.
        if shown.get("declared_by") is None
    ]
    if session.is_json:
        show.document(found)
    else:
        click.echo(written(found), nl=False)


class FileSet:
    """A set of files that is applied. `lost`: the API does not answer any more, and nothing else is asked.

    `expected` has the versions that are to be there, None for none; of what it does not name any will do. `shown` has the resources
    as they were answered.
    """

    def __init__(
        self,
        session: Session,
        called: str | None,
        documents: Iterable[Document],
        *,
        dry_run: bool,
        expected: Mapping[Key, int | None] | None = None,
    ) -> None:
        self._session = session
        self._expected = expected or {}
        self.shown: dict[Key, dict[str, Any]] = {}
        self._called = called
        self._named = {one.key for one in documents}
        self._dry_run = dry_run
        # The resources that a dry run would have created by now.
        self._made: set[Key] = set()
        self._has_answered = False
        self.lost = False
        self._api = session.api
        self._thread = threading.local()

    def will_be(self, keys: Iterable[Key]) -> None:
        """Have a dry run count on resources that are not among those that it is given."""
        self._made |= set(keys)

    def put_all(self, documents: Iterable[Document]) -> Iterator[Outcome]:
        """Put resources, some at a time, and yield the outcomes in order; those of a kind once all of the kinds before are done.

        Raises as `put`.
        """
        apis = [self._api.another() for _ in range(AT_ONCE)]
        left = iter(apis)

        def begin() -> None:
            self._thread.api = next(left)

        pool = ThreadPoolExecutor(AT_ONCE, initializer=begin)
        try:
            for _, of_kind in groupby(documents, key=lambda one: one.kind.noun):
                yield from pool.map(self._put, of_kind)
        finally:
            pool.shutdown(cancel_futures=True)
            for api in apis:
                api.close()

    def _put(self, one: Document) -> Outcome:
        api: Api = self._thread.api
        return self.put(one, api)

    def put(self, one: Document, api: Api) -> Outcome:
        """Put a resource as its document has it. Raises `Unreachable` where the API has not answered yet."""
        noun, org, name = one.key

        def ended(change: str, *reasons: str, key: str | None = None) -> Outcome:
            return Outcome(change, noun, name, org, one.where, reasons, key)

        if self.lost:
            return ended("failed", f"{one.where}: was not asked for")
        query = {"applied_as": self._called, "dry_run": "true" if self._dry_run else None}
        try:
            place, headers = one.kind.place(name, org), self._condition(one.key)
            shown, change = api.change("PUT", *place, query=query, body=one.fields, org=org, headers=headers)
            self.shown[one.key] = shown
        except Refused as refused:
            self._has_answered = True
            if not (self._dry_run and self._would_pass(one, refused)):
                return ended("failed", *(f"{one.at(path)}: {path + ': ' if path else ''}{said}" for path, said in refused.problems))
            shown, change = {}, "created"
        except Unreachable as error:
            if not self._has_answered:
                raise
            self.lost = True
            return ended("failed", f"{one.where}: {error}; it may have been done")
        self._has_answered = True
        if change == "created":
            self._made.add(one.key)
        # What is as it was has been warned about before.
        warned = shown.get("warnings", ()) if change != "none" else ()
        warnings = (f"{one.at(problem['path'])}: warning: {problem['message']}" for problem in warned)
        return ended(change, *warnings, key=shown.get("key") if noun == "key" else None)

    def pruned(self) -> Iterator[Outcome]:
        """Remove what this set had made and no longer names, in the organizations that it names: what refers to others first."""
        from millrace.cli.documents import ordered

        orgs = sorted({org for _, org, _ in self._named} | {org_of(self._session)})
        for kind in (kinds()[noun] for noun in reversed(ordered())):
            for org in sorted({kind.org(org) for org in orgs}):
                for shown in every(self._session, kind, org):
                    if shown["applied_as"] == self._called and (kind.noun, org, shown["name"]) not in self._named:
                        yield self.remove(kind, org, shown)

    def remove(self, kind: Kind, org: str, shown: dict[str, Any]) -> Outcome:
        """Remove a resource as it was shown: another client may have changed it since."""
        headers = _for(org) | {"If-Match": f'"{shown["version"]}"'}
        try:
            if not self._dry_run:
                self._session.api.call("DELETE", *kind.place(shown["name"], org), headers=headers)
        except Refused as refused:
            return Outcome("failed", kind.noun, shown["name"], org, None, (str(refused),))
        return Outcome("removed", kind.noun, shown["name"], org, None)

    def _condition(self, key: Key) -> dict[str, str]:
        if key not in self._expected:
            return {}
        version = self._expected[key]
        return {"If-None-Match": "*"} if version is None else {"If-Match": f'"{version}"'}

    def _would_pass(self, one: Document, refused: Refused) -> bool:
        """Return whether a resource is refused only as long as what it refers to is not there, which it would be by then."""
        _, org, name = one.key
        if refused.status == 404:
            return any((parent.noun, owner, name) in self._made for parent in one.kind.parents for owner in (org, "global"))
        there = {field for field, kind in one.kind.referring.items() if (kind, org, str(one.fields.get(field))) in self._made}
        return refused.status == 422 and {path for path, _ in refused.problems} <= there


def printed(session: Session, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes, each printed as it comes."""
    found = []
    for one in outcomes:
        found.append(one)
        if session.is_json or one.change == "none":
            continue
        level = "error" if one.change == "failed" else "info"
        if one.name is not None:
            of = "" if one.org == org_of(session) else f" of {one.org}"
            shown = "" if one.key is None else f" ({one.key}, which is shown only now)"
            show.said(show.plain(f"{one.change} {one.kind} {one.name}{of}{shown}"), level)
        for reason in one.reasons:
            show.aside(show.plain(" ".join(reason.split())), level if one.change == "failed" else "warning")
    return found


def _summed_up(session: Session, done: list[Outcome], *, dry_run: bool) -> None:
    if session.is_json:
        show.document([asdict(one) for one in done])
    else:
        counts = {change: sum(one.change == change for one in done) for change in CHANGES}
        same = counts.pop("none")
        told = [f"{number} {change}" for change, number in counts.items() if number]
        if told:
            would = "would be: " if dry_run else ""
            show.said(would + ", ".join([*told, *([f"{same} as they are"] if same else [])]))
        else:
            show.said("nothing to do")
    if any(one.change == "failed" for one in done):
        raise click.exceptions.Exit(codes.REFUSED)


def every(session: Session, kind: Kind, org: str) -> Iterator[dict[str, Any]]:
    """Yield an organization's own resources of a kind; none of a kind that the caller may not list."""
    if kind.org(org) != org:
        return
    names = [""]
    if kind.is_placed:
        found = [one for parent in kind.parents for one in session.api.pages(*parent.collection(""), headers=_for(org))["items"]]
        names = sorted({one["name"] for one in found})
    for name in names:
        try:
            page = session.api.pages(*kind.collection(name), headers=_for(org))
        except Refused as refused:
            if refused.status != FORBIDDEN:
                raise
            if not kind.platform:
                show.aside(show.plain(f"{kind.plural} are passed over: {refused}"), "warning")
            return
        for shown in page["items"]:
            if shown["org"] == org:
                yield shown


def _for(org: str) -> dict[str, str]:
    return {"X-Millrace-Org": org}


COMMANDS: list[click.Command] = [apply, export]
