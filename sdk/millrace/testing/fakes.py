"""Fakes that answer in the place of the platform. Each names the requests of a run that it takes: see `answers`."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from millrace._connections import Connection
from millrace._integrations import Integration
from millrace._order import DONE, GIVEN_UP, SINCE
from millrace._runtime.encode import to_json
from millrace.errors import Refused
from millrace.testing.outcome import Event, Kept, Recorded

Answer = Callable[[dict[str, Any]], Any]
"""Takes a request's fields and returns the answer, or raises `Refused`, as the platform would."""

_EVENT_TYPE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_BASE_URL = "https://api.example"
_SHORTEST_SECRET = 8
"""Characters: the platform masks nothing shorter, which would turn up by chance."""


class Fake(Protocol):
    """One thing that a run may ask for. Made anew for each run from the test's values."""

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""


class Masking:
    """Puts `***` in the place of each secret that the run was given, as the platform does; not of its encoded forms."""

    def __init__(self) -> None:
        self._secrets: list[str] = []

    def learn(self, secret: str) -> None:
        """From now on this is masked."""
        if len(secret) >= _SHORTEST_SECRET:
            self._secrets = sorted({*self._secrets, secret}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Answer the text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def document(self, value: Any) -> Any:
        """Answer the JSON value without them, in keys as well."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.document(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.document(item) for key, item in value.items()}
        return value


class Steps:
    """Keeps the results of steps, and of waits that are over, beginning with those that are given."""

    def __init__(self, given: Recorded, masking: Masking) -> None:
        self._masking = masking
        self._kept: dict[tuple[str, str, int], Any] = {}
        self._positions: dict[tuple[str, str, int], int | None] = {}
        self._before: list[tuple[str, str, int]] = []
        self.waiting: list[tuple[str, str, int]] = []
        """With which the attempt before has ended."""
        self.inputs: dict[str, tuple[str, Any]] = {}
        """Of each run that was started, by its id: the workflow, and the input."""
        if isinstance(given, Kept):
            self._kept |= given.of_others
            self._positions |= given.positions
            self.inputs |= given.inputs
            self.waiting += given.waiting
        for key, result in given.items():
            name, ordinal = key if isinstance(key, tuple) else (key, 0)
            told = json.loads(to_json(result, what=f"the recorded result of step {name!r}"))
            self._kept["step", name, ordinal] = {"result": told}
        if isinstance(given, Kept):
            self._before = [call for call in given.order if call in self._kept]
            self._kept = {call: self._kept[call] for call in dict.fromkeys([*self._before, *self._kept])}

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"step_get": self._get, "step_put": self._put}

    @property
    def calls(self) -> list[Any]:
        """All recorded steps in the form that an attempt receives, with their places where these are known."""
        before = frozenset(self._before)
        return [
            (*call, self._positions.get(call), 0.0, GIVEN_UP if "given_up" in told else DONE if call in before else SINCE)
            for call, told in self._kept.items()
        ]

    def recorded(self, waiting: list[tuple[str, str, int]]) -> Recorded:
        """Answer all that is kept, as it can be given again, by an attempt that ends with these waits."""
        steps = {call: told["result"] for call, told in self._kept.items() if call[0] == "step"}
        shown = {name if ordinal == 0 else (name, ordinal): result for (_, name, ordinal), result in steps.items()}
        others = {call: told for call, told in self._kept.items() if call[0] != "step"}
        return Kept(shown, others, dict(self._positions), dict(self.inputs), list(self._kept), waiting)

    def give_up(self, kind: str, name: str, ordinal: int, position: int | None) -> None:
        """Keep that a wait was given up."""
        self._kept[kind, name, ordinal] = {"result": None, "given_up": True}
        self._positions[kind, name, ordinal] = position

    def keep(self, kind: str, name: str, ordinal: int, position: int | None, result: Any, *, timed_out: bool = False) -> Any:
        """Keep how a call has ended, and answer it as a later attempt will be answered."""
        call = kind, name, ordinal
        self._kept[call] = {"result": result, "timed_out": True} if timed_out else {"result": result}
        self._positions[call] = position
        return self._kept[call]

    def _get(self, asked: dict[str, Any]) -> Any:
        return self._kept.get((asked.get("of", "step"), asked["name"], asked["ordinal"]))

    def _put(self, asked: dict[str, Any]) -> Any:
        kept = self._masking.document(asked["result"])
        told = self.keep("step", asked["name"], asked["ordinal"], asked["position"], kept)
        return None if kept == asked["result"] else told


class Connections:
    """Answers the connections that are given: a token, or a `Connection` where its end matters too.

    One that is a token has a base_url where the test declares answers of its API.
    """

    def __init__(self, given: Mapping[str, str | Connection], called: Collection[str], masking: Masking) -> None:
        for name, one in given.items():
            if not isinstance(one, str | Connection):
                msg = f"connections[{name!r}] is a token or a Connection, not {type(one).__name__}"
                raise TypeError(msg)
        self._given = given
        self._called = called
        self._masking = masking

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"connection": self._connection}

    def _connection(self, asked: dict[str, Any]) -> Any:
        name = asked["name"]
        if name not in self._given:
            msg = f"there is no connection {name!r}"
            raise Refused("NotFound", msg)
        found = self._given[name]
        base_url = _BASE_URL if name in self._called else None
        connection = found if isinstance(found, Connection) else Connection(name, found, base_url=base_url)
        self._masking.learn(connection.token)
        usual = {} if connection.query else {"Authorization": f"Bearer {connection.token}"}
        return {
            "name": connection.name,
            "token": connection.token,
            "expires_at": _text(connection.expires_at),
            "headers": connection.headers or usual,
            "query": connection.query,
            "base_url": connection.base_url,
            "version": connection.version,
        }


class Settings:
    """Answers the variables and secrets that are given."""

    def __init__(self, variables: Mapping[str, Any], secrets: Mapping[str, str], masking: Masking) -> None:
        self._variables = {name: json.loads(to_json(value, what=f"variables[{name!r}]")) for name, value in variables.items()}
        for name, one in secrets.items():
            if not isinstance(one, str):
                msg = f"secrets[{name!r}] is text, not {type(one).__name__}"
                raise TypeError(msg)
        self._secrets = dict(secrets)
        self._masking = masking

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"variable": self._variable, "secret": self._secret}

    def _variable(self, asked: dict[str, Any]) -> Any:
        return {"value": _found("variable", asked["name"], self._variables)}

    def _secret(self, asked: dict[str, Any]) -> Any:
        value = _found("secret", asked["name"], self._secrets)
        self._masking.learn(value)
        return {"value": value}


class Integrations:
    """Answers the integrations that are given: a config, or an `Integration` where its entity or connection matters too."""

    def __init__(self, given: Mapping[str, Mapping[str, Any] | Integration]) -> None:
        self._given: dict[str, Any] = {}
        for name, one in given.items():
            mapped = one if isinstance(one, Integration) else Integration(name, dict(one), None, None)
            self._given[name] = json.loads(to_json(mapped, what=f"integrations[{name!r}]", rich=True))

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"integration": self._integration}

    def _integration(self, asked: dict[str, Any]) -> Any:
        if asked["name"] not in self._given:
            msg = f"there is no integration {asked['name']!r}"
            raise Refused("NotFound", msg)
        return self._given[asked["name"]]


class Topics:
    """Takes events to the topics that are given."""

    def __init__(self, given: Collection[str], masking: Masking) -> None:
        if isinstance(given, str):
            msg = f"topics are a list of names, not {given!r}"
            raise TypeError(msg)
        self._given = frozenset(given)
        self._masking = masking
        self.emitted: list[Event] = []

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"emit": self._emit}

    def _emit(self, asked: dict[str, Any]) -> Any:
        if asked["source"] not in self._given:
            msg = f"there is no source {asked['source']!r}"
            raise Refused("NotFound", msg)
        if not _EVENT_TYPE.fullmatch(asked["type"]):
            wanted = "an event type has 1 to 100 letters, digits, dots, underscores and hyphens"
            msg = f"{asked['type'][:120]!r} cannot be a type: {wanted}"
            raise Refused("Invalid", msg)
        self.emitted.append(Event(asked["source"], asked["type"], self._masking.document(asked["data"])))
        return {"id": f"event-{len(self.emitted)}", "delivery": f"delivery-{len(self.emitted)}"}


def _found(what: str, name: str, given: Mapping[str, Any]) -> Any:
    if name not in given:
        msg = f"there is no {what} {name!r} in this organization or in global"
        raise Refused("NotFound", msg)
    return given[name]


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
