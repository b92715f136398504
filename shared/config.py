"""Settings from the environment, read once at start; everything that is missing or wrong is reported at once."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shared.addresses import tls_of
from shared.errors import Problem

# Runs of a chain, and events that these emit: several times the longest chain in use, and some minutes of one executor.
LONGEST_CHAIN = 10_000
# Some minutes of executors, and 50 MB of the broker's memory, which holds each run's subjects.
MOST_QUEUED = 100_000
# Some minutes of consumption, and of a few KiB each a fiftieth of the disk that the broker may use.
MAX_BACKLOG = 100_000


# Seconds. A request that waited so long for a connection is better refused, to be sent again. A statement of any request takes less
# than it may, and the services' roles in the database allow no more.
POOL_WAIT = 1.5
STATEMENT_WAIT = 30.0
# Seconds that a command has to print keys: a service waits for them before it starts.
KEYS_WITHIN = 15.0
MOST_OF_KEYS = 64 * 1024


class ConfigError(Exception):
    """The environment does not make a configuration; `problems` name each variable and its fault."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{problem.path}: {problem.message}" for problem in problems))


class Environment:
    """Reads variables and remembers every complaint until `check`. Values never appear in a complaint."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables
        self._problems: list[Problem] = []

    def text(self, name: str, default: str | None = None) -> str:
        """Return the variable `name`; without a default it must be there and not be empty."""
        value = self._variables.get(name, "").strip()
        if value:
            return value
        if default is None:
            self._problems.append(Problem(name, "is not set"))
            return ""
        return default

    def optional(self, name: str) -> str | None:
        """Return the variable, or None where it is not set or empty."""
        return self._variables.get(name, "").strip() or None

    def address(self, name: str, default: str | None = None) -> str:
        """Return the address of a store as `text` does, with nothing amiss with the files for TLS that it names."""
        url = self.text(name, default)
        try:
            tls_of(url)
        except ValueError as error:
            self._problems.append(Problem(name, str(error)))
        return url

    def integer(self, name: str, default: int, *, minimum: int = 0, maximum: int = 2**31) -> int:
        """Return a whole number within bounds."""
        raw = self.optional(name)
        if raw is None:
            return default
        try:
            value = int(raw)
        except ValueError:
            self._problems.append(Problem(name, "is not a whole number"))
            return default
        if not minimum <= value <= maximum:
            self._problems.append(Problem(name, f"must be from {minimum} to {maximum}"))
            return default
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Return one of `choices`, or None where it is not set."""
        value = self.optional(name)
        if value is not None and value not in choices:
            self._problems.append(Problem(name, f"must be one of {', '.join(choices)}"))
            return None
        return value

    def flag(self, name: str) -> bool:
        """Return whether the variable says 1, true, yes or on."""
        return (self.optional(name) or "").lower() in {"1", "true", "yes", "on"}

    def path(self, name: str) -> Path:
        """Return a folder's path; it must be set."""
        return Path(self.text(name))

    def keys(self, name: str) -> tuple[bytes, ...]:
        """Return base64 keys of 256 bits, with commas or line breaks between them; the first one encrypts.

        They are the variable's, else those of the file that `<name>_FILE` names, else what the command `<name>_COMMAND` prints.
        Those of `<name>_OPENING` come after them, and so open only.
        """
        sources = [one for one in (name, f"{name}_FILE", f"{name}_COMMAND") if self.optional(one) is not None]
        if len(sources) != 1:
            wrong = (
                f"is not set, and neither is {name}_FILE nor {name}_COMMAND" if not sources else f"is set, and so is {sources[0]}"
            )
            self._problems.append(Problem(sources[-1] if sources else name, wrong))
            return ()
        (source,) = sources
        try:
            text = self._key_text(source, name)
        except (OSError, ValueError) as error:
            # Nothing of what a command has printed: it may be half a key.
            self._problems.append(Problem(source, str(error)))
            return ()
        made = self._keys_in(source, text)
        if not made and not self._problems:
            self._problems.append(Problem(source, "gives no key"))
        opening = f"{name}_OPENING"
        return (*made, *self._keys_in(opening, self.optional(opening) or ""))

    def _keys_in(self, source: str, text: str) -> list[bytes]:
        made: list[bytes] = []
        for number, part in enumerate(re.findall(r"[^\s,]+", text), start=1):
            try:
                key = base64.b64decode(part, validate=True)
            except (binascii.Error, ValueError):
                self._problems.append(Problem(source, f"key {number} is not base64"))
                continue
            if len(key) != 32:
                self._problems.append(Problem(source, f"key {number} has {len(key) * 8} bits, not 256"))
                continue
            made.append(key)
        return made

    def _key_text(self, source: str, name: str) -> str:
        """Return the keys as text. Raises ValueError or OSError that say why there are none."""
        given = self.text(source)
        if source == name:
            return given
        if source == f"{name}_COMMAND":
            own = {one: value for one, value in self._variables.items() if not one.startswith("MILLRACE_")}
            return printed(given, own, KEYS_WITHIN)
        try:
            with Path(given).open("rb") as file:
                return file.read(MOST_OF_KEYS).decode("ascii")
        except OSError as error:
            raise ValueError(f"names {given!r}, which cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"names {given!r}, which is no text of base64 keys") from error

    def complain(self, name: str, message: str) -> None:
        """Remember that the variable `name` is wrong, for `check`; `message` does not repeat a secret."""
        self._problems.append(Problem(name, message))

    def check(self) -> None:
        """Raise `ConfigError` with all complaints, if there are any."""
        if self._problems:
            raise ConfigError(self._problems)


def printed(command: str, environment: Mapping[str, str], within: float) -> str:
    """Return what a command prints, which is run without a shell.

    Raises ValueError that says how it failed, and shows nothing of its output.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"is no command line: {error}") from None
    try:
        # Its complaints go nowhere: some programs put into them what they have read. A session of its own: to be ended as a whole.
        process = subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ValueError(f"names the program {words[0]!r}, which cannot be started: {error.strerror}") from None
    with process:
        try:
            output, _ = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise ValueError(f"did not end within {within:g} s") from None
    if process.returncode:
        raise ValueError(f"ended with {process.returncode}")
    if len(output) > MOST_OF_KEYS or not output.isascii():
        raise ValueError("printed what is no text of base64 keys")
    return output.decode("ascii")


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """How a service uses its pool of connections to the database.

    `url`: the address of a pooler for it, None for the database's own. `size`: connections, None for as many as the service has
    unless told. `wait`: seconds for which a request waits for one. `statement`: seconds that a statement may take.
    """

    url: str | None = None
    size: int | None = None
    wait: float = POOL_WAIT
    statement: float = STATEMENT_WAIT


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of every service with tables. Addresses hold its own credentials; the first of `keys` encrypts, all decrypt.

    `database_url` leads to the database itself: locks are held on connections of their own.
    """

    nats_url: str
    database_url: str
    keys: tuple[bytes, ...]
    pool: Pool = Pool()

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs, and this holds keys and passwords."""
        return "Settings(...)"


def common(environment: Environment) -> dict[str, Any]:
    """Return the fields of `Settings`; `environment.check` reports a missing or wrong one."""
    return {
        "nats_url": environment.address("MILLRACE_NATS_URL"),
        "database_url": environment.address("MILLRACE_DATABASE_URL"),
        "keys": environment.keys("MILLRACE_KEYS"),
        "pool": Pool(
            url=environment.address("MILLRACE_POOLED_DATABASE_URL", "") or None,
            size=environment.integer("MILLRACE_POOL_SIZE", 0, minimum=1, maximum=1000) or None,
            wait=environment.integer("MILLRACE_POOL_WAIT_MS", int(POOL_WAIT * 1000), minimum=1, maximum=60_000) / 1000,
            statement=environment.integer("MILLRACE_STATEMENT_MS", int(STATEMENT_WAIT * 1000), minimum=100, maximum=30_000) / 1000,
        ),
    }


def longest_chain(environment: Environment) -> int:
    """Return how many runs, and how many events of theirs, one chain may have; where runs are started it is the same."""
    return environment.integer("MILLRACE_MAX_CHAIN", LONGEST_CHAIN, minimum=1)


def most_queued(environment: Environment) -> int:
    """Return with how many queued runs floods of webhooks wait; the gateway and the events service have the same."""
    return environment.integer("MILLRACE_MAX_QUEUED_RUNS", MOST_QUEUED, minimum=1)


def max_backlog(environment: Environment) -> int:
    """Return how many messages of webhooks may wait to be handled; the gateway and the events service have the same."""
    return environment.integer("MILLRACE_MAX_BACKLOG", MAX_BACKLOG, minimum=1)


def quotas(environment: Environment) -> dict[str, int | None]:
    """Return the quotas of organizations that have none of their own, by name; wherever they count they are the same."""
    names = {
        "runs_in_flight": "MILLRACE_QUOTA_RUNS_IN_FLIGHT",
        "runs_a_day": "MILLRACE_QUOTA_RUNS_A_DAY",
        "stored_bytes": "MILLRACE_QUOTA_STORED_BYTES",
        "sources": "MILLRACE_QUOTA_SOURCES",
    }
    # Nobody is to have nothing by default: 0 is none.
    return {quota: environment.integer(name, 0, minimum=0, maximum=2**53) or None for quota, name in names.items()}


def public_url(environment: Environment) -> str | None:
    """Return the address at which the gateway is reached from outside, without a slash at its end; None where it is not set."""
    given = environment.optional("MILLRACE_PUBLIC_URL")
    if given is not None and not given.startswith(("http://", "https://")):
        environment.complain("MILLRACE_PUBLIC_URL", "must begin with http:// or https://")
    return None if given is None else given.rstrip("/")


def read(environment: Environment) -> Settings:
    """Return the settings of a service that needs no others."""
    return Settings(**common(environment))
