"""Rules of sources, integrations and mappings that no schema can state, and the keepers of all resources of this service."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import domain, schemas
from services.events.adapters import ADAPTERS, VERIFICATIONS, Adapter, custom, declared_by, verification_of
from services.events.entities import Claims
from services.events.forms import FormRules
from services.events.mappings import Values, absent, integration_of, misfits
from services.events.registrations.rules import RegistrationRules
from services.events.repositories import Repositories
from services.events.retentions import Retentions
from services.events.schedules.rules import Schedules
from services.events.subscriptions import Subscriptions, Workflows
from shared.adapters import CustomAdapters
from shared.bus import Bus
from shared.encryption import Keyring
from shared.errors import Conflict, Invalid, Problem
from shared.expressions.pool import Expressions
from shared.organizations import PLATFORM
from shared.owners.catalogued import catalogued
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.owners.rules import Derive, Draft, Rules
from shared.projection import Projection
from shared.questions.resources import PutResource, RemoveResource
from shared.quotas import Quotas
from shared.resources import KINDS, Resource
from shared.resources.integration import Integration
from shared.resources.mapping import Mapping as MappingSpec
from shared.resources.source import BUILT_IN, Source
from shared.schemas import checker_of
from shared.signatures import check_key
from shared.verification import Verification

# Subscriptions that keep a source, in a refusal.
MOST_NAMED = 10
# Topics of alerts of one organization: each failure becomes an event of every one.
MOST_ALERTS = 5


class Sources(Rules[Source]):
    """The settings of a source fit its adapter, Millrace's or the workspace's; one that has subscriptions is not removed."""

    def __init__(
        self, rows: ResourceRows, claims: Claims, adapters: CustomAdapters, registrations: RegistrationRules, quotas: Quotas
    ) -> None:
        self._rows = rows
        self._claims = claims
        self._quotas = quotas
        self._adapters = adapters
        self._registrations = registrations

    async def secret_members(self, org: str, name: str, spec: Source) -> Collection[str]:
        """Return the settings that the adapter's schema calls secret. Raises `Invalid` when there is no such adapter."""
        del name
        return (await self._adapter(org, spec.adapter)).view().secrets

    def keeps_members(self, before: Source, spec: Source) -> bool:
        """Return whether it is still the same adapter."""
        return before.adapter in {spec.adapter, spec.adapter.replace("_", "-")}

    def generated(self, draft: Draft[Source]) -> Mapping[str, str]:
        """Return the secret of a source that is registered with its sender, where it has none."""
        return self._registrations.generated(draft, self._known(draft.org, draft.spec.adapter))

    async def check(self, draft: Draft[Source]) -> Source:
        """Return the spec if its settings, with the secret ones, fit the adapter's schema. Secrets never show in a complaint."""
        adapter = await self._adapter(draft.org, draft.spec.adapter)
        # A secret that is kept from before stands in for itself: only its presence is checked.
        whole = draft.spec.settings | dict.fromkeys(draft.kept, "kept") | draft.secrets
        if len(msgspec.json.encode(whole)) > schemas.MAX_BYTES:
            # Every gateway has those of all sources in memory.
            detail = f"is larger than {schemas.MAX_BYTES} bytes"
            raise Invalid(f"settings {detail}", errors=(Problem("settings", detail),))
        for row in (*((name,) for name in adapter.required), *adapter.one_of):
            # The schema has it too, and would show in its complaint all settings that are there.
            if not any(whole.get(name) is not None for name in row):
                message = "is required" + ("" if len(row) == 1 else f", where there is no {' and no '.join(row[1:])}")
                raise Invalid(f"settings.{row[0]} {message}", errors=(Problem(f"settings.{row[0]}", message),))
        problems = []
        secrets = await self.secret_members(draft.org, draft.name, draft.spec)
        for problem in checker_of(msgspec.json.encode(adapter.schema)).problems(whole, "settings"):
            hidden = any(problem.path.startswith(f"settings.{name}") for name in secrets)
            problems.append(msgspec.structs.replace(problem, message="does not fit") if hidden else problem)
        if problems:
            detail = f"the settings do not fit adapter {adapter.name}: {problems[0].message}"
            raise Invalid(detail, errors=tuple(problems))
        # A mistake of the adapter is none of these settings': the gateway closes such a source, and its log names the reason.
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            declare = VERIFICATIONS.get(adapter.name, adapter.verification)
            _check_keys(declared_by(declare, draft.spec.settings), draft.spec.settings, draft.secrets)
        _check_opened(adapter, draft.secrets)
        _check_entity(draft, adapter)
        await self._check_alerts(draft)
        await self._check_quota(draft)
        self._registrations.check(draft, adapter)
        return msgspec.structs.replace(draft.spec, adapter=adapter.name)

    def alone(self, command: PutResource | RemoveResource) -> AbstractAsyncContextManager[None]:
        """Return a context in which nobody else makes a source of the organization, where their number is bounded."""
        is_bounded = self._quotas.of(command.org).sources is not None
        if isinstance(command, PutResource) and (is_bounded or command.fields.get("adapter") == domain.ALERTS):
            return self._claims.counted(command.org)
        return super().alone(command)

    async def _check_quota(self, draft: Draft[Source]) -> None:
        """Raise `Invalid` for one more source than the organization's quota."""
        most = self._quotas.of(draft.org).sources
        if draft.before is None and most is not None and await self._rows.count("source", draft.org) >= most:
            detail = f"the organization {draft.org} has {most:,} source{'s' * (most != 1)}, which is its quota sources"
            raise Invalid(detail, errors=(Problem("sources", detail),))

    async def _check_alerts(self, draft: Draft[Source]) -> None:
        """Raise `Invalid` for one more topic of alerts than an organization may have."""
        if draft.spec.adapter != domain.ALERTS or (draft.before is not None and draft.before.spec.adapter == domain.ALERTS):
            return
        if len(await self._rows.having("source", draft.org, {"adapter": domain.ALERTS}, limit=MOST_ALERTS)) == MOST_ALERTS:
            detail = f"an organization has at most {MOST_ALERTS} sources of the adapter {domain.ALERTS}: subscribe to one of them"
            raise Invalid(detail, errors=(Problem("adapter", detail),))

    async def check_removal(self, present: Resource[Source]) -> None:
        """Raise `Conflict` where subscriptions or schedules refer to a source: another one of its name would not be theirs."""
        for noun in ("subscription", "schedule", "repository"):
            left = [one.name for one in await self._rows.referrers(noun, "source", present.id, MOST_NAMED + 1)]
            if left:
                named = ", ".join(left[:MOST_NAMED]) + (", …" if len(left) > MOST_NAMED else "")
                raise Conflict(f"{KINDS[noun].plural} refer to source {present.name!r}, remove them first: {named}")

    async def _adapter(self, org: str, name: str) -> Adapter:
        """Return an adapter, asking its owner where the view does not know it. Raises `Invalid`, `Unavailable`."""
        if _built_in(name) is None:
            await self._adapters.found(org, name)
        return self._known(org, name)

    def _known(self, org: str, name: str) -> Adapter:
        found = _built_in(name)
        if found is not None:
            return found
        own = self._adapters.find(org, name)
        if own is None:
            names = ", ".join(sorted({*ADAPTERS, *self._adapters.of(org)}))
            raise Invalid(f"there is no adapter {name!r}; there are {names}", errors=(Problem("adapter", "unknown"),))
        return custom(own)

    async def shown(self, found: Sequence[Resource[Source]]) -> Sequence[dict[str, Any]]:
        """Return the path of each source's address (a topic has none), its registration and its verification."""
        registered = await self._registrations.shown(found)
        urls = [None if one.spec.adapter in {domain.TOPIC, domain.ALERTS} else f"/hooks/{one.id}" for one in found]
        return [
            {"url": url, "registration": registration, "verification": self._verification(one)}
            for one, url, registration in zip(found, urls, registered, strict=True)
        ]

    def _verification(self, one: Resource[Source]) -> dict[str, Any] | None:
        own = None if _built_in(one.spec.adapter) is not None else self._adapters.find(one.org, one.spec.adapter)
        return verification(one).get("verification") if own is None else own.declaration.verification


