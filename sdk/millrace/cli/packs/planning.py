"""A pack beside what is there: what would be created, changed, removed and kept, what stands in the way, and who changed what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from millrace.cli.api import Api, Refused
from millrace.cli.applying import FileSet, Key, every
from millrace.cli.deployment import commit, is_error
from millrace.cli.documents import Document, ordered
from millrace.cli.entities import org_of
from millrace.cli.folder import files_of, sha256_of
from millrace.cli.kinds import Kind, kinds
from millrace.cli.packs.deciding import ABSENT, UNKNOWN, Action, bases, decide
from millrace.cli.packs.manifest import NAME, Manifest, label, why_not
from millrace.cli.session import Session

# Of one pack, as its record holds them.
MOST = 500
FILES = "file"
Held = dict[str, list[str]]
Record = dict[str, Any]
Place = tuple[str, str]


@dataclass(frozen=True)
class Item:
    """One thing of a pack: a file of the workspace, or a resource. `fields` has what differs, as it is and as the pack has it.

    `why` says why it is kept, or stands in the way. `base` holds the digests that it may have while it is being changed.
    """

    kind: str
    name: str
    action: Action
    wanted: str
    why: str | None = None
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    base: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return its name in the record of its pack."""
        return self.name if self.kind == FILES else f"{self.kind}/{self.name}"

    @property
    def acts(self) -> bool:
        """Whether there is something to do."""
        return self.action in {"create", "change", "remove"}


@dataclass
class Plan:
    """What it takes to bring a pack, or to remove one. `faults` are why it cannot be done, each with its place."""

    name: str
    version: str | None
    record: Record | None
    items: list[Item] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    documents: dict[Place, Document] = field(default_factory=dict)
    present: dict[Place, dict[str, Any]] = field(default_factory=dict)
    local: dict[str, Path] = field(default_factory=dict)
    remote: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def conflicts(self) -> list[Item]:
        """What stands in the way until somebody says whose side counts."""
        return [one for one in self.items if one.action == "conflict"]

    def held(self, section: str) -> Held:
        """Return what the record has of `resources` or `files`."""
        found: Held = {} if self.record is None else self.record[section]
        return found

    def versions(self, org: str) -> dict[Key, int | None]:
        """Return the version that each of the pack's resources has now, None where it is not there."""
        there = {place: shown["version"] for place, shown in self.present.items()}
        return {(kind, org, name): there.get((kind, name)) for kind, name in self.documents}

    def files(self) -> list[Item]:
        """Return the files among the items."""
        return [one for one in self.items if one.kind == FILES]

    def resources(self) -> list[Item]:
        """Return the resources among the items, what others refer to first."""
        return [one for one in self.items if one.kind != FILES]


def plan_of(session: Session, pack: Manifest, values: Mapping[str, str], *, force: bool) -> Plan:
    """Compare a pack with what is there; everything is checked by its owner, and nothing is changed."""
    documents, faults = pack.documents(org_of(session), values)
    found = _begun(session, pack.name, pack.version)
    found.faults += [str(fault) for fault in faults]
    found.documents = {(one.kind.noun, one.name): one for one in documents}
    folder = files_of(pack.folder / pack.code)
    found.local = {f"{pack.code}/{path}": file for path, file in folder.files.items()}
    found.left_out = {f"{pack.code}/{path}": reason for path, reason in folder.left_out.items()}
    for section, number in (("resources", len(found.documents)), ("files", len(found.local))):
        if number > MOST:
            found.faults.append(f"{pack.folder}: has {number} {section}, and a pack has {MOST} at most")
            # Each would be sent to be checked.
            return found
    if not found.documents and not found.local:
        found.faults.append(f"{pack.folder}: has neither resources nor files below {pack.code}/")
    _compare_resources(session, found, force=force)
    _compare_files(session.api, found, pack.code, force=force)
    return found


def removal_of(session: Session, name: str, *, force: bool) -> Plan:
    """Compare what a pack brought with what is there of it. Raises `Refused` where there is no such pack."""
    session.api.get("/packs", name)
    found = _begun(session, name, None)
    _compare_gone(found, force=force)
    # A record of another name was written by hand: the folder that would be its own may be that of a pack.
    if NAME.fullmatch(name):
        _compare_files(session.api, found, name.replace("-", "_"), force=force)
    return found


def changes_of(found: Plan) -> list[tuple[str, Path | None]]:
    """Return the changes of the workspace that a plan makes."""
    files = [one for one in found.files() if one.acts]
    return [(one.name, None if one.action == "remove" else found.local[one.name]) for one in files]


def _begun(session: Session, name: str, version: str | None) -> Plan:
    try:
        record = session.api.get("/packs", name)
    except Refused as refused:
        if refused.status != 404:
            raise
        record = None
    org = org_of(session)
    of_packs = [kind for kind in (kinds()[noun] for noun in ordered()) if not why_not(kind)]
    present = {(kind.noun, shown["name"]): shown for kind in of_packs for shown in every(session, kind, org)}
    return Plan(name, version, record, present=present)


