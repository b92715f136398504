"""The oauth service's settings, from its environment."""

from __future__ import annotations

from pathlib import Path

from shared import config
from shared.config import Environment
from shared.egress.configured import egress_of
from shared.egress.policy import EgressRules


class OAuthSettings(config.Settings, frozen=True, kw_only=True):
    """Read once at start. `egress` judges the hosts of providers; `data` is a folder for tokens that the database cannot take."""

    egress: EgressRules
    data: Path | None


def read(environment: Environment) -> OAuthSettings:
    """Return the settings; `environment.check` reports a missing or wrong one."""
    data = environment.optional("MILLRACE_DATA")
    return OAuthSettings(**config.common(environment), egress=egress_of(environment), data=None if data is None else Path(data))
