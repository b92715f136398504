"""Settings of the events service."""

from __future__ import annotations

import msgspec

from shared.config import Environment


class Settings(msgspec.Struct, frozen=True):
    """Read once at start. `database_url` and `nats_url` hold this service's own credentials."""

    nats_url: str
    database_url: str
    keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        """Say nothing: a repr ends up in logs, and this holds keys and passwords."""
        return "Settings(...)"


def read(environment: Environment) -> Settings:
    """Return the settings; what is missing is reported by `environment.check`."""
    return Settings(
        nats_url=environment.text("MILLRACE_NATS_URL"),
        database_url=environment.text("MILLRACE_DATABASE_URL"),
        keys=environment.keys("MILLRACE_KEYS"),
    )