def _compare_resources(session: Session, found: Plan, *, force: bool) -> None:
    org, ours = org_of(session), label(found.name)
    # One that lacks a value cannot be checked before that is given; the checklist names it.
    whole = [one for place, one in found.documents.items() if not one.unset or place in found.present]
    tried = FileSet(session, ours, found.documents.values(), dry_run=True, expected=found.versions(org))
    tried.will_be(one.key for one in found.documents.values() if one not in whole)
    effects: dict[Place, str] = {}
    for outcome in tried.put_all(whole):
        found.faults += outcome.reasons if outcome.change == "failed" else ()
        effects[str(outcome.kind), str(outcome.name)] = outcome.change
    for place, document in found.documents.items():
        now, would = found.present.get(place), tried.shown.get(document.key)
        wanted = UNKNOWN if would is None else digest_of(place[0], would)
        base = found.held("resources").get("/".join(place))
        if now is not None and now["applied_as"] != ours:
            whose = _whose(now["applied_as"])
            if (now["applied_as"] or "").startswith(label("")):
                found.faults.append(f"{document.where}: {place[0]} {place[1]!r} {whose}")
                continue
            found.items.append(_item(*place, None, digest_of(place[0], now), wanted, force=force, why=whose))
            continue
        if now is not None:
            # The record may be of an earlier time than the resource: what bears its name is the pack's.
            base = base or []
        fields = _differing(document, now, would)
        present = ABSENT if now is None else digest_of(place[0], now)
        item = _item(*place, base, present, wanted, force=force, fields=fields)
        if item.action == "none" and effects.get(place) == "changed":
            # A secret is given anew, or a name means another one by now: no digest shows that.
            item = replace(item, action="change")
        found.items.append(item)
    _compare_gone(found, force=force)


def _compare_gone(found: Plan, *, force: bool) -> None:
    """Add what is the pack's, and not in its documents any more."""
    for place, now in found.present.items():
        if now["applied_as"] == label(found.name) and place not in found.documents:
            base = found.held("resources").get("/".join(place), ())
            found.items.append(_item(*place, base, digest_of(place[0], now), force=force))


def _compare_files(api: Api, found: Plan, folder: str, *, force: bool) -> None:
    views = api.pages("/workspace/files", query={"prefix": f"{folder}/"})["items"]
    found.remote = {view["path"]: view["sha256"] for view in views}
    held = found.held("files")
    for path in sorted({*found.local, *held}):
        wanted = sha256_of(found.local[path]) if path in found.local else ABSENT
        item = _item(FILES, path, held.get(path), found.remote.get(path, ABSENT), wanted, force=force, why=_whose(None))
        if wanted != ABSENT or item.acts or item.action == "conflict":
            found.items.append(item)
    changes = changes_of(found)
    if changes and not found.conflicts and found.version is not None:
        hashes = {one.name: one.wanted for one in found.files()}
        answer = commit(api, changes, found.remote, hashes, {"dry_run": "true"})
        # Of two workflows with one name the problem is the later one's, which may be somebody else's.
        own = [one for one in answer["problems"] if is_error(one) and f"{folder}/" in f"{one['path']} {one['message']}"]
        found.faults += [f"{found.local.get(one['path'], one['path'])}:{one['line']}: {one['message']}" for one in own]


def _item(
    kind: str,
    name: str,
    base: Collection[str] | None,
    present: str,
    wanted: str = ABSENT,
    *,
    force: bool,
    why: str | None = None,
    fields: Mapping[str, tuple[Any, Any]] | None = None,
) -> Item:
    action = decide(base, present, wanted, force=force)
    said = None
    if action in {"keep", "conflict"}:
        by_hand = "was removed here" if present == ABSENT else "was changed here"
        said = (why if base is None and why else by_hand) + (", and the pack has not changed" if action == "keep" else "")
    return Item(kind, name, action, wanted, said, fields or {}, tuple(bases(base, present, wanted)))


def _differing(document: Document, now: dict[str, Any] | None, would: dict[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which a resource differs from what the pack has, as far as its owner has said how that is.

    Of one that is not there they are those of the document: what nobody gives is as it is by itself.
    """
    kind = document.kind
    one = {} if now is None else kind.body_of(now)
    secret = {field.name for field in kind.fields if field.is_secret or field.has_secrets}
    other = {name: value for name, value in document.fields.items() if name not in secret} if would is None else kind.body_of(would)
    given = other if now is not None else {name: value for name, value in other.items() if name in document.fields}
    return {name: (one.get(name), value) for name, value in given.items() if value != one.get(name)}


def digest_of(noun: str, shown: Mapping[str, Any]) -> str:
    """Return the digest of a resource's fields: without secrets, and without those that are as they are when nobody gives them."""
    kind: Kind = kinds()[noun]
    fields = kind.body_of(dict(shown))
    defaults = {one.name: one.schema.get("default") for one in kind.fields}
    # What a later version of the platform adds has its default, and changes no digest.
    told = {name: value for name, value in fields.items() if value != defaults[name]}
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _whose(applied_as: str | None) -> str:
    if applied_as is None:
        return "is there, and no pack's"
    pack = applied_as.removeprefix(label(""))
    return f"is of the set {applied_as!r}" if pack == applied_as else f"is of the pack {pack!r}"


def others(found: Plan) -> Iterator[str]:
    """Yield the files in a pack's folder that are not its own."""
    named = {one.name for one in found.files()}
    yield from (path for path in sorted(found.remote) if path not in named)
