"""One turn at one source: what is due of its registration is done at the sender, and recorded.

Each message expects the one that the turn began with, so that of two replicas one goes on. Before a sender is asked for something
new that is recorded: whatever a turn that was cut off has left there, its successor finds by its callback.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec
import structlog

from services.events.adapters import ADAPTERS, custom
from services.events.adapters.registering import Given, Registering, filled
from services.events.registrations import plan
from services.events.registrations.plan import WantedRegistration
from services.events.registrations.sender import Remote, SenderApi
from services.events.registrations.telling import SourceSecrets, TellingDeps, keep_secret
from shared import aggregate
from shared.adapters import CustomAdapters
from shared.bus import Bus
from shared.egress.fetching import Fetcher
from shared.encryption import CannotOpen
from shared.envelope import new_id, rfc3339
from shared.errors import Conflict, Invalid, MillraceError, NotFound, Unavailable
from shared.messages import (
    RegistrationBegun,
    RegistrationConfirmed,
    RegistrationFailed,
    RegistrationRemoved,
    RegistrationState,
)
from shared.questions.events import MappingView
from shared.questions.oauth import GetToken
from shared.resources.source import SourceEntry

# Characters of an error that is recorded and shown.
LONGEST_ERROR = 1000
# Refusals of a renewal before another one is made.
MOST_RENEWALS = 2

_log = structlog.get_logger()


class TurnDeps(TellingDeps, Protocol):
    """Dependencies of a turn."""

    bus: Bus
    fetcher: Fetcher
    adapters: CustomAdapters
    public_url: str | None

    async def mapping(self, org: str, integration: str) -> MappingView:
        """Return an integration's values for an organization. Raises NotFound naming the missing part, Unavailable."""


