"""Waits until services are ready, and names each that is not and why."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from deploy.concurrency import together
from deploy.errors import SandboxMissing, StartError
from deploy.files import tail
from deploy.supervise import Supervised

READY_WITHIN = 60.0
ASKED_EVERY = 0.05
ASKING_TAKES = 5.0
# A service's exit code when its configuration is wrong: starting it again would not help.
MISCONFIGURED = 2


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A service and the socket of its health endpoints."""

    supervised: Supervised
    socket: Path


async def wait_until_ready(services: Sequence[Asked], within: float = READY_WITHIN) -> dict[str, dict[str, Any]]:
    """Return the answer of each service's /readyz once all are ready, by name; StartError names those that are not, and why."""
    reasons = {asked.supervised.program.name: "it has not been asked yet" for asked in services}
    try:
        async with asyncio.timeout(within):
            told = await together(*(_until_ready(asked, reasons) for asked in services))
    except TimeoutError as error:
        late = "; ".join(_reason(asked, reasons) for asked in services if _name(asked) in reasons)
        message = f"Not ready after {within:.0f} s: {late}"
        raise StartError(message) from error
    return {_name(asked): body for asked, body in zip(services, told, strict=True)}


async def _until_ready(asked: Asked, reasons: dict[str, str]) -> dict[str, Any]:
    name = _name(asked)
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(asked.socket)), timeout=aiohttp.ClientTimeout(total=ASKING_TAKES)
    ) as session:
        while True:
            last_exit = asked.supervised.state.last_exit
            if last_exit is not None and last_exit.code == MISCONFIGURED:
                reasons[name] = "it refuses its configuration"
                raise StartError(_reason(asked, reasons))
            try:
                async with session.get("http://service/readyz") as response:
                    body = await response.text()
                    if response.ok:
                        del reasons[name]
                        return _decoded(body)
                    missing = _decoded(body).get("parts", {}).get("sandbox", {}).get("detail")
                    if missing:
                        raise SandboxMissing(missing)
                    reasons[name] = f"it answers {response.status} {body.strip()[:1000]}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reasons[name] = f"it does not answer ({type(error).__name__}, last exit: {_last_exit(asked)})"
            await asyncio.sleep(ASKED_EVERY)  # a service has no way to call back


def _decoded(body: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _last_exit(asked: Asked) -> str:
    last_exit = asked.supervised.state.last_exit
    return "none" if last_exit is None else str(last_exit.code)


def _name(asked: Asked) -> str:
    return asked.supervised.program.name


def _reason(asked: Asked, reasons: dict[str, str]) -> str:
    log = asked.supervised.program.log
    said = tail(log, 5)
    return f"{_name(asked)}: {reasons[_name(asked)]}" + (f"; the end of {log}:\n{said}\n" if said else "")
