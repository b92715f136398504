"""What people show to sign in: passwords (argon2id), codes of an authenticator (TOTP, RFC 6238), codes for when that is lost."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from zxcvbn_rs_py import zxcvbn

from shared.errors import Invalid, Problem, TooMany

T = TypeVar("T")

# OWASP's least for argon2id: 19 MiB, two passes, one lane.
MEMORY, PASSES, LANES, SALT, LENGTH = 19 * 1024, 2, 1, 16, 32
# Hashes that are made at the same time, each with its memory, and those that wait for it.
AT_ONCE, MOST_WAITING = 2, 32
LEAST = 12
# Of zxcvbn's five scores, 0 to 4, the one from which on a password takes 10^8 guesses or more; words that are guessed here first.
SCORE = 3
OURS = ("millrace",)
Password = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Code = Annotated[str, msgspec.Meta(max_length=64)]
# Seconds of a code, and how many codes before and after the present one count: clocks differ.
STEP, AROUND = 30, 1
DIGITS = 6
RECOVERY_CODES = 10


class Passwords:
    """Hashes passwords in threads, so many at once."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        # Of a password that nobody knows: who has none is compared with it, and takes as long.
        self.nobody = _hashed(secrets.token_urlsafe(32))

    async def hashed(self, password: str) -> str:
        """Return what is kept of a password."""
        return await self._aside(lambda: _hashed(password))

    async def is_it(self, password: str, kept: str | None) -> bool:
        """Return whether a password is the one of which this is kept; it takes as long where nothing is."""
        found = await self._aside(lambda: _is_it(password, kept or self.nobody))
        return found and kept is not None

    async def _aside(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise TooMany("too many are signing in at the same time", retry_after=1)
        self._waiting += 1
        try:
            async with self._room:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1


def check_password(password: str, name: str) -> None:
    """Raise `Invalid` for a password that is short or guessed early: a common one, or made of the login or of rows of keys."""
    normal, why = _normal(password), None
    if len(normal) < LEAST:
        why = f"has less than {LEAST} characters"
    # What has no UTF-8 is no password of anybody else.
    elif int((found := zxcvbn(_text(normal), [*OURS, _text(name)])).score) < SCORE:
        warning = None if found.feedback is None else found.feedback.warning
        why = "is guessed too easily" + ("" if warning is None else f": {_lowered(str(warning))}")
    if why is not None:
        raise Invalid(f"password {why}", errors=(Problem("password", why),))


def _text(text: str) -> str:
    return text.encode(errors="replace").decode()


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _normal(password: str) -> str:
    # The same keys make different characters on different machines.
    return unicodedata.normalize("NFKC", password)


def _hashed(password: str) -> str:
    made = Argon2id(salt=secrets.token_bytes(SALT), length=LENGTH, iterations=PASSES, lanes=LANES, memory_cost=MEMORY)
    return made.derive_phc_encoded(_normal(password).encode(errors="replace"))


def _is_it(password: str, kept: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(_normal(password).encode(errors="replace"), kept)
    except InvalidKey:
        return False
    return True


def new_secret() -> str:
    """Return a new secret of an authenticator: 160 bits in base32, as these are typed in."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def uri_of(secret: str, name: str, issuer: str) -> str:
    """Return the address that an authenticator reads from a picture."""
    return _totp(secret).get_provisioning_uri(name, issuer)


def step_of(secret: str, code: str, now: float) -> int | None:
    """Return the time step whose code this is, None where it is none of the present ones. Every step takes as long."""
    found = None
    for step in range(int(now // STEP) - AROUND, int(now // STEP) + AROUND + 1):
        if hmac.compare_digest(_totp(secret).generate(step * STEP), code.encode(errors="replace")):
            found = step
    return found


def _totp(secret: str) -> TOTP:
    return TOTP(base64.b32decode(secret), DIGITS, SHA1(), STEP, enforce_key_length=False)  # noqa: S303 - what authenticators know


def new_recovery_codes() -> list[str]:
    """Return codes of 80 random bits, each of which counts once."""
    return ["-".join(one[at : at + 4] for at in range(0, 16, 4)) for one in (_random() for _ in range(RECOVERY_CODES))]


def digest_of_code(code: str) -> str:
    """Return what is kept of a code for when an authenticator is lost: however it is written."""
    return hashlib.sha256(code.replace("-", "").replace(" ", "").upper().encode(errors="replace")).hexdigest()


def _random() -> str:
    return base64.b32encode(secrets.token_bytes(10)).decode()
