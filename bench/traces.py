"""What traces cost: webhooks admitted and runs carried out, without them, with one of a hundred sampled, and with all.

Three gateways over one broker take the same load in turns: 64 connections, bodies of 512 bytes, signed and checked. Then three
whole stacks, one after the other and again, carry out the same number of runs of a workflow that does nothing, 16 asked for at a
time. The collector is a server that reads what comes. Each ratio is to the gateway, or the stack, that does not trace: the median
of the rounds' ratios.
"""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from bench.ingest import CONNECTIONS, signed_post
from bench.support import outcome
from bench.support.callers import Callers
from bench.support.connection import Post
from bench.support.cpu import Meter
from bench.support.load import Load, generator, load
from bench.support.outcome import BenchError, Outcome
from bench.support.running import alone, limit, whole

WORKFLOW = b"""
from millrace import workflow


@workflow(name="nothing")
def nothing() -> None:
    return None
"""
SLOT = 2
RUNS = 300
IN_FLIGHT = 16
ROUNDS_OF_RUNS = 2
OFF = "off"


def modes(collector: str) -> dict[str, dict[str, str]]:
    """Return what an operator sets, by its name here."""
    sent = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector}/hooks/traces"}
    hundredth = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    return {OFF: {}, "hundredth": sent | hundredth, "all": sent}


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds of load on the gateways, and then the runs."""
    how, data, secret = generator(), folder / "data", secrets.token_urlsafe(24)
    async with AsyncExitStack() as running:
        every = modes(await running.enter_async_context(limit()))
        async with whole(data) as stack:
            source = await stack.api.call("PUT", "/api/v1/sources/bench", body={"adapter": "hmac", "settings": {"secret": secret}})
            path = source["url"].removeprefix(stack.ready["url"])
            view = await stack.api.call("PUT", "/api/v1/workspace/files/nothing.py", data=WORKFLOW)
            if view["problems"]:
                raise BenchError(f"the workflow cannot be deployed: {view['problems'][0]['message']}")
        loads: dict[str, list[Load]] = {mode: [] for mode in every}
        cpu: dict[str, list[float]] = {mode: [] for mode in every}
        async with alone(data, every) as parts:
            posts = {mode: signed_post(url + path, secret) for mode, url in parts.urls.items()}
            for post in posts.values():
                await load(how, post, connections=CONNECTIONS, seconds=1)
            for _ in range(max(3, int(seconds / SLOT / len(every)))):
                for mode, post in posts.items():
                    meter = Meter(parts.pids)
                    loads[mode].append(await load(how, post, connections=CONNECTIONS, seconds=SLOT))
                    cpu[mode].append(meter.seconds()[mode] / loads[mode][-1].completed * 1e6)
        runs: dict[str, list[float]] = {mode: [] for mode in every}
        cpu_of_runs: dict[str, list[float]] = {mode: [] for mode in every}
        for _ in range(ROUNDS_OF_RUNS):
            for mode, chosen in every.items():
                per_s, used = await _runs(data, chosen)
                runs[mode].append(per_s)
                cpu_of_runs[mode].append(used)
    webhooks = {mode: [one.per_s for one in of] for mode, of in loads.items()}
    return Outcome(
        name="traces",
        figure=median(webhooks["all"]),
        unit="durable 202s per second, all traced",
        limit=median(webhooks[OFF]),
        ratio=_ratio(webhooks, "all"),
        more={
            "webhooks_per_s": {mode: median(of) for mode, of in webhooks.items()},
            "webhooks_ratio": {mode: _ratio(webhooks, mode) for mode in webhooks},
            "gateway_cpu_us_per_webhook": {mode: median(of) for mode, of in cpu.items()},
            "gateway_cpu_ratio": {mode: _ratio(cpu, mode) for mode in cpu},
            "runs_per_s": {mode: median(of) for mode, of in runs.items()},
            "runs_ratio": {mode: _ratio(runs, mode) for mode in runs},
            "services_cpu_ms_per_run": {mode: median(of) for mode, of in cpu_of_runs.items()},
            "rounds_webhooks": {mode: [round(one) for one in of] for mode, of in webhooks.items()},
        },
    )


async def _runs(data: Path, chosen: dict[str, str]) -> tuple[float, float]:
    """Return how many runs a second a stack carried out, and the CPU milliseconds of its services for each."""
    async with whole(data, **chosen) as stack:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.ready['admin_key']}"}
        url = f"{stack.ready['url']}/api/v1/workflows/nothing/runs?wait=60"
        callers = Callers(Post(url=url, headers=headers, body=b'{"input":{}}'), 200)
        try:
            await callers.many(50, IN_FLIGHT)
            meter = Meter(stack.ready["services"])
            answers = await callers.many(RUNS, IN_FLIGHT)
            used = sum(meter.seconds().values()) / RUNS * 1000
        finally:
            callers.close()
    return RUNS / (max(one.answered for one in answers) - min(one.asked for one in answers)), used


def _ratio(figures: dict[str, list[float]], mode: str) -> float:
    return median(one / other for one, other in zip(figures[mode], figures[OFF], strict=True))


main = outcome.command(measure, seconds=36.0, about="Measure what traces cost.")


if __name__ == "__main__":
    main()
