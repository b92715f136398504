"""Carries a plan out, so that whatever ends it in between, the same command goes on where it stood.

The record of the pack is written first, with all that there may be of it from then on, and last, with what there is. In between
what serves by itself comes after all that it needs: plain resources, then the files as one commit, then sources, subscriptions and
schedules. What goes is taken away in the opposite order, after what came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from millrace.cli.api import Refused
from millrace.cli.applying import FileSet, Outcome
from millrace.cli.deployment import MISSING, commit, is_error
from millrace.cli.documents import Document, ordered
from millrace.cli.entities import org_of
from millrace.cli.kinds import kinds
from millrace.cli.packs.deciding import ABSENT
from millrace.cli.packs.manifest import FILE, Manifest, label
from millrace.cli.packs.planning import FILES, Held, Item, Plan, changes_of, digest_of
from millrace.cli.session import Session

# It is not at the version that was named.
CHANGED = 412


class Stopped(Exception):
    """It could not be brought to its end. As text: why; the same command goes on."""


def faults_of(session: Session, pack: Manifest, found: Plan) -> list[str]:
    """Return why the record of a pack would be refused; nothing is changed."""
    try:
        _record(session, pack, found).begin("applying", dry_run=True)
    except Refused as refused:
        return [f"{pack.folder / FILE}: {path + ': ' if path else ''}{said}" for path, said in refused.problems]
    return []


def _record(session: Session, pack: Manifest, found: Plan) -> _Record:
    return _Record(session, found, {"release": pack.version, "origin": pack.origin, "description": pack.description})


def bring(session: Session, pack: Manifest, found: Plan) -> Iterator[Outcome]:
    """Bring a pack, and yield what becomes of each thing. Raises `Stopped`, `Refused`, `Unreachable`."""
    written = _record(session, pack, found)
    resources = [one for one in found.resources() if one.acts]
    if not resources and not changes_of(found) and written.is_whole(found):
        return
    written.begin("applying")
    wanted = [found.documents[one.kind, one.name] for one in resources if one.action != "remove"]
    applied = FileSet(session, pack.label, found.documents.values(), dry_run=False, expected=found.versions(org_of(session)))
    yield from _put(applied, [one for one in wanted if not serves(one.kind.noun)])
    written.check()
    yield from _commit(session, found, f"pack {pack.name} {pack.version}")
    written.check()
    yield from _put(applied, [one for one in wanted if serves(one.kind.noun)])
    gone = [one for one in resources if one.action == "remove"]
    yield from _remove(session, found, [one for one in gone if serves(one.kind)])
    yield from _remove(session, found, [one for one in gone if not serves(one.kind)])
    written.end({(kind, name): shown for (kind, _, name), shown in applied.shown.items()})
    yield Outcome("created" if found.record is None else "changed", "pack", pack.name, org_of(session), None)


def take_away(session: Session, found: Plan) -> Iterator[Outcome]:
    """Remove all that a pack has brought, and yield what becomes of each thing. Raises as `bring`."""
    record = found.record or {}
    written = _Record(session, found, {name: record[name] for name in ("release", "origin", "description")})
    written.begin("removing")
    gone = [one for one in found.resources() if one.acts]
    yield from _remove(session, found, [one for one in gone if serves(one.kind)])
    written.check()
    yield from _commit(session, found, f"remove the pack {found.name}")
    yield from _remove(session, found, [one for one in gone if not serves(one.kind)])
    written.delete()
    yield Outcome("removed", "pack", found.name, org_of(session), None)


def serves(noun: str) -> bool:
    """Return whether a resource of this kind does something as soon as it is there."""
    return any(field.name == "enabled" for field in kinds()[noun].fields)


def record_of(found: Plan, digests: Mapping[tuple[str, str], str]) -> tuple[Held, Held]:
    """Return what a pack's record holds when it is there: of each thing what the pack has, also where somebody's change is kept."""
    resources: Held = {}
    files: Held = {}
    for one in found.items:
        digest = digests.get((one.kind, one.name), one.wanted)
        if digest != ABSENT:
            (files if one.kind == FILES else resources)[one.key] = [digest]
    return resources, files


class _Record:
    """The record of a pack, written by one at a time: who finds another version than its own stops."""

    def __init__(self, session: Session, found: Plan, fields: Mapping[str, Any]) -> None:
        self._session = session
        self._found = found
        self._fields = dict(fields)
        self._version = None if found.record is None else found.record["version"]

    def is_whole(self, found: Plan) -> bool:
        """Return whether the record says already what it would in the end."""
        resources, files = record_of(found, {})
        wanted = {**self._fields, "status": "applied", "resources": resources, "files": files}
        return found.record is not None and all(found.record[name] == value for name, value in wanted.items())

    def begin(self, status: str, *, dry_run: bool = False) -> None:
        """Say what is about to be done, with all digests that each thing may have until it is."""
        held: dict[str, Held] = {"resources": {}, "files": {}}
        for one in self._found.items:
            held["files" if one.kind == FILES else "resources"][one.key] = list(one.base)
        body = {**self._fields, "status": status, **held}
        if dry_run:
            self._session.api.call("PUT", "/packs", self._found.name, body=body, query={"dry_run": "true"})
        else:
            self._put(body)

    def check(self) -> None:
        """Stop where somebody else has begun since: what is brought from here on would be in no record."""
        try:
            version = self._session.api.get("/packs", self._found.name)["version"]
        except Refused as refused:
            if refused.status != MISSING:
                raise
            version = None
        if version != self._version:
            raise self._overtaken()

    def end(self, shown: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Say what is there."""
        digests = {place: digest_of(place[0], one) for place, one in shown.items()}
        resources, files = record_of(self._found, digests)
        self._put({**self._fields, "status": "applied", "resources": resources, "files": files})

    def delete(self) -> None:
        """Forget the pack."""
        try:
            self._session.api.call("DELETE", "/packs", self._found.name, headers={"If-Match": f'"{self._version}"'})
        except Refused as refused:
            if refused.status not in {MISSING, CHANGED}:
                raise
            raise self._overtaken() from refused

    def _put(self, body: Mapping[str, Any]) -> None:
        condition = {"If-None-Match": "*"} if self._version is None else {"If-Match": f'"{self._version}"'}
        try:
            answer = self._session.api.call("PUT", "/packs", self._found.name, body=body, headers=condition)
        except Refused as refused:
            if refused.status != CHANGED:
                raise
            raise self._overtaken() from refused
        self._version = answer["version"]

    def _overtaken(self) -> Stopped:
        return Stopped(f"somebody else has begun with the pack {self._found.name!r}")


