"""What a source that is to be registered with its sender needs, and what it shows of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import token_urlsafe
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.adapters import Adapter
from services.events.adapters.registering import secrets_in
from services.events.registrations import rows
from services.events.registrations.plan import checked_address
from shared.envelope import utc_now
from shared.errors import Invalid, Problem
from shared.owners.rules import Draft
from shared.registering import REGISTRATION
from shared.resources import Resource
from shared.resources.source import RegistrationView, Source


class RegistrationRules:
    """The part of the rules of sources that is about their registration."""

    def __init__(self, engine: AsyncEngine, public_url: str | None) -> None:
        self._engine = engine
        self._public_url = public_url

    def generated(self, draft: Draft[Source], adapter: Adapter) -> Mapping[str, str]:
        """Return a secret for a source that has none, and whose sender is told it."""
        wanted = REGISTRATION in draft.spec.settings and adapter.registering is not None and adapter.registering.generates
        return {"secret": token_urlsafe(32)} if wanted and "secret" not in draft.kept | draft.secrets.keys() else {}

    def check(self, draft: Draft[Source], adapter: Adapter) -> None:
        """Raise `Invalid` where the sender could not be told an address or a secret, or there is no connection to register with."""
        spec = draft.spec
        if REGISTRATION not in spec.settings or adapter.registering is None:
            return
        path = f"settings.{REGISTRATION}"
        try:
            checked_address(self._public_url)
        except Invalid as error:
            raise Invalid(error.detail, errors=(Problem(path, error.detail),)) from error
        if spec.integration is None:
            detail = f"is required beside {path}: its mapping names the connection whose token the sender takes"
            raise Invalid(f"integration {detail}", errors=(Problem("integration", detail),))
        try:
            resource = adapter.registering.resource(spec.settings[REGISTRATION])
        except ValueError as error:
            raise Invalid(f"{path}: {error}", errors=(Problem(path, str(error)),)) from error
        # A secret is made where there is none.
        for name in sorted(secrets_in(resource.created) - draft.kept - draft.secrets.keys() - {"secret"}):
            detail = f"is required for this registration: the sender is told a part of {name}"
            raise Invalid(f"settings.{name} {detail}", errors=(Problem(f"settings.{name}", detail),))

    async def shown(self, found: Sequence[Resource[Source]]) -> list[dict[str, Any] | None]:
        """Return the registration of each source, None for one that asks for none."""
        asking = {one.id for one in found if REGISTRATION in one.spec.settings}
        known = await rows.shown(self._engine, asking, utc_now()) if asking else {}
        return [msgspec.to_builtins(known.get(one.id, _PENDING)) if one.id in asking else None for one in found]


_PENDING = RegistrationView(status="pending")
