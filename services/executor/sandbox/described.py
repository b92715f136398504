"""Checks a child's description of a bundle by types and bounds: each workflow and adapter by itself, so that an invalid one is
reported with its place, and the others serve.

The bounds are no narrower than those that the SDK has for authors; a value beyond them has come past the SDK.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from services.executor.sandbox import grammar
from services.executor.sandbox.interface import BundleProblem, DeclaredAdapter, DeclaredWorkflow, Description
from shared.calendars import checked_cron, checked_zone
from shared.errors import Invalid
from shared.messages.catalog import AdapterDeclaration, DeclaredOptions, DeclaredSchedule, DeclaredTool, Policy
from shared.questions.adapters import check_answer
from shared.registering import REGISTRATION, DeclaredRegistering
from shared.resources.source import BUILT_IN, COMMON_SETTINGS
from shared.schemas import checker_of
from shared.streams import DAY, GROUP
from shared.values import YEAR
from shared.verification import Verification

T = TypeVar("T", DeclaredWorkflow, DeclaredAdapter)

MOST_RETRIES = 1000
MOST_AT_A_TIME = 1000
"""Runs of one concurrency key."""
MOST_EXPRESSION = 4096
MOST_LINE = 2**31 - 1
MOST_SETTINGS = 50
MOST_ADAPTERS = 100
"""Of one bundle. Every gateway has those of all organizations in memory."""
LARGEST_DECLARATION = 32 * 1024
_NAME = r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z"
_KEY_SET = re.compile(r"https?://[^\s/]+(/\S*)?")
_SettingName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_]{0,63}\Z")]
Line = Annotated[int, msgspec.Meta(ge=1, le=MOST_LINE)]
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=YEAR)]
Limit = Annotated[float, msgspec.Meta(gt=0, le=YEAR)]


class _Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `catalog.DeclaredSchedule` as a child may send it."""

    cron: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    every: Annotated[int, msgspec.Meta(ge=1, le=int(YEAR))] | None = None
    timezone: Annotated[str, msgspec.Meta(max_length=100)] = "UTC"
    input: dict[str, Any] | None = None
    overlap: Literal["skip", "queue", "replace", "allow"] = "skip"
    catch_up: Literal["none", "one", "all"] = "one"


class _Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `catalog.DeclaredOptions` as a child may send it."""

    ttl: Annotated[float, msgspec.Meta(gt=0, le=DAY)] = 60.0
    stale: Annotated[float, msgspec.Meta(ge=0, le=DAY)] = 300.0


class _Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `catalog.DeclaredTool` as a child may send it."""

    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None


class _Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `catalog.Policy` as a child may send it."""

    retry_delay: Seconds = 1.0
    retry_max_delay: Seconds = 3600.0
    queue_timeout: Limit | None = None
    concurrency_limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_AT_A_TIME)] = 1
    concurrency_policy: Literal["queue", "reject", "cancel_older"] = "queue"
    isolation: Literal["run", "workflow"] = "run"
    preload: bool = True
    group: Annotated[str, msgspec.Meta(pattern=GROUP)] | None = None
    schedule: _Schedule | None = None
    options: _Options | None = None
    tool: _Tool | None = None


class _Workflow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An `interface.DeclaredWorkflow` as a child may send it."""

    name: Annotated[str, msgspec.Meta(pattern=_NAME)]
    module: Path
    path: Path
    line: Line
    function: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    doc: Annotated[str, msgspec.Meta(max_length=20_000)] | None
    input_schema: dict[str, Any]
    timeout: Limit | None
    retries: Annotated[int, msgspec.Meta(ge=0, le=MOST_RETRIES)]
    concurrency: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_EXPRESSION)] | None
    is_data_provider: bool
    policy: _Policy = _Policy()


