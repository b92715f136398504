"""Requests made of the OpenAPI document by Schemathesis, as each role: none gets a 5xx, nor an answer that is not declared."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.programs import output
from tests.support.stack import ROOT

ORG = "roles"
# The roles of an organization; keys that are narrowed, and over; none; and the platform's own.
ROLES: dict[str, dict[str, object] | None] = {
    **{role: {"role": role} for role in ("viewer", "operator", "developer", "admin")},
    "narrowed": {"role": "developer", "scopes": ["runs", "source:orders"]},
    "expired": {"role": "admin"},
    "none": None,
    "platform": None,
}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
# Any query is good for a tail, which has no end. A sign-in is 503 where the provider that an earlier request named is away, as
# those of examples are.
LEFT_OUT = ("--exclude-path", "/api/v1/logs/tail", "--exclude-operation-id", "begin_sign_in")
# Seconds until the key is over that is to be.
EXPIRES_AFTER = 1.0


async def keys(platform: Client) -> dict[str, str | None]:
    """Return a key of each role, made by the platform's; the one that is over is so when this returns."""
    found: dict[str, str | None] = {"none": None, "platform": platform.key}
    for role, body in ROLES.items():
        if body is not None:
            over = {"expires_at": (datetime.now(UTC) + timedelta(seconds=EXPIRES_AFTER)).isoformat()} if role == "expired" else {}
            # A name that no request happens to have.
            found[role] = (await platform.call("PUT", f"/api/v1/keys/held-by-{role}?org={ORG}", body=body | over))["key"]

    async def is_over() -> bool:
        return bool((await platform.call("GET", f"/api/v1/keys/held-by-expired?org={ORG}"))["status"] == "expired")

    await eventually(is_over)
    return {role: found[role] for role in ROLES}


async def complaints(
    url: str,
    key_of: Mapping[str, str | None],
    folder: Path,
    *,
    each: int,
    within: float,
    seed: int | None = None,
    seconds: int | None = None,
) -> str | None:
    """Return what Schemathesis says against the answers to these keys, None for nothing; `folder` is for its files.

    It sends `each` requests of an operation with each key, the same in every run, or for a `seed`; after so many `seconds` no more.
    """
    drawn = ("--generation-deterministic",) if seed is None else ("--seed", str(seed), "--generation-database", "none")
    code, said = await output(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--phases", "fuzzing", *drawn, "--max-examples", str(each * len(key_of))),
        *(() if seconds is None else ("--max-time", str(seconds))),
        *("--request-timeout", "70", "--no-color", "--checks", ",".join(CHECKS)),
        *LEFT_OUT,
        cwd=folder,
        environment={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.support.keyed",
            "MILLRACE_TEST_KEYS": msgspec.json.encode(key_of).decode(),
        },
        within=within,
    )
    return None if code == 0 and " generated" in said else said