class Integrations(Rules[Integration]):
    """An integration's schema is one, and has secrets at its top only."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def alone(self, command: PutResource | RemoveResource) -> AbstractAsyncContextManager[None]:
        """Return a context in which nobody claims an entity that the removal of an integration leaves to a mapping."""
        return self._claims.alone(command) if isinstance(command, RemoveResource) else super().alone(command)

    async def check_removal(self, present: Resource[Integration]) -> None:
        """Raise `Conflict` where an organization's mapping would come to claim an entity of the platform's integration."""
        await self._claims.check_removal(present.org, present.name)

    async def check(self, draft: Draft[Integration]) -> Integration:
        """Return the spec if every mapping can be held against it."""
        schemas.checked_config_schema(draft.spec.config_schema)
        return draft.spec


class Mappings(Rules[MappingSpec]):
    """A mapping's config fits the schema of the integration that its organization means by its name."""

    def __init__(self, rows: ResourceRows, claims: Claims) -> None:
        self._rows = rows
        self._claims = claims

    def alone(self, command: PutResource | RemoveResource) -> AbstractAsyncContextManager[None]:
        """Return a context in which nobody else claims the mapping's entity."""
        return self._claims.alone(command) if isinstance(command, PutResource) else super().alone(command)

    async def secret_members(self, org: str, name: str, spec: MappingSpec) -> Collection[str]:
        """Return the members that the integration's schema calls secret. Raises `NotFound` where there is no such integration."""
        del spec
        return schemas.secrets_of((await integration_of(self._rows, org, name)).spec.config_schema)

    async def check(self, draft: Draft[MappingSpec]) -> MappingSpec:
        """Return the spec if its config, with what the platform's mapping and defaults add, fits.

        The platform's own may be a part of one: each organization's adds the rest. Raises `NotFound` for a missing integration,
        `Conflict` for an entity that another organization claimed, `PermissionDenied` for one that only the platform gives.
        """
        integration = await integration_of(self._rows, draft.org, draft.name)
        schema, spec = integration.spec.config_schema, draft.spec
        if len(msgspec.json.encode(spec.config)) + sum(map(len, draft.secrets.values())) > schemas.MAX_BYTES:
            detail = f"is larger than {schemas.MAX_BYTES} bytes"
            raise Invalid(f"config {detail}", errors=(Problem("config", detail),))
        config, sealed = schemas.defaults_of(schema), {*draft.secrets, *draft.kept}
        if integration.org != PLATFORM or draft.org != PLATFORM:
            shared = await self._rows.of("mapping", {draft.name}, {PLATFORM}) if integration.org == PLATFORM else []
            for one in shared:
                config, sealed = config | one.spec.config, sealed | one.sealed.keys()
        else:
            schema = {keyword: value for keyword, value in schema.items() if keyword != "required"}
        problems = misfits(schema, config | spec.config, dict.fromkeys(sealed))
        if problems:
            detail = f"the config does not fit: {problems[0].path}: {problems[0].message}"[:500]
            there = {} if draft.before is None else draft.before.spec.config
            if there.keys() - spec.config.keys() - config.keys() & set(schema.get("required", ())):
                detail += "; it was there before: PUT replaces the mapping, PATCH or `millrace mappings patch` changes one value"
            raise Invalid(detail, errors=tuple(problems))
        if spec.entity_id is not None and integration.org == PLATFORM:
            await self._claims.check_mapping(draft.org, draft.name, spec.entity_id, by_platform=draft.by_platform)
        return spec

    async def absent(self, org: str, name: str) -> str:
        """Return which is missing. Raises `NotFound` when it is the integration."""
        return absent(org, (await integration_of(self._rows, org, name)).name).detail

    async def shown(self, found: Sequence[Resource[MappingSpec]]) -> Sequence[dict[str, Any]]:
        """Return with each mapping its provider, the effective config, and how that does not fit the schema of today."""
        names = {one.name for one in found}
        seen = {
            (one.org, one.name): one for one in await self._rows.of("integration", names, {one.org for one in found} | {PLATFORM})
        }
        shared = {one.name: one for one in await self._rows.of("mapping", names, {PLATFORM})}
        return [
            _mapped(one, seen.get((one.org, one.name)) or seen.get((PLATFORM, one.name)), shared.get(one.name)) for one in found
        ]

    async def across(self, org: str | None, name: str, found: Sequence[Resource[MappingSpec]]) -> Sequence[Resource[MappingSpec]]:
        """Return, of all organizations' mappings of one name, those of the platform's integration. Raises `NotFound`."""
        await integration_of(self._rows, org or PLATFORM, name)
        if org is not None:
            return found
        own = {one.org for one in await self._rows.of("integration", {name}, {one.org for one in found} - {PLATFORM})}
        return [one for one in found if one.org not in own]


