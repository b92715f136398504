"""Declares how the gateway admits an adapter's webhooks.

An adapter of events returns a `Verification` for a source's settings, the registry carries it beside the source, and the gateway
interprets it: no adapter is known there. Secrets are named by their setting and never stand in a declaration. A field that a
reader does not know is an error, so that an older gateway refuses a source instead of checking half of its declaration.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any, Literal, get_args

import msgspec

# Seconds, both ways: the tolerance of Stripe, Slack and Standard Webhooks.
TOLERANCE = 300.0
# More than any sender has: each is tried with the whole body.
MOST_SCHEMES, MOST_KEYS, MOST_CONDITIONS = 16, 8, 16
# The present secret, and the one before it while a sender changes over.
SECRETS = ("secret", "previous_secret")

# Named as in the registry of RFC 9421, where they stand in it. `sha256` is a plain digest, of a template that holds `{secret}`.
# `token`: the signature is a secret itself. `none`: nothing is verified, which an adapter has to ask for by this name.
_Symmetric = Literal["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512", "sha256"]
_Public = Literal["ed25519", "ecdsa-p256-sha256", "rsa-v1_5-sha256", "rsa-v1_5-sha1"]
Algorithm = _Symmetric | _Public | Literal["token", "none"]
PUBLIC_KEY = frozenset(get_args(_Public))
Encoding = Literal["hex", "base64", "base64url", "text"]
# Names in a template, besides those of `values`; the second row covers the body.
_HEAD_NAMES = frozenset({"timestamp", "method", "url", "url_other_port", "authority", "secret"})
_BODY_NAMES = frozenset({"body", "form"})


class Declared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A part of a declaration: small as JSON, and never read in part."""


_OF_THE_CONNECTION = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


