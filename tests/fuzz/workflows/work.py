"""What the fuzz has done: take anything, and tell hostile things of all kinds to whoever listens to a run."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from millrace import config, events, log, runs, secrets, sleep, step, wait_for, workflow
from millrace._runtime import channel


@dataclass
class Order:
    """Names of keys that it does not have end up in messages."""

    a: str = ""
    n: int = 0


@workflow(timeout=20)
def take(event: Any = None, value: Any = None) -> int:
    """Take anything."""
    return 1


@workflow(timeout=20)
def order(order: Order) -> str:
    """Take what fits."""
    return order.a


@workflow(timeout=20)
async def say(frame: str, ends: bool = False) -> str:
    """Write a frame to the supervisor, past the SDK."""
    payload = base64.b64decode(frame)
    channel.current._socket.sendall(len(payload).to_bytes(4, "big") + payload)
    return "said"


@workflow(timeout=20)
async def tell(call: str, value: str) -> Any:
    """Hand a value, which comes as JSON, to one call of the SDK."""
    given = json.loads(value)

    async def it() -> Any:
        return given

    match call:
        case "result":
            return given
        case "error":
            raise ValueError(given)
        case "error type":
            raise type(given, (Exception,), {})("odd")
        case "log":
            log.info(given)
        case "log field":
            log.info("said", field=given)
        case "log name":
            log.info("said", **{given: 1})
        case "print":
            print(given)  # noqa: T201 - the run's output
        case "step name":
            return await step(given, it)
        case "step result":
            return await step("step", it)
        case "sleep":
            await sleep(given)
        case "wait name":
            await wait_for(given, timeout=0.1)
        case "wait time":
            await wait_for("never", timeout=given)
        case "start workflow":
            return await runs.astart(given)
        case "start input":
            return await runs.astart("take", {"value": given})
        case "start run_at":
            return await runs.astart("take", {}, run_at=given)
        case "start priority":
            return await runs.astart("take", {}, priority=given)
        case "start key":
            return await runs.astart("take", {}, concurrency_key=given)
        case "run":
            return await runs.wait(given, timeout=0.1)
        case "run time":
            return await runs.wait("nobody", timeout=given)
        case "emit source":
            return await events.aemit(given, "spare")
        case "emit type":
            return await events.aemit("topic", given)
        case "emit data":
            return await events.aemit("topic", "spare", given)
        case "variable":
            return config.get(given)
        case "secret":
            return secrets.get(given)
    return None
