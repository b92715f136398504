"""A person authorizes a connection on another device (RFC 8628): what they are shown, and asking whether they have."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from services.oauth.answers import Granted, Ungranted, read
from services.oauth.authorization_store import AuthorizationRequest, AuthorizationStore, hashed
from services.oauth.domain import Kept
from services.oauth.providers import Providers, Registered
from services.oauth.store import KeptStore
from services.oauth.token_endpoint import TokenEndpoint
from services.oauth.token_requests import asking_for_device, polling
from services.oauth.waiting import BackgroundTasks
from shared.encryption import CannotOpen, Keyring
from shared.envelope import rfc3339
from shared.errors import Invalid, MillraceError, Unavailable
from shared.questions.oauth import AuthorizationBegun, BeginAuthorization

# Seconds between two looks for authorizations whose provider is to be asked.
EVERY = 1.0
AT_ONCE = 32
MOST = 128
# Seconds between two questions of one: what a provider says within these bounds, by so much longer when it finds that too fast.
USUAL, LEAST, LONGEST, SLOWER = 5.0, 1.0, 60.0, 5.0
# Characters of what is shown to a person.
LONGEST_CODE, LONGEST_URL = 100, 2000
# Longer than a question takes. A replica that began one and died leaves it to others for so long.
PUT_OFF = timedelta(seconds=20)
# What a person has at the most, whatever the provider grants.
OPEN = timedelta(minutes=30)
_WORDS = {
    "access_denied": "it was not allowed",
    "expired_token": "nobody has allowed it in time: begin again",
}

Store = Callable[[Kept, Registered, AuthorizationRequest, Granted], Awaitable[str | None]]

_log = structlog.get_logger()


class _Device(msgspec.Struct, frozen=True, kw_only=True):
    device_code: str
    user_code: str
    verification_uri: str | None = None
    verification_uri_complete: str | None = None
    # Google's name of it, which is older.
    verification_url: str | None = None
    expires_in: float = 1800
    interval: float = USUAL


class Devices:
    """Authorizations by devices that are under way. Their state is in the database: any replica goes on with them."""

    def __init__(
        self,
        *,
        store: KeptStore,
        requests: AuthorizationStore,
        providers: Providers,
        endpoint: TokenEndpoint,
        keyring: Keyring,
        stored: Store,
    ) -> None:
        """Use `stored` to keep what a provider has granted: it returns a reason for people where that failed."""
        self._store = store
        self._requests = requests
        self._providers = providers
        self._endpoint = endpoint
        self._keyring = keyring
        self._stored = stored

    async def begin(self, command: BeginAuthorization, row: Kept, registered: Registered, now: datetime) -> AuthorizationBegun:
        """Return what a person is shown. Raises `Invalid`, `Unavailable` with the reason of a provider that gives no code."""
        spec = registered.spec
        answer = await self._endpoint.post(row.org, registered, lambda call: asking_for_device(call, spec), at=("device_url",))
        try:
            device = msgspec.json.decode(answer.body, type=_Device, strict=False) if answer.status == 200 else None
        except (msgspec.DecodeError, RecursionError):
            device = None
        url = None if device is None else device.verification_uri or device.verification_url
        if device is None or url is None or not _can_be_shown(url, device.user_code, device.verification_uri_complete or ""):
            outcome = read(answer.status, answer.headers, answer.body, registered.provider, now)
            reason = outcome.reason if isinstance(outcome, Ungranted) else "the provider gave no code for a device"
            raise Unavailable(f"the authorization could not begin: {reason}", retry_after=10)
        id_ = hashed(secrets.token_urlsafe(32))
        ends = now + timedelta(seconds=_within(device.expires_in, 1.0, OPEN.total_seconds()))
        interval = _within(device.interval, LEAST, LONGEST)
        await self._requests.add(
            AuthorizationRequest(
                state=id_,
                connection=row.id,
                org=row.org,
                redirect="",
                issuer=None,
                sealed=self._keyring.seal(device.device_code, row.org, row.id, "device_code"),
                actor=command.actor,
                correlation=command.id,
                expires_at=ends,
                origin=registered.origin,
                poll_at=now + timedelta(seconds=interval),
                interval=interval,
            )
        )
        complete = device.verification_uri_complete
        return AuthorizationBegun(id=id_, url=url, expires_at=rfc3339(ends), user_code=device.user_code, url_with_code=complete)

    async def polling(self) -> None:
        """Ask for ever the providers of those that are open. Every replica does: each takes some that no other one has."""
        under_way = BackgroundTasks(MOST)
        reported: str | None = None
        try:
            while True:
                found: list[AuthorizationRequest] = []
                room = under_way.room(AT_ONCE)
                try:
                    found = await self._requests.due(room, under_way.full, PUT_OFF)
                    reported = None
                except MillraceError as error:
                    if error.detail != reported:
                        reported = error.detail
                        _log.warning("devices.interrupted", reason=reported)
                for request in found:
                    under_way.begin(request.org, self._asked(request))
                await asyncio.sleep(EVERY if len(found) < max(room, 1) else 0.05)
        finally:
            await under_way.end()

    async def _asked(self, request: AuthorizationRequest) -> None:
        try:
            await self._ask(request)
        except MillraceError as error:
            _log.warning("connection.not_authorized", connection=request.connection, reason=error.detail)
        except Exception:
            _log.exception("connection.not_authorized", connection=request.connection)

    async def _ask(self, request: AuthorizationRequest) -> None:
        """Ask a provider once whether a person has allowed it, and keep what follows."""
        row = await self._store.of_id("connection", request.connection)
        if row is None or row.revoking:
            return
        try:
            code = self._keyring.open(request.sealed or "", row.org, row.id, "device_code")
            registered = await self._providers.discovered(row.org, await self._providers.of(row))
            request.check_origin(registered.origin)
            outcome = await self._endpoint.token(row.org, registered, lambda call: polling(call, code))
        except (CannotOpen, Invalid) as error:
            outcome = Ungranted("misconfigured", str(error))
        if isinstance(outcome, Granted):
            await self._requests.end(request.state, await self._stored(row, registered, request, outcome))
        elif outcome.code == "authorization_pending":
            await self._requests.put_off(request.state, request.interval or USUAL)
        elif outcome.code in _WORDS or outcome.failure in {"dead", "misconfigured", "not_allowed"}:
            reason = _WORDS.get(outcome.code or "", outcome.reason)
            _log.warning("connection.not_authorized", connection=row.id, reason=reason)
            await self._requests.end(request.state, reason)
        else:
            # `slow_down`, or no answer: both ask for longer pauses from now on.
            slower = min((request.interval or USUAL) + SLOWER, LONGEST)
            await self._requests.put_off(request.state, max(slower, 0.0 if outcome.wait is None else outcome.wait.total_seconds()))


def _within(seconds: float, least: float, most: float) -> float:
    # In this order: what is no number is the longest.
    return max(min(most, seconds), least)


def _can_be_shown(url: str, code: str, complete: str) -> bool:
    """Return whether these can be shown in a terminal, and the addresses opened in a browser."""
    if len(code) > LONGEST_CODE or max(len(url), len(complete)) > LONGEST_URL:
        return False
    safe = all(one.startswith(("https://", "http://")) for one in (url, complete) if one)
    return safe and bool(code) and all(" " < one <= "~" for one in url + complete) and all(" " <= one <= "~" for one in code)