class Place(Declared, frozen=True, kw_only=True):
    """The place of a text in a request: exactly one of a header, a query parameter, a form's field, a path of a JSON body.

    Header names are lower case; a JSON path is names and list positions, dotted. With a `separator` the text is split there and
    its parts are stripped; those that begin with `prefix` and end with `suffix` are meant, without both. `default` stands in for a
    text that is absent; without one the request is refused.
    """

    header: str | None = None
    query: str | None = None
    form: str | None = None
    json: str | None = None
    separator: str = ""
    prefix: str = ""
    suffix: str = ""
    default: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a place that is none."""
        if sum(name is not None for name in (self.header, self.query, self.form, self.json)) != 1:
            raise ValueError("a place is one of header, query, form and json")
        if self.header is not None and self.header != self.header.lower():
            raise ValueError(f"the header {self.header!r} is to be written in lower case")
        if self.header in _OF_THE_CONNECTION:
            raise ValueError(f"the header {self.header} is of the connection: no sender puts a text of its own into it")

    @property
    def in_body(self) -> bool:
        """Return whether the text is only there once the body is."""
        return self.form is not None or self.json is not None

    def __str__(self) -> str:
        """Return its name for a person: "x-signature header"."""
        kinds = {"header": self.header, "query parameter": self.query, "field": self.form, "in the body": self.json}
        return next(f"{name} {kind}" for kind, name in kinds.items() if name is not None)


When = tuple[tuple[Place, str], ...]


class Outside(Declared, frozen=True, kw_only=True):
    """An address that a request names, and that is asked: HTTPS, on one of `hosts`, in which `*` stands for one part of a name."""

    url: Place
    hosts: tuple[str, ...]


class SignatureScheme(Declared, frozen=True, kw_only=True):
    """One way in which a sender signs.

    `template` is the signed text, with names in braces: those of `values`, `body`, `timestamp`, `method`, `url` (the source's
    address with the request's query), `url_other_port` (the same without its port, or with the usual one where it has none),
    `authority`, `form` (fields and values, sorted, each once), and for a plain digest `secret`. It has to cover the body, unless
    `body_digest` is where a SHA-256 of the body stands, whose own place the template then covers.

    `keys` are the settings that hold keys, any of which may have signed; of symmetric algorithms only secret settings are read. A
    `timestamp` further than `tolerance` seconds from now, either way, is refused. The scheme is for requests where all of `when` is
    so. With `each`, the path of a list in a JSON body, every item is verified, and JSON paths begin at the item. `delivery` is the
    sender's own id of a delivery, read from the whole request; texts in `delivery_with` that are there tell apart deliveries of one
    id, such as one that a person had the sender replay. `certificate`: the public key is in an X.509 certificate that is fetched.
    """

    algorithm: Algorithm = "hmac-sha256"
    signature: Place | None = None
    encoding: Encoding = "hex"
    template: str = "{body}"
    values: dict[str, Place] = {}
    timestamp: Place | None = None
    timestamp_unit: Literal["s", "ms", "rfc3339"] = "s"
    tolerance: float = TOLERANCE
    keys: tuple[str, ...] = SECRETS
    key_encoding: Literal["text", "base64", "hex"] = "text"
    key_prefix: str = ""
    body_digest: Place | None = None
    when: When = ()
    each: str | None = None
    delivery: Place | None = None
    delivery_with: tuple[Place, ...] = ()
    certificate: Outside | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a scheme that would verify less than it seems to."""
        if (self.signature is None) != (self.algorithm == "none"):
            raise ValueError("a scheme has a signature, or the algorithm none")
        if (self.encoding == "text") and self.algorithm not in {"token", "none"}:
            raise ValueError("a signature is hex, base64 or base64url; only a token is text")
        if self.certificate is not None and self.algorithm not in PUBLIC_KEY:
            raise ValueError("a certificate holds the key of an algorithm that has a public one")
        names = {name for _, name in pieces(self.template) if name is not None}
        if self.values.keys() & (_HEAD_NAMES | _BODY_NAMES):
            raise ValueError(f"{min(self.values)!r} or another of the values has the name of something else")
        unknown = names - _HEAD_NAMES - _BODY_NAMES - self.values.keys()
        if unknown:
            raise ValueError(f"the template names {min(unknown)!r}, which is nowhere declared")
        if self.algorithm in {"token", "none"}:
            return
        if ("secret" in names) != (self.algorithm == "sha256"):
            raise ValueError("a template holds {secret} where the algorithm is a plain digest, and only there")
        within = self.timestamp is not None and self.timestamp.in_body and "body" in names
        if ("timestamp" in names) != (self.timestamp is not None) and not within:
            raise ValueError("a timestamp is declared and signed, or neither")
        covered = _BODY_NAMES | {name for name, place in self.values.items() if place.in_body}
        if not names & covered and self.body_digest is None:
            raise ValueError("the template leaves the body unsigned: anybody could change it")


class Handshake(Declared, frozen=True, kw_only=True):
    """A request by which a sender asks whether an address takes its webhooks: answered, and never a delivery.

    It has this `method`, all of `when`, and the `challenge` where there is one: up to 1,024 printable characters. A request that
    has them and whose `token` is not one of the secrets in `keys` is refused with 403. `signed`: it is verified as a webhook first.
    The answer is `json`, else `text`, and `headers`, where `{challenge}` is the challenge and `{digest}` its HMAC by the first
    of `keys`: then the challenge may only hold letters, digits and `+/._-`, which make no webhook. `visit`: before it is answered,
    the address is visited; only of a request that is verified.
    """

    method: str = "GET"
    when: When = ()
    challenge: Place | None = None
    token: Place | None = None
    keys: tuple[str, ...] = SECRETS
    signed: bool = False
    digest: Literal["hmac-sha256"] | None = None
    encoding: Literal["hex", "base64"] = "hex"
    text: str = "{challenge}"
    json: dict[str, Any] | None = None
    headers: dict[str, str] = {}
    status: Literal[200, 204] = 200
    visit: Outside | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a handshake that every request would be."""
        if self.challenge is None and not self.when and self.method == "POST":
            raise ValueError("a handshake by POST is told from a webhook by its challenge or by `when`")
        if self.visit is not None and not self.signed:
            raise ValueError("nobody has an address visited without a signature")


# As they are named in RFC 7518 and 8037. None of them is "none".
JoseAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]


class WebToken(Declared, frozen=True, kw_only=True):
    """A JSON Web Token (RFC 7519) that a request has to have.

    It is signed by a key of the set at `key_set`, or one of the settings `keys`: secrets for algorithms that begin with HS, else
    public keys. It has to have an `exp`; times may be `tolerance` seconds off. `issuer` and one of `audience` have to be its own,
    and `claims` are others that it has to have. `body_claim` names one that is the body's SHA-256, in hex or base64url.
    """

    token: Place
    algorithms: tuple[JoseAlgorithm, ...]
    keys: tuple[str, ...] = ()
    key_set: str | None = None
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    claims: dict[str, str] = {}
    body_claim: str | None = None
    tolerance: float = TOLERANCE
    delivery: Place | None = None
    delivery_with: tuple[Place, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a token that somebody else might be given."""
        if self.key_set is not None and not self.audience and not self.claims:
            raise ValueError("a token by a key set has an audience or claims: such keys sign for others, too")


# As they are named in RFC 9421.
MessageAlgorithm = Literal["hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-v1_5-sha256", "rsa-pss-sha512"]


class MessageSignature(Declared, frozen=True, kw_only=True):
    """A signature of RFC 9421, whose components the sender chooses.

    It has to cover `components`; `@target-uri` covers its parts. A `content-digest` that it covers has to be the body's. `keys` are
    settings, of `hmac-sha256` secret ones. `key_id` and `tag`, where set, are those of the signature that is meant, which was made
    no further than `tolerance` seconds from now.
    """

    algorithm: MessageAlgorithm = "hmac-sha256"
    components: tuple[str, ...] = ("@method", "@path", "content-digest")
    keys: tuple[str, ...] = SECRETS
    key_encoding: Literal["text", "base64", "hex"] = "text"
    key_id: str | None = None
    tag: str | None = None
    tolerance: float = TOLERANCE
    delivery: Place | None = None
    delivery_with: tuple[Place, ...] = ()


class Acknowledgement(Declared, frozen=True, kw_only=True):
    """The answer to an accepted webhook, of a sender that wants another than 202 with the delivery's id; `text` None: that id."""

    status: Literal[200, 202, 204] = 200
    text: str | None = None
    content_type: str = "text/plain"


class Verification(Declared, frozen=True, kw_only=True):
    """The gateway's checks of requests to a source: any of `schemes`, `tokens` and `messages` that verifies one makes it genuine.

    No schemes: no request is genuine. No `methods`: the source has no address. `content_types` None: any. Places of signatures and
    tokens are not kept with a delivery; `redacted` are others, in a header or the query. `networks` are those from which requests
    may come, as CIDR; None: any. `acknowledgement` None: 202, or 200 where the delivery was there before.
    """

    schemes: tuple[SignatureScheme, ...] = ()
    tokens: tuple[WebToken, ...] = ()
    messages: tuple[MessageSignature, ...] = ()
    handshakes: tuple[Handshake, ...] = ()
    methods: tuple[str, ...] = ("POST",)
    content_types: tuple[str, ...] | None = None
    redacted: tuple[Place, ...] = ()
    networks: tuple[str, ...] | None = None
    acknowledgement: Acknowledgement | None = None

    @property
    def every(self) -> tuple[SignatureScheme | WebToken | MessageSignature, ...]:
        """Return all by which a request may be genuine, of whatever kind."""
        return (*self.schemes, *self.tokens, *self.messages)

    def __post_init__(self) -> None:
        """Raise ValueError for more than the gateway would look at, for each request, while others' wait."""
        keys = [one.keys for one in self.every]
        conditions = [*(one.when for one in self.schemes), *(one.when for one in self.handshakes)]
        for what, number, most in (
            ("schemes", len(keys), MOST_SCHEMES),
            ("handshakes", len(self.handshakes), MOST_SCHEMES),
            ("keys of a scheme", max(map(len, keys), default=0), MOST_KEYS),
            ("conditions of a scheme or a handshake", max(map(len, conditions), default=0), MOST_CONDITIONS),
        ):
            if number > most:
                raise ValueError(f"there are {number} {what}, and {most} are the most")


def pieces(template: str) -> Iterator[tuple[str, str | None]]:
    """Yield the texts of a template, each with the name that follows it, if one does. Raises ValueError."""
    for text, name, form, conversion in string.Formatter().parse(template):
        if name == "" or form or conversion:
            raise ValueError(f"{template!r} is no template")
        yield text, name