def verification(source: Resource[Source]) -> dict[str, Any]:
    """Return the verification of a source's webhooks for the gateway; nothing where its adapter is not in this version.

    That of an adapter of a workspace is in its own registry entry.
    """
    if source.spec.adapter not in BUILT_IN:
        return {}
    declared = verification_of(source.spec.adapter, source.spec.settings)
    return {} if declared is None else {"verification": declared}


# By the noun: the derived values for readers of the registry.
DERIVED: dict[str, Derive] = {"source": verification}


class Known(Workflows, Protocol):
    """What there is in workspaces, as far as this process has heard, and the rules of registrations."""

    adapters: CustomAdapters
    registrations: RegistrationRules
    quotas: Quotas


def keepers(
    bus: Bus,
    rows: ResourceRows,
    keyring: Keyring,
    catalog: Projection,
    expressions: Expressions,
    known: Known,
    engine: AsyncEngine,
) -> Mapping[str, Keeper[Any]]:
    """Return the keepers of this service's resources."""
    subscriptions, claims = Subscriptions(rows, expressions, known), Claims(rows, engine, bus, catalog)
    rules: dict[str, Rules[Any]] = {
        "source": Sources(rows, claims, known.adapters, known.registrations, known.quotas),
        "subscription": subscriptions,
        "integration": Integrations(claims),
        "schedule": Schedules(rows, engine, known),
        "retention": Retentions(),
        "repository": Repositories(),
        "form": FormRules(known),
        "mapping": Mappings(rows, claims),
    }
    made = catalogued("events", rules, bus=bus, rows=rows, keyring=keyring, catalog=catalog, derive=DERIVED)
    subscriptions.sources = made["source"]
    return made