class _Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An `AdapterDeclaration` as a child may send it."""

    verification: dict[str, Any]
    secrets: Annotated[dict[_SettingName, Annotated[str, msgspec.Meta(max_length=500)]], msgspec.Meta(max_length=MOST_SETTINGS)]
    settings: Annotated[dict[_SettingName, dict[str, Any]], msgspec.Meta(max_length=MOST_SETTINGS)]
    required: Annotated[list[_SettingName], msgspec.Meta(max_length=2 * MOST_SETTINGS)]
    code: list[Literal["handshake", "verify", "delivery"]]
    event_types: Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=200)]], msgspec.Meta(max_length=1000)]
    link: Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://", max_length=1000)] | None
    entity: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None
    registering: dict[str, Any] | None = None


class _Adapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An `interface.DeclaredAdapter` as a child may send it."""

    name: Annotated[str, msgspec.Meta(pattern=_NAME)]
    module: Path
    path: Path
    line: Line
    function: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    doc: Annotated[str, msgspec.Meta(max_length=20_000)] | None
    declaration: _Declaration


def description(
    workflows: Iterable[dict[str, Any]], problems: list[BundleProblem], adapters: Iterable[dict[str, Any]] = ()
) -> Description:
    """Return the valid workflows and adapters of a child's description, and the problems of the others. It may take a while."""
    wrong = [one for one in problems if one.severity == "error"]
    found = _valid("a workflow", map(_workflow, workflows), wrong)
    admitted = _valid("an adapter", map(_adapter, adapters), wrong)
    beyond = [
        BundleProblem(one.path, one.line, f"a workspace has {MOST_ADAPTERS} adapters at most") for one in admitted[MOST_ADAPTERS:]
    ]
    wrong += beyond
    admitted = admitted[:MOST_ADAPTERS]
    return Description(found, wrong, [one for one in problems if one.severity == "warning"], admitted)


def _valid(what: str, read: Iterable[T | BundleProblem], wrong: list[BundleProblem]) -> list[T]:
    """Return those that are valid, the first of each name; the problems of the others are added to `wrong`."""
    found: dict[str, T] = {}
    for one in read:
        if isinstance(one, BundleProblem):
            wrong.append(one)
        elif one.name in found:
            first = found[one.name]
            wrong.append(BundleProblem(one.path, one.line, f"{what} named {one.name} is already in {first.path} line {first.line}"))
        else:
            found[one.name] = one
    return list(found.values())


def _workflow(told: dict[str, Any]) -> DeclaredWorkflow | BundleProblem:
    try:
        one = msgspec.convert(told, _Workflow)
    except msgspec.ValidationError as error:
        return _problem(told, f"what it declares cannot be used: {error}")
    except RecursionError:
        return _problem(told, "what it declares is nested too deeply")
    if reason := grammar.complaint(one.input_schema):
        return BundleProblem(one.path, one.line, f"{one.name}: {reason}"[:2000])
    try:
        schedule = _schedule(one.policy.schedule)
    except ValueError as error:
        return BundleProblem(one.path, one.line, f"{one.name}: schedule: {error}"[:2000])
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    kept = one.policy.options and DeclaredOptions(ttl=one.policy.options.ttl, stale=one.policy.options.stale)
    told_of = one.policy.tool and DeclaredTool(**msgspec.structs.asdict(one.policy.tool))
    declared = {name: getattr(one.policy, name) for name in one.policy.__struct_fields__}
    policy = Policy(**declared | {"schedule": schedule, "options": kept, "tool": told_of})
    return DeclaredWorkflow(**(fields | {"policy": policy}))


def _schedule(told: _Schedule | None) -> DeclaredSchedule | None:
    """Return a workflow's schedule. Raises `ValueError` for one that can never fire."""
    if told is None:
        return None
    if (told.cron is None) == (told.every is None):
        raise ValueError("it has either cron or every")
    checked_zone(told.timezone)
    found = DeclaredSchedule(**{name: getattr(told, name) for name in told.__struct_fields__})
    return found if told.cron is None else msgspec.structs.replace(found, cron=checked_cron(told.cron))


def _adapter(told: dict[str, Any]) -> DeclaredAdapter | BundleProblem:
    try:
        one = msgspec.convert(told, _Adapter)
        _check_adapter(one)
    except (ValueError, Invalid) as error:
        return _problem(told, f"what it declares cannot be used: {error}")
    except RecursionError:
        return _problem(told, "what it declares is nested too deeply")
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    declared = AdapterDeclaration(**{name: getattr(one.declaration, name) for name in one.declaration.__struct_fields__})
    return DeclaredAdapter(**(fields | {"declaration": declared}))


