"""The shape of the house: import contracts, and what may not be in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.executor.sandbox.ground import _copy_of_sdk

ROOT = Path(__file__).parents[2]
SHARED = {
    "adapters", "addresses", "aggregate", "asking", "asyncapi", "batching", "blobs", "bounded", "breaker", "bus", "cache",
    "calendars", "charsets", "checkpoint", "circuits", "client", "commit",
    "config", "connection", "consumer", "crowds", "db", "deadlines", "durables", "egress", "encryption", "envelope", "erasing",
    "errors", "expiring", "health", "health_server", "http", "leader", "letters", "levels", "lingering", "locks", "log",
    "messages", "metrics", "observing", "ordered_reader", "organizations",
    "patterns", "projected", "puller", "queued",
    "projection", "pull", "questions", "registering", "registry", "resources", "runs", "salvage", "schemas", "sending", "service",
    "sharding",
    "jose", "statements", "owners", "signatures", "streams", "suspects", "tables", "tasks", "values", "verification", "wire",
    "expressions", "gathering", "web_tokens", "nkeys", "subscribers", "exporting", "trace_settings", "traceparent", "tracing",
    "quotas", "removals", "trail",
}  # fmt: skip
PURE = ["shared.messages", "shared.envelope", "services.events.domain", "services.executor.domain", "services.logs.domain",
        "services.oauth.domain", "services.gateway.domain"]  # fmt: skip
FORBIDDEN_TO_PURE = ["faststream", "nats", "aiohttp", "sqlalchemy", "asyncpg", "structlog"]


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_loads_without_io_libraries(module: str) -> None:
    code = f"import sys, {module}; sys.exit(' '.join(m for m in {FORBIDDEN_TO_PURE!r} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shared_holds_only_what_the_design_names() -> None:
    found = {path.stem for path in (ROOT / "shared").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == SHARED


def test_the_child_side_of_the_sdk_is_standard_library_only() -> None:
    allowed = set(sys.stdlib_module_names) | {"millrace", "__future__"}
    for path in (ROOT / "sdk" / "millrace").rglob("*.py"):
        if "cli" in path.relative_to(ROOT / "sdk" / "millrace").parts[0]:
            continue
        for module in re.findall(r"^\s*(?:from|import) ([A-Za-z_][\w]*)", path.read_text(), re.MULTILINE):
            assert module in allowed, f"{path} imports {module}"


def test_a_sandboxed_child_is_not_given_the_command(tmp_path: Path) -> None:
    package = _copy_of_sdk(tmp_path) / "millrace"
    assert (package / "_runtime" / "boot.py").is_file()
    assert not [path for path in package.rglob("*") if "cli" in path.name]


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "base", "service"])
def test_no_room_for_everything(name: str) -> None:
    for folder in ("services", "deploy", "sdk"):
        assert not list((ROOT / folder).rglob(f"{name}.py")), name
    assert not list((ROOT / "services").rglob(f"{name}.py"))


@pytest.mark.parametrize("name", ["requirements", "docs", "release"])
def test_a_lock_pins_with_hashes_and_names_no_address(name: str) -> None:
    lock = (ROOT / f"{name}.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    assert "index-url" not in lock
    packages = re.findall(r"^[a-z0-9][^\s\\]*", lock, re.MULTILINE)
    assert packages
    assert all("==" in package for package in packages)
