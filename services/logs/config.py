"""The logs service's settings, from its environment."""

from __future__ import annotations

from pathlib import Path

from shared import config
from shared.config import Environment
from shared.nkeys import Issuer

ISSUER = "MILLRACE_NATS_ISSUER"
_SCHEMES = ("file:///", "s3://", "gs://", "az://")


class LogsSettings(config.Settings, frozen=True, kw_only=True):
    """Read once at start.

    `copies` are the URLs below which copies of the archive's digests are kept, outside of the broker; `seal_every` is in seconds.
    `issuer` signs for subscribers, None: there are none.
    """

    copies: tuple[str, ...]
    seal_every: int
    issuer: Issuer | None


def read(environment: Environment) -> LogsSettings:
    """Return the settings; `environment.check` reports a missing or wrong one."""
    data = environment.optional("MILLRACE_DATA")
    own = "" if data is None else (Path(data).absolute() / "digests").as_uri()
    copies = tuple(one.rstrip("/") for one in environment.text("MILLRACE_DIGEST_COPIES", own).split(",") if one)
    for number, one in enumerate(copies, start=1):
        if not one.startswith(_SCHEMES):
            environment.complain("MILLRACE_DIGEST_COPIES", f"URL {number} must begin with {', '.join(_SCHEMES)}")
    # A row that is changed before it was sealed is not noticed; each seal writes to the broker and to every copy.
    seal_every = environment.integer("MILLRACE_DIGEST_SECONDS", 60, minimum=1, maximum=86400)
    return LogsSettings(**config.common(environment), copies=copies, seal_every=seal_every, issuer=_issuer(environment))


def _issuer(environment: Environment) -> Issuer | None:
    seeds = environment.keys(ISSUER) if environment.optional(ISSUER) is not None else ()
    return Issuer(seeds[0]) if seeds else None
