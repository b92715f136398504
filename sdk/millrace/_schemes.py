"""How senders prove and greet, as an adapter declares it: data, by which the gateway verifies before any code is run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SECRETS = ("secret", "previous_secret")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a text in a request: exactly one of a header (lower case), a query parameter, a form's field, a JSON path.

    With a `separator` the text is split there; the parts that begin with `prefix` and end with `suffix` are meant, without both.
    `default` stands in for a text that is absent.
    """

    header: str | None = None
    query: str | None = None
    form: str | None = None
    json: str | None = None
    separator: str = ""
    prefix: str = ""
    suffix: str = ""
    default: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A way in which the sender signs, as data: it is checked before the webhook is taken, and none of the adapter's code is run.

    `template` is the signed text, with names in braces: those of `values`, `body`, `timestamp`, `method`, `url`, `authority`,
    `form`. `keys` are the settings of the source that hold keys. A `timestamp` further than `tolerance` seconds from now is
    refused. `delivery` is where the sender's own id of a delivery stands: what comes again with it is not taken twice.
    """

    algorithm: Literal[
        "hmac-sha1",
        "hmac-sha256",
        "hmac-sha384",
        "hmac-sha512",
        "sha256",
        "ed25519",
        "ecdsa-p256-sha256",
        "rsa-v1_5-sha256",
        "rsa-v1_5-sha1",
        "token",
        "none",
    ] = "hmac-sha256"
    signature: Place | None = None
    encoding: Literal["hex", "base64", "base64url", "text"] = "hex"
    template: str = "{body}"
    values: Mapping[str, Place] = field(default_factory=dict)
    timestamp: Place | None = None
    timestamp_unit: Literal["s", "ms", "rfc3339"] = "s"
    tolerance: float = 300.0
    keys: tuple[str, ...] = SECRETS
    key_encoding: Literal["text", "base64", "hex"] = "text"
    key_prefix: str = ""
    body_digest: Place | None = None
    when: tuple[tuple[Place, str], ...] = ()
    each: str | None = None
    delivery: Place | None = None
    delivery_with: tuple[Place, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WebToken:
    """A JSON Web Token (RFC 7519) that a request has to have; signed by a key of the set at `key_set`, or by one of `keys`.

    `keys` are the source's: secrets for algorithms that begin with HS, else open settings, each a public key as PEM. A token has
    an `exp`; times may be `tolerance` seconds off. `issuer`, one of `audience`, and `claims` have to be its own; beside a
    `key_set`, whose keys sign for others too, there is an audience or a claim. `body_claim` names the claim that has the body's
    SHA-256: without one the body is not signed.
    """

    token: Place
    algorithms: tuple[
        Literal[
            "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
        ],
        ...,
    ]
    keys: tuple[str, ...] = ()
    key_set: str | None = None
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    body_claim: str | None = None
    tolerance: float = 300.0
    delivery: Place | None = None
    delivery_with: tuple[Place, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MessageSignature:
    """A signature of RFC 9421, whose components the sender chooses: it has to cover `components`.

    A `content-digest` that it covers has to be the body's. `keys` are the source's: secrets for `hmac-sha256`, else open settings,
    each a public key as PEM. `key_id` and `tag` are those of the signature that is meant, which was made no further than
    `tolerance` seconds from now.
    """

    algorithm: Literal["hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-v1_5-sha256", "rsa-pss-sha512"] = (
        "hmac-sha256"
    )
    components: tuple[str, ...] = ("@method", "@path", "content-digest")
    keys: tuple[str, ...] = SECRETS
    key_encoding: Literal["text", "base64", "hex"] = "text"
    key_id: str | None = None
    tag: str | None = None
    tolerance: float = 300.0
    delivery: Place | None = None
    delivery_with: tuple[Place, ...] = ()


AnyScheme = Scheme | WebToken | MessageSignature


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """A request by which the sender asks whether the address takes its webhooks, as data: answered, and never a delivery.

    It has this `method`, all of `when`, and the `challenge`; a request whose `token` is none of `keys` is refused. The answer is
    `json`, else `text`, and `headers`, where `{challenge}` is the challenge, and `{digest}` its HMAC by the first of `keys`.
    """

    method: str = "GET"
    when: tuple[tuple[Place, str], ...] = ()
    challenge: Place | None = None
    token: Place | None = None
    keys: tuple[str, ...] = SECRETS
    signed: bool = False
    digest: Literal["hmac-sha256"] | None = None
    encoding: Literal["hex", "base64"] = "hex"
    text: str = "{challenge}"
    json: dict[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: Literal[200, 204] = 200
