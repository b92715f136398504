"""What the oauth service is told by its environment."""

from __future__ import annotations

import msgspec

from shared.config import Environment


class Settings(msgspec.Struct, frozen=True):
    """Addresses hold this service's own credentials; `keys` seal the tokens: the first one encrypts, all decrypt."""

    nats_url: str
    database_url: str
    keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        """Say nothing: a repr ends up in logs."""
        return "Settings(...)"


def read(environment: Environment) -> Settings:
    """Return the settings; what is missing or wrong is reported by `environment.check`."""
    return Settings(
        nats_url=environment.text("MILLRACE_NATS_URL"),
        database_url=environment.text("MILLRACE_DATABASE_URL"),
        keys=environment.keys("MILLRACE_KEYS"),
    )