def _mapped(
    mapping: Resource[MappingSpec], integration: Resource[Integration] | None, shared: Resource[MappingSpec] | None
) -> dict[str, Any]:
    if integration is None:
        return {"integration": mapping.name, "provider": None, "effective": mapping.spec.config, "problems": []}
    is_below = integration.org == PLATFORM and mapping.org != PLATFORM
    values = Values(integration=integration, own=mapping, shared=shared if is_below else None)
    return {
        "integration": mapping.name,
        "provider": integration.spec.provider,
        "effective": values.config,
        "problems": msgspec.to_builtins(values.problems()),
    }


def _check_entity(draft: Draft[Source], adapter: Adapter) -> None:
    """Raise `Invalid` where the events of a source are to be routed by what they do not have."""
    spec = draft.spec
    if spec.entity is not None and (not spec.entity.startswith("event.") or "" in spec.entity.split(".")):
        detail = "is a path that begins with event. and has a name after each dot"
        raise Invalid(f"entity {detail}", errors=(Problem("entity", detail),))
    if not spec.by_entity:
        return
    if draft.org != PLATFORM:
        detail = f"is for sources of {PLATFORM!r}: another organization's events are its own"
        raise Invalid(f"by_entity {detail}", errors=(Problem("by_entity", detail),))
    if spec.integration is None:
        detail = "is required with by_entity: its mappings say which organization an entity is"
        raise Invalid(f"integration {detail}", errors=(Problem("integration", detail),))
    if (spec.entity or adapter.entity) is None:
        detail = f"is required with by_entity: the adapter {adapter.name} does not know where it stands"
        raise Invalid(f"entity {detail}", errors=(Problem("entity", detail),))


def _check_keys(verification: Verification, settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
    """Raise `Invalid` for a key that is none of its algorithm: the gateway could verify nothing with it."""
    given = {name: value for name, value in {**settings, **secrets}.items() if isinstance(value, str)}
    for scheme in verification.every:
        for name in scheme.keys:
            if name not in given:
                continue
            try:
                check_key(scheme, given[name])
            except ValueError as error:
                raise Invalid(f"settings.{name} is no key: {error}", errors=(Problem(f"settings.{name}", str(error)),)) from error


def _check_opened(adapter: Adapter, secrets: Mapping[str, str]) -> None:
    """Raise `Invalid` for a secret that the adapter could not read webhooks with."""
    for name, read in adapter.opens.items():
        if name in secrets:
            try:
                read(secrets[name])
            except ValueError as error:
                raise Invalid(f"settings.{name}: {error}", errors=(Problem(f"settings.{name}", str(error)),)) from error


def _built_in(name: str) -> Adapter | None:
    # Senders and lists of them write some names with underscores.
    return ADAPTERS.get(name) or ADAPTERS.get(name.replace("_", "-"))
