"""Has providers revoke tokens that nobody needs any more (RFC 7009), as far as they can be reached."""

from __future__ import annotations

import asyncio

import structlog

from services.oauth.providers import Providers, Registered
from services.oauth.sealed_tokens import Tokens
from services.oauth.token_endpoint import REVOKING, TokenEndpoint
from services.oauth.token_requests import TokenCall, TokenRequest, revoking
from shared.errors import MillraceError

_log = structlog.get_logger()


class Revoker:
    """Revokes in the background. Its creator must end what is `under_way`."""

    def __init__(self, providers: Providers, endpoint: TokenEndpoint) -> None:
        self._providers = providers
        self._endpoint = endpoint
        self.under_way: set[asyncio.Task[None]] = set()

    def begin(self, org: str, registered: Registered, tokens: Tokens) -> None:
        """Have the provider revoke both tokens, which nobody waits for."""
        task = asyncio.create_task(self._revoke(org, registered, tokens))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _revoke(self, org: str, registered: Registered, tokens: Tokens) -> None:
        try:
            registered = await self._providers.discovered(org, registered)
        except MillraceError as error:
            _log.warning("connection.not_revoked_there", reason=error.detail)
        if registered.provider.revoke_url is None:
            return

        def make(call: TokenCall) -> TokenRequest:
            return revoking(call, token or "", hint)

        for token, hint in ((tokens.refresh_token, "refresh_token"), (tokens.access_token, "access_token")):
            if token is None:
                continue
            try:
                answer = await self._endpoint.post(org, registered, make, at=REVOKING)
                if answer.status >= 400:
                    _log.warning("connection.not_revoked_there", token=hint, status=answer.status)
            except MillraceError as error:
                _log.warning("connection.not_revoked_there", token=hint, reason=error.detail)
