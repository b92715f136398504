"""Passkeys (WebAuthn, level 2): what is to be signed, and whether it was, by whom."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.credentials import UserCredential
from shared.db import reading
from shared.encryption import CannotOpen, Keyring
from shared.errors import Conflict, PermissionDenied
from shared.organizations import PLATFORM
from shared.resources.user import UserEntry

# Seconds in which what is to be signed has to come back.
WITHIN = 300
NAME = "Millrace"
Object = dict[str, Any]
T = TypeVar("T")


class Passkeys:
    """Makes and judges what passkeys sign. Strangers make no row: what is to be signed is sealed, and only what was is kept."""

    def __init__(self, engine: AsyncEngine, keyring: Keyring, public_url: str, origins: Collection[str]) -> None:
        self._engine = engine
        self._keyring = keyring
        self._origins = sorted(origins)
        host = urlsplit(public_url).hostname or ""
        # An address is nobody's domain, but this machine has a name.
        self._domain = "localhost" if host in {"127.0.0.1", "::1"} else None if _is_address(host) else host

    async def creation(self, user: UserEntry, present: Sequence[UserCredential]) -> Object:
        """Return what a browser is to be asked for a new passkey of a user (PublicKeyCredentialCreationOptionsJSON)."""
        domain, challenge = self._named(), self._challenge(user.id)

        def make() -> Object:
            from webauthn import generate_registration_options, options_to_json
            from webauthn.helpers.structs import (
                AuthenticatorSelectionCriteria,
                PublicKeyCredentialDescriptor,
                ResidentKeyRequirement,
                UserVerificationRequirement,
            )

            made = generate_registration_options(
                rp_id=domain,
                rp_name=NAME,
                user_name=user.name,
                user_id=user.id.encode(),
                user_display_name=user.spec.display_name or user.name,
                challenge=challenge,
                timeout=WITHIN * 1000,
                # It is found without a login, and asks its owner for a finger or a PIN: so it is as good as two proofs.
                authenticator_selection=AuthenticatorSelectionCriteria(
                    resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
                ),
                exclude_credentials=[
                    PublicKeyCredentialDescriptor(id=parts_of(one)[0]) for one in present if one.kind == "passkey"
                ],
            )
            return dict(msgspec.json.decode(options_to_json(made)))

        return await asyncio.to_thread(make)

    async def question(self) -> Object:
        """Return what a browser is to be asked for, whoever is before it (PublicKeyCredentialRequestOptionsJSON)."""
        domain, challenge = self._named(), self._challenge("")

        def make() -> Object:
            from webauthn import generate_authentication_options, options_to_json
            from webauthn.helpers.structs import UserVerificationRequirement

            made = generate_authentication_options(
                rp_id=domain,
                challenge=challenge,
                timeout=WITHIN * 1000,
                user_verification=UserVerificationRequirement.REQUIRED,
            )
            return dict(msgspec.json.decode(options_to_json(made)))

        return await asyncio.to_thread(make)

    async def created(self, user: UserEntry, answer: Object) -> tuple[str, str, int]:
        """Return the id, the secret and the counter of the row of a new passkey. Raises `PermissionDenied`."""
        domain, challenge = self._named(), self._opened(answer, user.id)

        def judge() -> Any:
            from webauthn import verify_registration_response

            return verify_registration_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=domain,
                expected_origin=self._origins,
                require_user_verification=True,
            )

        found = await _judged(judge)
        await self._spend(challenge)
        return id_of(found.credential_id), _text(found.credential_id, found.credential_public_key), found.sign_count

    async def judge(self, answer: Object, kept: UserCredential) -> int:
        """Return the counter of a passkey that has signed, for a row that is known. Raises `PermissionDenied`."""
        domain, challenge, (_, key) = self._named(), self._opened(answer, ""), parts_of(kept)

        def judge() -> Any:
            from webauthn import verify_authentication_response

            return verify_authentication_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=domain,
                expected_origin=self._origins,
                credential_public_key=key,
                credential_current_sign_count=kept.counter,
                require_user_verification=True,
            )

        found = await _judged(judge)
        await self._spend(challenge)
        return int(found.new_sign_count)

    def _named(self) -> str:
        if self._domain is None:
            raise Conflict("passkeys take a public address with a name (MILLRACE_PUBLIC_URL), and this one is of numbers")
        return self._domain

    def _challenge(self, purpose: str) -> bytes:
        return self._keyring.seal(f"{int(time.time()) + WITHIN} {purpose}", PLATFORM, "passkey", "challenge").encode()

    def _opened(self, answer: Object, purpose: str) -> bytes:
        """Return what an answer says that it has signed. Raises `PermissionDenied` for what was not asked, or long ago."""
        try:
            said = msgspec.json.decode(_bytes(answer["response"]["clientDataJSON"]))
            challenge = _bytes(said["challenge"])
            until, _, of = self._keyring.open(challenge.decode(), PLATFORM, "passkey", "challenge").partition(" ")
            if of != purpose or int(until) < time.time():
                raise _refused()
        except (KeyError, TypeError, ValueError, AttributeError, CannotOpen, msgspec.DecodeError) as error:
            raise _refused() from error
        return challenge

    async def _spend(self, challenge: bytes) -> None:
        """Have it count. Raises `PermissionDenied` where it has: what was heard once is of no use."""
        statement = """
            INSERT INTO challenge (value, ends_at) VALUES ($1, now() + make_interval(secs => $2))
            ON CONFLICT DO NOTHING RETURNING value
        """
        async with reading(self._engine) as connection:
            if not await connection.fetch(statement, hashlib.sha256(challenge).digest(), 2.0 * WITHIN):
                raise _refused()


def id_of(raw: bytes) -> str:
    """Return the id of the row of a passkey: its own may be long."""
    return hashlib.sha256(raw).hexdigest()


def shown_by(answer: Object) -> tuple[str, str]:
    """Return the id of the row of the passkey that an answer is of, and the user's id as it has it. Raises `PermissionDenied`."""
    try:
        return id_of(_bytes(answer["rawId"])), _bytes(answer["response"]["userHandle"]).decode()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused() from error


def parts_of(kept: UserCredential) -> tuple[bytes, bytes]:
    """Return a passkey's own id and its public key."""
    raw, _, key = kept.secret.partition(".")
    return _bytes(raw), _bytes(key)


async def _judged(judge: Callable[[], T]) -> T:
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        return await asyncio.to_thread(judge)
    except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _refused() from error


def _refused() -> PermissionDenied:
    return PermissionDenied("this passkey is not known here, or has not signed what was asked")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(raw: bytes, key: bytes) -> str:
    return ".".join(base64.urlsafe_b64encode(one).rstrip(b"=").decode() for one in (raw, key))