def _check_adapter(one: _Adapter) -> None:
    """Raise ValueError, or `Invalid`, for a declaration by which nothing could be verified, or anything could be fetched."""
    declared = one.declaration
    size = len(msgspec.json.encode(declared))
    if size > LARGEST_DECLARATION:
        raise ValueError(f"it has {size} bytes as JSON; at most {LARGEST_DECLARATION} are in each gateway's memory")
    if one.name in BUILT_IN:
        raise ValueError(f"{one.name} is the name of an adapter of Millrace: choose another name")
    verification = msgspec.convert(declared.verification, Verification)
    # Requests name such addresses. That of a key set the author does, and the egress policy of the source's organization judges it.
    if any(scheme.certificate for scheme in verification.schemes) or any(one.visit for one in verification.handshakes):
        raise ValueError("an adapter of a workspace has nothing fetched by the gateway")
    for greeting in verification.handshakes:
        check_answer("text/plain", greeting.headers)
    if verification.acknowledgement is not None:
        check_answer(verification.acknowledgement.content_type, {})
    _check_schemes(declared, verification)
    known = declared.secrets.keys() | declared.settings.keys()
    unknown = next((name for name in declared.required if name not in known), None)
    if unknown is not None:
        raise ValueError(f"it requires {unknown}, which is neither a secret nor a setting")
    twice = min(declared.secrets.keys() & declared.settings.keys(), default=None) or next(
        (name for name in (*COMMON_SETTINGS, *_of_registering(declared)) if name in known), None
    )
    if twice is not None:
        raise ValueError(f"{twice} is a setting already")
    checker_of(msgspec.json.encode({"type": "object", "properties": declared.settings}))


def _check_schemes(declared: _Declaration, verification: Verification) -> None:
    """Raise ValueError for an adapter that verifies nothing, by itself or by one of its schemes."""
    if not verification.every and "verify" not in declared.code:
        raise ValueError("it verifies nothing")
    for scheme in verification.schemes:
        if scheme.algorithm != "none" and (declared.secrets.keys() | declared.settings.keys()).isdisjoint(scheme.keys):
            raise ValueError(f"its scheme's keys are {', '.join(scheme.keys)}, none of which is a secret or a setting")
    for token in verification.tokens:
        kinds = {algorithm.startswith("HS") for algorithm in token.algorithms}
        if len(kinds) != 1 or (token.key_set is not None and kinds != {False}):
            raise ValueError("the algorithms of a token are HS256, HS384 and HS512, for secrets, or others, for public keys")
        if token.key_set is None:
            _check_names(declared, token.keys, secret=True in kinds)
        elif not _KEY_SET.fullmatch(token.key_set):
            raise ValueError(f"a key set is at an https address, not at {token.key_set[:120]!r}")
    for message in verification.messages:
        _check_names(declared, message.keys, secret=message.algorithm.startswith("hmac"))


def _check_names(declared: _Declaration, keys: tuple[str, ...], *, secret: bool) -> None:
    if (declared.secrets if secret else declared.settings).keys().isdisjoint(keys):
        kind = "a secret" if secret else "a setting, as a public key is"
        raise ValueError(f"its scheme's keys are {', '.join(keys) or 'not named'}, none of which is {kind}")


def _of_registering(declared: _Declaration) -> tuple[str, ...]:
    """Return the setting that asks for a source to be registered, where one can be. Raises ValueError."""
    if declared.registering is None:
        return ()
    msgspec.convert(declared.registering, DeclaredRegistering)
    if "secret" not in declared.secrets:
        raise ValueError("registering: sources have a secret, which a sender may be told")
    return (REGISTRATION,)


def _problem(told: dict[str, Any], message: str) -> BundleProblem:
    """Return the problem at its place, as far as that is known."""
    path, line = ".", 1
    with contextlib.suppress(msgspec.ValidationError):
        path = msgspec.convert(told.get("path"), Path)
        line = msgspec.convert(told.get("line"), Line)
    return BundleProblem(path, line, message[:2000])