def _put(applied: FileSet, documents: list[Document]) -> Iterator[Outcome]:
    for outcome in applied.put_all(documents):
        yield outcome
        if outcome.change == "failed":
            raise Stopped(f"{outcome.kind} {outcome.name} was refused")


def _commit(session: Session, found: Plan, message: str) -> Iterator[Outcome]:
    changes = changes_of(found)
    if not changes:
        return
    hashes = {one.name: one.wanted for one in found.files() if one.wanted != ABSENT}
    answer = commit(session.api, changes, found.remote, hashes, {"message": message})
    org = org_of(session)
    for path, file in changes:
        change = "removed" if file is None else "changed" if path in found.remote else "created"
        own = [one for one in answer["problems"] if one["path"] == path]
        said = tuple(f"{file or path}:{one['line']}: {one['message']}" for one in own)
        yield Outcome("failed" if any(map(is_error, own)) else change, FILES, path, org, str(file or path), said)
        if any(map(is_error, own)):
            raise Stopped(f"{path} cannot be served")


def _remove(session: Session, found: Plan, items: Iterable[Item]) -> Iterator[Outcome]:
    order = ordered()
    asked = FileSet(session, label(found.name), (), dry_run=False)
    for one in sorted(items, key=lambda one: order.index(one.kind), reverse=True):
        outcome = asked.remove(kinds()[one.kind], org_of(session), found.present[one.kind, one.name])
        yield outcome
        if outcome.change == "failed":
            raise Stopped(f"{one.kind} {one.name} was not removed")
