"""The endpoints of resources, as each kind declares them: list, create, get, put, patch and delete, written once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from services.gateway.api.endpoint import (
    CHANGE,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION,
    Answer,
    Audit,
    Call,
    Endpoint,
    Example,
    Reply,
)
from services.gateway.api.lists import Object, Paged, creating, expected_of
from shared.envelope import new_id
from shared.errors import Conflict, NotFound, PreconditionFailed, Unavailable
from shared.organizations import PLATFORM
from shared.questions.resources import GetResource, ListResources, PutResource, RemoveResource, Shown, of
from shared.resources import KINDS, Kind
from shared.resources.declaration import about
from shared.values import Name

Handler = Callable[[Call[Any, Any]], Awaitable[Any]]
API = "/api/v1"
# Bytes, as JSON, of a value in an audit.
LONGEST = 2000


class Applying(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of a change."""

    dry_run: Annotated[bool, about("Check everything, change nothing, and answer what would be.")] = False
    applied_as: Annotated[Name, about("The set of files that the resource comes from.")] | None = None


class Resources:
    """The handlers of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    async def list(self, call: Call[Paged, None]) -> Object:
        """Return a page of resources, by name; of those whose path names the organization, by organization."""
        page = await call.ask(
            of(ListResources, self._kind.noun, org=call.caller.org, name=call.path.get("name"), page=call.query.page)
        )
        return {"items": [self._shown(call, fields) for fields in page.items], "next_cursor": page.next_cursor}

    async def get(self, call: Call[None, None]) -> Answer:
        """Return a resource by name or id."""
        shown = await self._present(call)
        return Answer(body=self._shown(call, shown.fields), tag=shown.version)

    async def create(self, call: Call[Applying, Any]) -> Answer:
        """Create a resource that is not there."""
        fields = _given(call.body)
        name = fields.pop("name")
        with creating(self._kind.noun, name):
            answer = await self._put(call, name, fields, expected=0)
        located = call.request.path + "/" + (answer.body["id"] if self._kind.registered else name)
        return msgspec.structs.replace(answer, status=201, location=located)

    async def put(self, call: Call[Applying, Any]) -> Answer:
        """Create or replace a resource."""
        return await self._put(call, call.path["name"], _given(call.body), expected=await self._expected(call))

    async def patch(self, call: Call[Applying, Object]) -> Answer:
        """Change the given fields of a resource."""
        return await self._put(call, call.path["name"], call.body, expected=await self._expected(call), patch=True)

    async def delete(self, call: Call[None, None]) -> Answer:
        """Remove a resource."""
        expected = await self._expected(call)
        command = of(
            RemoveResource,
            self._kind.noun,
            id=new_id(),
            org=call.caller.org,
            actor=call.caller.actor,
            name=call.path["name"],
            expected=expected,
        )
        removed = await call.ask(command)
        call.note(changes=_bounded(removed.changes))
        return Answer(status=204)

    async def _put(
        self,
        call: Call[Applying, Any],
        name: str,
        fields: Object,
        *,
        expected: int | None,
        patch: bool = False,
        internal: Object | None = None,
    ) -> Answer:
        """Send a change to the owner; fields that may be secret are sealed for this command, since the bus must not know them."""
        id_, org = new_id(), call.caller.org
        if call.query.dry_run:
            # What was only tried is no change: it does not read like one.
            call.verb = "check"
        sealed = {
            field: call.gateway.keyring.seal(msgspec.json.encode(fields.pop(field)).decode(), org, id_, field)
            for field in sorted(self._kind.confidential & fields.keys())
        }
        shown = await call.ask(
            of(
                PutResource,
                self._kind.noun,
                id=id_,
                org=org,
                actor=call.caller.actor,
                name=name,
                fields=fields,
                sealed=sealed,
                patch=patch,
                expected=expected,
                applied_as=call.query.applied_as,
                dry_run=call.query.dry_run,
                internal=internal or {},
                by_platform=call.caller.is_platform,
            )
        )
        call.note(change=shown.change)
        call.unchanged = shown.change == "none" and not call.query.dry_run
        if shown.changes and not call.query.dry_run:
            call.note(changes=_bounded(shown.changes))
        return Answer(body=self._shown(call, shown.fields), tag=shown.version, headers={CHANGE.name: shown.change})

    async def _present(self, call: Call[Any, Any]) -> Shown:
        return await call.ask(of(GetResource, self._kind.noun, org=call.caller.org, name=call.path["name"]))

    async def _expected(self, call: Call[Any, Any]) -> int | None:
        async def present() -> Shown | None:
            try:
                shown = await self._present(call)
            except NotFound:
                return None
            return shown if shown.fields["org"] == call.caller.org else None

        return await expected_of(call.request, present)

    def _shown(self, call: Call[Any, Any], fields: Object) -> Object:
        """Return a resource as it is answered: a link within this gateway begins with its public address."""
        links = {name: call.gateway.public_url + fields[name] for name in self._kind.links if fields[name] is not None}
        return fields | links


def check_known(call: Call[Any, Any], *, is_known: bool) -> None:
    """Raise `Unavailable` for a change that is recorded, as the audit has it, and that this gateway has not heard of yet."""
    if not is_known:
        call.done()
        raise Unavailable("it is recorded, and counts here in a moment: this gateway has not heard of it yet", retry_after=1.0)


def _given(body: msgspec.Struct) -> Object:
    given: Object = msgspec.to_builtins(body)
    return given


def _bounded(changes: dict[str, tuple[Any, Any]]) -> Object:
    """Return changes for an audit: values that are long without what they are."""
    return {name: [_short(value) for value in both] for name, both in changes.items()}


def _short(value: Any) -> Any:
    size = len(msgspec.json.encode(value))
    return value if size <= LONGEST else f"({size} bytes)"


def endpoints_of(kind: Kind, made: Resources | None = None, *, whole: bool = False) -> tuple[Endpoint, ...]:
    """Return the endpoints of a kind, by handlers of its own if it has some; `whole` as an endpoint's, of those that change one."""
    made, noun, plural, called = made or Resources(kind), kind.noun, kind.plural, kind.noun.replace("_", " ")
    one, many = API + kind.path, API + kind.collection
    a_noun = f"{'an' if called[0] in 'aeio' else 'a'} {called}"
    where: dict[str, Any] = {
        "path": {} if kind.names.example is None else {"name": kind.names.example},
        "query": {"org": PLATFORM} if kind.of_platform else {},
    }
    shown, changed = Reply(kind.shown, headers=(ETAG,)), Reply(kind.shown, headers=(ETAG, CHANGE))
    changing: dict[str, Any] = {
        "role": kind.write,
        "whole": whole,
        "platform": kind.of_platform,
        "query": Applying,
        "headers": (IF_MATCH, IF_NONE_MATCH),
        "errors": (Conflict, PreconditionFailed, NotFound),
    }
    listed = Endpoint(
        method="GET",
        path=many,
        role=kind.read,
        platform=kind.of_platform,
        name=f"list_{plural.replace('-', '_')}",
        doc=f"List the {plural} of the {'platform' if kind.of_platform else 'organization'}.",
        query=Paged,
        answers={200: kind.page},
        errors=(NotFound,) if kind.is_placed else (),
        every_org=kind.is_placed,
        example=Example(query=where["query"]),
        handler=made.list,
    )
    create = Endpoint(
        method="POST",
        path=many,
        role=kind.write,
        whole=whole,
        platform=kind.of_platform,
        name=f"create_{noun}",
        doc=f"Create {a_noun}. 409 when there is one of that name.",
        query=Applying,
        body=kind.creation,
        answers={201: Reply(kind.shown, headers=(ETAG, CHANGE, LOCATION))},
        errors=(Conflict, NotFound),
        audit=Audit(noun, "create", "name"),
        example=Example(query=where["query"], body={"name": kind.names.example or "example"} | kind.example),
        handler=made.create,
    )
    return (
        listed,
        *(() if kind.is_placed else (create,)),
        Endpoint(
            method="GET",
            path=one,
            role=kind.read,
            platform=kind.of_platform,
            name=f"get_{noun}",
            doc=f"Get {a_noun}, by name or id.",
            answers={200: shown},
            errors=(NotFound,),
            example=Example(**where),
            handler=made.get,
        ),
        Endpoint(
            method="PUT",
            path=one,
            name=f"put_{noun}",
            doc=f"Create or replace {a_noun}. Secrets that are not given stay as they are, those that are null are forgotten.",
            body=kind.body,
            answers={200: changed},
            audit=Audit(noun, "put", "name"),
            example=Example(**where, body=kind.example),
            handler=made.put,
            **changing,
        ),
        Endpoint(
            method="PATCH",
            path=one,
            name=f"patch_{noun}",
            doc=f"Change what is given of {a_noun} (JSON merge patch, RFC 7396): null means a field's default, and no member.",
            body=Object,
            documented=kind.change,
            answers={200: changed},
            audit=Audit(noun, "patch", "name"),
            example=Example(**where, body=kind.example),
            handler=made.patch,
            **changing,
        ),
        Endpoint(
            method="DELETE",
            path=one,
            name=f"delete_{noun}",
            doc=f"Remove {a_noun}.",
            answers={204: None},
            audit=Audit(noun, "delete", "name"),
            example=Example(**where),
            handler=made.delete,
            **(changing | {"query": None}),
        ),
    )


# Kinds whose handlers do more, in modules of their own.
APART = {"key", "organization", "user"}
# Kinds that say what others may do: a key with scopes changes none.
GIVING = {"identity_provider"}
ENDPOINTS = tuple(one for kind in KINDS.values() if kind.noun not in APART for one in endpoints_of(kind, whole=kind.noun in GIVING))
