"""Questions to the oauth service about people who sign in by OpenID Connect. They are asked on behalf of `global`."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.questions.declaration import Command, Question, command, question
from shared.resources.declaration import Role
from shared.values import Key, Name, Opaque, Path, Words


class SignInProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that people can sign in by."""

    name: str
    display_name: str


class SignInBegun(msgspec.Struct, frozen=True, kw_only=True):
    """The address of the provider's page, which holds the `state`; good for ten minutes."""

    url: str


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whom a provider vouches for: `subject` is theirs there, and nobody else's, and is never given again.

    `roles` are those that the provider's groups give, by organization; None where it gives none to anybody. `email` is there only
    if the provider has verified it.
    """

    issuer: str
    subject: str
    roles: dict[str, Role] | None
    just_in_time: bool
    preferred_username: str | None = None
    email: str | None = None
    name: str | None = None


class SignInEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a sign-in: the person, or a `reason` for people; the provider's name, if it is known.

    `refusal` tells apart what nobody else's browser could bring about: `unknown` is a `state` that is used, too old or of another
    browser, `refused` what the provider says or sends, `unreachable` what may be otherwise soon. `return_to` and `user` are those
    that it was begun with.
    """

    provider: str | None = None
    person: Person | None = None
    return_to: str = ""
    user: str | None = None
    refusal: Literal["unknown", "refused", "unreachable"] | None = None
    reason: str | None = None


class SignOut(msgspec.Struct, frozen=True, kw_only=True):
    """The address where the provider signs a person out as well; None where it has none."""

    url: str | None


@question("oauth.sign_in_providers", by="gateway")
class ListSignInProviders(Question[list[SignInProvider]], frozen=True, kw_only=True):
    """The providers that are enabled, by name."""


@command("oauth.begin_sign_in", by="gateway", timeout=25.0)
class BeginSignIn(Command[SignInBegun], frozen=True, kw_only=True):
    """Lead the browser that `browser` stands for to a provider, whence it comes back to `redirect`, and goes on to `return_to`.

    `user` is the id of one who is signed in, and wants to be known by the provider from now on. Raises NotFound, Invalid, TooMany,
    Unavailable.
    """

    provider: Name
    browser: Words
    redirect: Words
    return_to: Path = ""
    user: Key | None = None


@command("oauth.finish_sign_in", by="gateway", timeout=25.0)
class FinishSignIn(Command[SignInEnded], frozen=True, kw_only=True):
    """Use what came back to `redirect` in a browser, once; the code is sealed for (`org`, `id`, "code"). Raises Unavailable."""

    state: Opaque
    browser: Words
    redirect: Words
    sealed_code: str | None = None
    iss: Words | None = None
    error: Words | None = None


@question("oauth.sign_out", by="gateway", timeout=10.0)
class GetSignOut(Question[SignOut], frozen=True, kw_only=True):
    """Where somebody whom an issuer has vouched for is signed out there, and comes back to `redirect`. Raises Unavailable."""

    issuer: Words
    redirect: Words