class Turn:
    """One turn. `source` is the one that wants to be registered, None where it does not, or is not there any more."""

    def __init__(
        self,
        deps: TurnDeps,
        *,
        id_: str,
        org: str,
        source: SourceEntry | None,
        last: RegistrationState | None,
        sequence: int,
        now: Callable[[], datetime],
    ) -> None:
        self._deps = deps
        self._id = id_
        self._org = org
        self._source = source
        self._version = 0 if source is None else source.version
        self._last = last
        self.sequence = sequence
        self._now = now
        self._secrets: SourceSecrets | None = None

    async def take(self, *, hurried: bool) -> None:
        """Do what is due. What stands in the way is recorded. Raises `Conflict` where another turn came first, `Unavailable`."""
        try:
            await self._taken(hurried=hurried)
        except _Recording as error:
            raise error.reason from error

    async def _taken(self, *, hurried: bool) -> None:
        try:
            if self._source is not None:
                await self._keep(self._source, hurried=hurried)
            elif self._last is not None and plan.due_at(self._last, 0, self._now(), hurried=hurried) <= self._now():
                await self._end(self._last)
        except _Recording:
            raise
        except MillraceError as error:
            await self._fail(error)
        except Exception as error:
            # A bug: it harms this source only.
            _log.exception("registration.bug", org=self._org, source=self._id)
            await self._fail(Unavailable(f"Millrace has made a mistake: {type(error).__name__}"))

    # -- what is wanted -----------------------------------------------------------------------------------------------

    async def _keep(self, source: SourceEntry, *, hurried: bool) -> None:
        """Have the sender have what the source wants."""
        wanted = await self._wanted(source)
        match plan.step(self._last, wanted, self._now(), version=self._version, hurried=hurried):
            case "nothing":
                if self._last is not None and self._last.error is None and self._last.tried != self._version:
                    await self._append(RegistrationConfirmed)
            case "renew":
                await self._renew(wanted)
            case "replace":
                await self._discard()
                await self._create(wanted)
            case "create":
                await self._create(wanted)

    async def _wanted(self, source: SourceEntry) -> WantedRegistration:
        """Return what a source wants. Raises `NotFound`, `Invalid`, `Unavailable` for what it lacks."""
        asked, registering = source.spec.settings["registration"], await self._registering(source.spec.adapter)
        if source.spec.integration is None:
            raise Invalid("the source names no integration, whose connection it is registered with")
        mapping = await self._deps.mapping(source.org, source.spec.integration)
        if mapping.connection is None:
            detail = f"the mapping of integration {mapping.integration!r} for {source.org!r} names no connection"
            raise NotFound(f"{detail}: put one, whose token the sender takes")
        try:
            resource = registering.resource(asked)
        except ValueError as error:  # the adapter, in a workspace, wants other settings by now
            raise Invalid(f"settings.registration: {error}") from error
        self._secrets = told = SourceSecrets(self._deps.keyring, source, registering, resource)
        place = f"{asked.get('api_url') or registering.api}/{resource.collection}"
        # A secret that another key seals is the same one to the sender.
        digest, former = (
            plan.digest_of(place, mapping.connection, resource, self._callback, *parts) for parts in (told.stems, told.sealed)
        )
        lifetime = asked.get("lifetime") or registering.lifetime
        return WantedRegistration(
            place=place,
            connection=mapping.connection,
            resource=resource,
            lifetime=lifetime,
            digest=digest,
            former=former,
            handed=told.handed,
            unknown=told.handed and not told.secret,
        )

    async def _create(self, wanted: WantedRegistration) -> None:
        """Have it made, or take over what an earlier turn had made of the same; anything else that notifies us is removed."""
        last = self._last
        # Of one whose answer was lost nobody knows the secret that its sender made up.
        again = last is not None and last.digest in {wanted.digest, wanted.former} and not wanted.handed
        gone = None if last is None else last.remote
        api = await self._api(self._adapter, wanted.place, wanted.connection)
        made = {"digest": wanted.digest, "place": wanted.place, "connection": wanted.connection, "adapter": self._adapter}
        nothing = {"remote": None, "expires_at": None, "notice": None}
        await self._append(RegistrationBegun, due_at=rfc3339(self._now()), **made, **nothing)
        kept: Remote | None = None
        for one in await api.of(self._path):
            if again and kept is None and one.callback == self._callback and one.id != gone:
                kept = one
            else:
                await api.delete(one.id)
        if kept is None:
            kept = await api.create(self._body(wanted.resource.created, wanted))
            if wanted.handed:
                await self._keep_secret(api, kept)
        try:
            await self._confirm(kept, wanted)
        except _Recording as error:
            await self._give_way(api, kept, error)
            raise

    async def _keep_secret(self, api: SenderApi, made: Remote) -> None:
        """Have the source keep the secret that the sender made up; else what was made is removed."""
        assert self._source is not None and self._secrets is not None  # noqa: S101, PT018 - nothing is made for no source
        try:
            self._version = await keep_secret(self._deps, self._source, made.secret, self._secrets.secret)
        except MillraceError:
            await api.delete(made.id)
            raise

    async def _renew(self, wanted: WantedRegistration) -> None:
        """Have it go on; where the sender does not take that, have it made anew."""
        assert self._last is not None and self._last.remote is not None  # noqa: S101, PT018 - `plan.step` has seen it
        api = await self._api(self._adapter, wanted.place, wanted.connection)
        try:
            renewed = await api.renew(self._last.remote, self._body(wanted.resource.renewed, wanted))
        except (NotFound, Conflict, Invalid) as error:
            # One that is there goes on notifying until it ends: only where tries are of no use it gives way to a new one.
            if not isinstance(error, NotFound) and self._last.tries < MOST_RENEWALS:
                raise
            _log.info("registration.not_renewed", org=self._org, source=self._id, reason=error.detail)
            await api.delete(self._last.remote)
            await self._create(wanted)
        else:
            await self._confirm(renewed, wanted)

    async def _give_way(self, api: SenderApi, made: Remote, error: _Recording) -> None:
        """Remove what was made while another turn had its own confirmed."""
        if isinstance(error.reason, Conflict):
            stored, _ = await aggregate.present(self._deps.bus.client, "registration", self._id)
            now = state_of(stored)
            if now is None or now.remote not in {None, made.id}:
                await api.delete(made.id)

    async def _confirm(self, remote: Remote, wanted: WantedRegistration) -> None:
        now, ends = self._now(), remote.expires_at
        if ends is None and wanted.lifetime:
            ends = now + timedelta(seconds=wanted.lifetime)
        await self._append(
            RegistrationConfirmed,
            digest=wanted.digest,
            remote=remote.id,
            expires_at=None if ends is None else rfc3339(ends),
            due_at=rfc3339(plan.renewal(ends, now, random.random())),  # noqa: S311 - no secret
            **_CALM,
        )

    # -- what is not wanted any more ----------------------------------------------------------------------------------

    async def _end(self, last: RegistrationState) -> None:
        """Have the sender forget it; after some hours of failures it is given up."""
        if plan.is_given_up(last, self._now()):
            _log.warning("registration.left_behind", org=self._org, source=self._id, remote=last.remote, reason=last.error)
            await self._append(RegistrationRemoved)
            return
        await self._discard()
        await self._append(RegistrationRemoved, remote=None, expires_at=None, **_CALM)

    async def _discard(self) -> None:
        """Remove what the last message says is there, or may be there."""
        last = self._last
        if last is None or last.place is None or last.connection is None:
            return
        api = await self._api(last.adapter, last.place, last.connection)
        ids = [last.remote] if last.remote is not None else [one.id for one in await api.of(self._path)]
        for one in ids:
            await api.delete(one)

    # -- parts --------------------------------------------------------------------------------------------------------

    @property
    def _adapter(self) -> str:
        assert self._source is not None or self._last is not None  # noqa: S101 - nothing else has a turn
        return self._source.spec.adapter if self._source is not None else self._last.adapter  # type: ignore[union-attr]

    @property
    def _path(self) -> str:
        return f"/hooks/{self._id}"

    @property
    def _callback(self) -> str:
        """Return the address that the sender is to notify. Raises `Invalid` where there is none."""
        return plan.checked_address(self._deps.public_url) + self._path

    def _body(self, body: Mapping[str, Any], wanted: WantedRegistration) -> Any:
        ends = self._now() + timedelta(seconds=wanted.lifetime)
        told = {} if self._secrets is None else self._secrets.given()
        return filled(dict(body), {Given.CALLBACK: self._callback, Given.EXPIRES: rfc3339(ends), **told})

    async def _api(self, adapter: str, place: str, connection: str) -> SenderApi:
        """Return the sender's API with the token of a connection, which the oauth service keeps on record."""
        nonce = secrets.token_urlsafe(16)
        token = await self._deps.bus.ask(GetToken(org=self._org, name=connection, source=self._id, nonce=nonce))
        try:
            opened = self._deps.keyring.open(token.sealed, self._org, nonce, "token")
            request = "" if token.request is None else self._deps.keyring.open(token.request, self._org, nonce, "request")
        except CannotOpen as error:
            raise Unavailable(f"the token of connection {connection!r} cannot be opened: {error}") from error
        hidden = [self._secrets.secret] if self._secrets is not None else []
        return SenderApi(
            self._deps.fetcher,
            self._org,
            await self._registering(adapter),
            place,
            opened,
            connection=connection,
            secrets=hidden,
            headers=msgspec.json.decode(request)["headers"] if request else {},
        )

    async def _registering(self, adapter: str) -> Registering:
        """Return how an adapter's sources are registered. Raises `NotFound`, `Unavailable`."""
        found = ADAPTERS.get(adapter)
        if found is None:
            own = await self._deps.adapters.found(self._org, adapter)
            found = None if own is None else custom(own)
        if found is None or found.registering is None:
            raise NotFound(f"sources of adapter {adapter!r} cannot be registered with their sender")
        return found.registering

    async def _fail(self, error: MillraceError) -> None:
        now, last = self._now(), self._last
        tries = 0 if last is None else last.tries
        at, not_before = plan.next_try(error, tries, None if last is None else last.expires_at, now, random.random())  # noqa: S311
        _log.warning("registration.failed", org=self._org, source=self._id, reason=error.detail, tries=tries + 1)
        await self._append(
            RegistrationFailed,
            error=error.detail[:LONGEST_ERROR],
            tries=tries + 1,
            due_at=rfc3339(at),
            not_before=None if not_before is None else rfc3339(not_before),
        )

    async def _append(self, kind: type[RegistrationState], **changes: Any) -> None:
        """Record the registration as it is after these changes. Raises `_Recording`."""
        source = self._source
        before = {} if self._last is None else msgspec.structs.asdict(self._last)
        named = {} if source is None else {"source_name": source.name}
        first: dict[str, Any] = {"adapter": self._adapter, "due_at": rfc3339(self._now()), "source_name": self._id}
        message = kind(**(first | before | named | {"source": self._id, "tried": self._version} | changes))
        try:
            self.sequence = await self._deps.bus.append(self._deps.bus.seal(message, org=self._org, id=new_id()), self.sequence)
        except MillraceError as error:
            raise _Recording(error) from error
        self._last = message


class _Recording(Exception):
    """A message could not be recorded: nothing else can be, either, before the next turn."""

    def __init__(self, reason: MillraceError) -> None:
        super().__init__(reason.detail)
        self.reason = reason


# Nothing stands in the way.
_CALM: dict[str, Any] = {"error": None, "tries": 0, "not_before": None, "notice": None}


def state_of(stored: aggregate.Stored | None) -> RegistrationState | None:
    """Return the registration by its last message; None where there is none."""
    message = None if stored is None else stored.message()
    return message if isinstance(message, RegistrationState) and not isinstance(message, RegistrationRemoved) else None
