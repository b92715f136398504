"""The page of configuration: the services' readers of settings are called with an environment that notes what they ask for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from deploy import stack
from shared import trace_settings
from shared.config import Environment
from shared.messages.log import SERVICES
from shared.messages.shards import MOST, VARIABLE
from tests.reference.markdown import code, table
from tests.reference.variables import ELSEWHERE, HEAD, MEANINGS, TITLES, Meaning

# Where others are read only beside these.
_GIVEN = {"MILLRACE_INDEX_URL": "https://packages.example/simple", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example"}
# What `millrace up` says itself, by an option of its own or for each process.
_OF_UP = {
    "MILLRACE_DATA": "--data",
    "MILLRACE_HOST": "--host",
    "MILLRACE_PORT": "--port",
    "MILLRACE_PUBLIC_URL": "--public-url",
    "MILLRACE_UNSAFE": "--unsafe",
    "MILLRACE_NATS_URL": "--nats",
    "MILLRACE_DATABASE_URL": "--postgres",
}
# What it makes, or has bounds of its own for: it ends within fifteen seconds.
_BOUND = {"MILLRACE_DRAIN", "MILLRACE_STOP_DELAY"}
_MADE = {"MILLRACE_HEALTH_ADDR", "MILLRACE_LISTEN_FD", "MILLRACE_SUPERVISOR", "MILLRACE_NATS_ISSUER", "MILLRACE_SANDBOX_UID"}


class Asked(msgspec.Struct, frozen=True):
    """A variable as it is asked for: the kind of its value, and its default; None: there is none."""

    kind: str
    default: str | None = None
    required: bool = False


class Noting(Environment):
    """An environment in which nothing is set, and that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(_GIVEN)
        self.asked: dict[str, Asked] = {}

    def _note(self, name: str, asked: Asked) -> None:
        if name not in self.asked or self.asked[name].kind == "text":
            self.asked[name] = asked

    def text(self, name: str, default: str | None = None) -> str:
        """Note a text."""
        self._note(name, Asked("text", default or None, required=default is None))
        return default if default is not None else "x"

    def optional(self, name: str) -> str | None:
        """Note a text that may be missing."""
        self._note(name, Asked("text"))
        return _GIVEN.get(name)

    def integer(self, name: str, default: int, *, minimum: int = 0, maximum: int = 2**31) -> int:
        """Note a whole number."""
        bounds = f"number from {minimum:,}" if maximum >= 2**31 else f"number, {minimum:,} to {maximum:,}"
        self._note(name, Asked(bounds, str(default) if default >= minimum else None))
        return default

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Note a choice."""
        self._note(name, Asked(", ".join(code(one) for one in choices)))
        return None

    def flag(self, name: str) -> bool:
        """Note a flag."""
        self._note(name, Asked("`1` or `0`", "0"))
        return False

    def path(self, name: str) -> Path:
        """Note a path."""
        self._note(name, Asked("path", required=True))
        return Path("/")

    def keys(self, name: str) -> tuple[bytes, ...]:
        """Note keys, and where else they may be."""
        self._note(name, Asked("base64 keys", required=True))
        for suffix, kind in (("FILE", "path"), ("COMMAND", "command"), ("OPENING", "base64 keys")):
            self._note(f"{name}_{suffix}", Asked(kind))
        return ()


def asked() -> dict[str, dict[str, Asked]]:
    """Return what each service asks for, by variable and service."""
    found: dict[str, dict[str, Asked]] = {}
    for service in SERVICES:
        environment = Noting()
        read: Callable[[Environment], Any] = importlib.import_module(f"services.{service}.config").read
        read(environment)
        environment.optional("MILLRACE_HEALTH_ADDR")
        environment.optional("MILLRACE_DATA")
        trace_settings.read(environment)
        environment.integer(VARIABLE, 1, minimum=1, maximum=MOST)
        for name, one in environment.asked.items():
            found.setdefault(name, {})[service] = one
    return found


def unread() -> set[str]:
    """Return the variables that are explained, and that no service asks for."""
    return set(MEANINGS) - set(asked())


def untold() -> set[str]:
    """Return the variables of services that an operator of `millrace up` could set in vain."""
    chosen = {name for names in stack.CHOSEN.values() for name in names} | {*stack.PASSED_ON, *stack.KEYS}
    own = {*_OF_UP, *_MADE, *_BOUND, "MILLRACE_ADMIN_KEY", "MILLRACE_SANDBOX_TIER", "MILLRACE_KEYS_OPENING"}
    return {name for name in asked() if not name.startswith("OTEL_")} - chosen - own


def page() -> str:
    """Return the page in Markdown. Raises KeyError for a variable that nobody has explained."""
    found = asked()
    made = HEAD
    missing = set(found) - set(MEANINGS)
    if missing:
        raise KeyError(f"tests/reference/variables.py does not explain {', '.join(sorted(missing))}")
    for group, title in TITLES.items():
        rows = [_row(name, found[name], meaning) for name, meaning in MEANINGS.items() if meaning.group == group]
        made += f"## {title}\n\n" + table(("variable", "type", "default", "of", "meaning"), rows)
    made += "## Commands\n\nThese are read by `millrace`, `millrace up` and `python -m deploy.prepare`.\n\n"
    return made + table(("variable", "meaning"), ((code(name), meaning) for name, meaning in ELSEWHERE.items()))


def _row(name: str, by: dict[str, Asked], meaning: Meaning) -> tuple[str, str, str, str, str]:
    one = next(iter(by.values()))
    default = meaning.default or (one.default and code(one.default)) or ("required" if one.required else "")
    if any(other.required != one.required for other in by.values()):
        default = "required by " + ", ".join(service for service, other in by.items() if other.required)
    of = "all" if len(by) == len(SERVICES) else ", ".join(by)
    says = f" (`millrace up {_OF_UP[name]}`)" if name in _OF_UP else " Not of `millrace up`." if name in _BOUND else ""
    return code(name), meaning.kind or one.kind, default, of, meaning.text + says
