"""What each variable of the environment means; types, defaults and bounds are the readers' own."""

from __future__ import annotations

import msgspec

HEAD = """\
# Configuration

Made of what the services ask their environment for, by `python -m tests.reference`. Settings are read once, at start; a service
names all that is missing or wrong at once and exits with 2. `millrace up` has options for the first ones, makes keys, addresses
and credentials itself, and hands the others on to its services from its own environment. `python -m deploy.prepare --write-env`
writes what each service [needs](deploying.md#what-each-process-is-told). A number of seconds, bytes or milliseconds is without
its unit.

What is not here is set while Millrace runs: quotas, rates, retention and levels of logs are [resources](cli.md).

"""
TITLES = {
    "place": "Addresses and places",
    "keys": "Keys",
    "gateway": "The public port",
    "quota": "Quotas and bounds",
    "database": "The database",
    "executor": "Runs",
    "packages": "Packages",
    "archive": "Archive and audit",
    "egress": "What is reached outside",
    "traces": "Traces",
}


class Meaning(msgspec.Struct, frozen=True):
    """A variable's meaning; `kind` and `default` where these are not what its reader shows."""

    group: str
    text: str
    kind: str = ""
    default: str = ""


_RATE = "`50` or `50/200`"
_TLS = "It may name [files for TLS](deploying.md#tls-to-nats-and-to-postgres)."
MEANINGS: dict[str, Meaning] = {
    "MILLRACE_NATS_URL": Meaning("place", f"The broker, with the service's user and password; several with commas. {_TLS}", "URL"),
    "MILLRACE_DATABASE_URL": Meaning("place", f"The database itself, with the service's role; never a pooler. {_TLS}", "URL"),
    "MILLRACE_PUBLIC_URL": Meaning(
        "place", "Where the gateway is reached from outside: senders, browsers, OAuth providers.", "URL", "of the bound address"
    ),
    "MILLRACE_DATA": Meaning("place", "Folder for caches, digests, and tokens while the database is away.", "path"),
    "MILLRACE_HEALTH_ADDR": Meaning("place", "`/healthz`, `/readyz` and `/metrics` of this process.", "`HOST:PORT` or `unix:PATH`"),
    "MILLRACE_HOST": Meaning("place", "The address that the gateway listens on."),
    "MILLRACE_PORT": Meaning("place", "The port that the gateway listens on; 0 picks one."),
    "MILLRACE_LISTEN_FD": Meaning("place", "A bound socket that was handed over, in place of both."),
    "MILLRACE_NATS_PUBLIC_URL": Meaning(
        "place", "The broker's address as [tools of your own](internal-tools.md) are told it.", "URL", "`MILLRACE_NATS_URL`"
    ),
    "MILLRACE_RUN_SHARDS": Meaning("place", "Streams of [runs](operations.md#shards); the same for every process."),
    "MILLRACE_SUPERVISOR": Meaning("place", "File in which `millrace up` writes the state of its services.", "path"),
    "MILLRACE_KEYS": Meaning(
        "keys",
        "256-bit keys, with commas: the first seals, all open. Exactly one of this and the next two is set.",
        default="one of three",
    ),
    "MILLRACE_KEYS_FILE": Meaning("keys", "A file that has them."),
    "MILLRACE_KEYS_COMMAND": Meaning("keys", "A command that prints them, run without a shell."),
    "MILLRACE_KEYS_OPENING": Meaning("keys", "Further keys that only open: old ones until all is [resealed](operations.md)."),
    "MILLRACE_ADMIN_KEY": Meaning("keys", "The platform key, which may do everything. `millrace up` makes one unless it is set."),
    "MILLRACE_NATS_ISSUER": Meaning(
        "keys",
        "Signs for tools that read over NATS; made by `prepare`. Without it there are none. `_FILE` and `_COMMAND` as above.",
        "base64 key",
    ),
    "MILLRACE_TRUSTED_PROXIES": Meaning(
        "gateway", "Addresses and networks, with commas, whose `X-Forwarded-For` counts: [proxies](reverse-proxy.md).", "networks"
    ),
    "MILLRACE_CORS_ORIGINS": Meaning("gateway", "Origins, with commas, whose pages may use the API.", "origins", "none"),
    "MILLRACE_MAX_BODY": Meaning("gateway", "Bytes of a webhook's body."),
    "MILLRACE_MAX_FILE": Meaning("gateway", "Bytes of a file of a workspace."),
    "MILLRACE_MAX_CONNECTIONS": Meaning("gateway", "Connections of clients; half of them may be streams."),
    "MILLRACE_KEY_RATE": Meaning(
        "gateway", "Requests a second, and at once after a rest, of each key: [rates](limits.md#rates).", _RATE, "none"
    ),
    "MILLRACE_ORG_RATE": Meaning("gateway", "The same of each organization.", _RATE, "none"),
    "MILLRACE_ORG_WEBHOOK_RATE": Meaning("gateway", "Webhooks of each organization.", _RATE, "none"),
    "MILLRACE_SESSION_IDLE": Meaning("gateway", "Seconds without use after which a browser is signed out."),
    "MILLRACE_SESSION_LONGEST": Meaning("gateway", "Seconds after which it is in any case."),
    "MILLRACE_STOP_DELAY": Meaning(
        "gateway", "Seconds between the signal to end and the last request that is taken: two checks of the load balancer."
    ),
    "MILLRACE_MAX_BACKLOG": Meaning(
        "quota", "Webhooks that may wait to be handled: [back-pressure](limits.md#back-pressure). The same for both."
    ),
    "MILLRACE_MAX_BACKLOG_BYTES": Meaning("quota", "Bytes of their bodies.", "number of bytes"),
    "MILLRACE_MAX_BACKLOG_AGE": Meaning("quota", "Seconds that the oldest may have waited."),
    "MILLRACE_MAX_QUEUED_RUNS": Meaning("quota", "Queued runs from which on floods of webhooks wait. The same for both."),
    "MILLRACE_MAX_CHAIN": Meaning("quota", "Runs of one chain, and events that they emit. The same for both."),
    "MILLRACE_QUOTA_RUNS_IN_FLIGHT": Meaning(
        "quota", "Runs at a time of an organization that has no quota of its own; 0: no bound.", "number from 0", "no bound"
    ),
    "MILLRACE_QUOTA_RUNS_A_DAY": Meaning("quota", "Runs a day.", "number from 0", "no bound"),
    "MILLRACE_QUOTA_STORED_BYTES": Meaning("quota", "Bytes stored.", "number from 0", "no bound"),
    "MILLRACE_QUOTA_SOURCES": Meaning("quota", "Sources.", "number from 0", "no bound"),
    "MILLRACE_OVERDUE": Meaning(
        "quota", "Seconds after which a delivery [without an end](deliveries.md#without-an-end) is reported."
    ),
    "MILLRACE_POOLED_DATABASE_URL": Meaning(
        "database", "A [pooler](operations.md) in transaction mode, for requests and handlers.", "URL", "the database itself"
    ),
    "MILLRACE_POOL_SIZE": Meaning("database", "Connections for requests and handlers.", default="by service"),
    "MILLRACE_POOL_WAIT_MS": Meaning("database", "Milliseconds that a request waits for one, before it is answered 503."),
    "MILLRACE_STATEMENT_MS": Meaning("database", "Milliseconds that a statement may take."),
    "MILLRACE_SLOTS_MIN": Meaning(
        "executor", "The least runs at a time: [scaling](operations.md#more-executors).", default="12 for each core"
    ),
    "MILLRACE_SLOTS_MAX": Meaning("executor", "The most.", default="48 for each core"),
    "MILLRACE_SLOTS": Meaning("executor", "A fixed number in place of both.", "number, 1 to 1,000"),
    "MILLRACE_WORKER_GROUPS": Meaning(
        "executor", "[Worker groups](runs.md#worker-groups), with commas, whose runs are carried out here.", "names", "`default`"
    ),
    "MILLRACE_WARM": Meaning("executor", "Children kept ready while the slots are the least.", default="2 for each core"),
    "MILLRACE_DRAIN": Meaning("executor", "Seconds for which runs may go on once the executor is to stop."),
    "MILLRACE_RUN_CORES": Meaning("executor", "Cores that one run may use.", "number, 0.05 to 1,024", "`1`"),
    "MILLRACE_RUN_PROCESSES": Meaning("executor", "Processes and threads of one run."),
    "MILLRACE_RUNS_KEPT": Meaning(
        "executor", "Seconds that a run's messages stay on the bus after its end; its row and archive stay longer."
    ),
    "MILLRACE_ARTIFACTS_KEPT": Meaning("executor", "Seconds that [files of a run](files.md#what-runs-write) stay."),
    "MILLRACE_SANDBOX_TIER": Meaning(
        "executor", "The one [tier](security.md#tiers) to use; with `MILLRACE_UNSAFE` also `none`.", default="the best there is"
    ),
    "MILLRACE_SANDBOX_UID": Meaning(
        "executor", "The user that runs have where the executor is root.", "number from 1", "65532 under `millrace up` as root"
    ),
    "MILLRACE_UNSAFE": Meaning("executor", "`1`: run workflows without isolation where no tier stands."),
    "MILLRACE_PRELOAD": Meaning("packages", "`off`: no package is imported ahead of runs.", default="`on`"),
    "MILLRACE_ENVIRONMENT_BYTES": Meaning("packages", "Bytes of all installed packages on this machine's disk."),
    "MILLRACE_INDEX_URL": Meaning(
        "packages",
        "The [index](packages.md); `${NAME}` in it is a variable of the executor's, such as `MILLRACE_INDEX_PASSWORD`.",
        "URL",
        "what pip uses",
    ),
    "MILLRACE_INDEX_HOSTS": Meaning("packages", "Further hosts that an index sends to for its files.", "`HOST:PORT`, with commas"),
    "MILLRACE_PIP_CONF": Meaning("packages", "A file in pip's format, in place of an index.", "path"),
    "MILLRACE_SDISTS": Meaning("packages", "Names of packages, with commas, that are built from their source.", "names", "none"),
    "MILLRACE_DIGEST_COPIES": Meaning(
        "archive",
        "URLs, with commas, below which copies of the [digests](audit.md) are kept: `file:///`, `s3://`, `gs://`, `az://`.",
        "URLs",
        "`digests` in `MILLRACE_DATA`; else required",
    ),
    "MILLRACE_DIGEST_SECONDS": Meaning("archive", "Seconds between two seals."),
    "MILLRACE_EGRESS_ALLOW": Meaning(
        "egress",
        "Names, addresses and networks that are reached though they are [private](egress.md), or though all is denied.",
        "rules",
        "none",
    ),
    "MILLRACE_EGRESS_DENY": Meaning("egress", "Those that are not; `*` is all.", "rules", "none"),
    "MILLRACE_TRACE_PARENTS": Meaning("traces", "Whose `traceparent` goes on here: [traces](observability.md).", default="`keys`"),
    "OTEL_SDK_DISABLED": Meaning("traces", "`true`: no traces.", "`true` or `false`"),
    "OTEL_TRACES_EXPORTER": Meaning("traces", "`none`: no traces.", default="`otlp` where an endpoint is set"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": Meaning(
        "traces", "The collector. Other `OTEL_EXPORTER_OTLP_…` variables count as OpenTelemetry has them.", "URL"
    ),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": Meaning("traces", "The collector for traces alone.", "URL"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": Meaning("traces", "The one that there is."),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": Meaning("traces", "The one that there is."),
    "OTEL_TRACES_SAMPLER": Meaning("traces", "Which traces are recorded.", default="`parentbased_always_on`"),
    "OTEL_TRACES_SAMPLER_ARG": Meaning("traces", "The ratio of `traceidratio`.", "number, 0 to 1", "`1`"),
    "OTEL_BSP_MAX_QUEUE_SIZE": Meaning("traces", "Spans that wait to be sent."),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": Meaning("traces", "Spans of one request."),
    "OTEL_BSP_SCHEDULE_DELAY": Meaning("traces", "Milliseconds between two requests."),
}
ELSEWHERE = {
    "MILLRACE_URL": "The address that commands speak to, together with `MILLRACE_KEY`.",
    "MILLRACE_KEY": "The key that they show.",
    "MILLRACE_PROFILE": "The profile that counts where neither is set.",
    "MILLRACE_ORG": "The organization, where `--org` is not given.",
    "MILLRACE_HOOK_SECRET": "The secret with which `millrace hooks send --sign` signs.",
    "MILLRACE_DEBUG": "Set to anything: errors are printed with the place in the code.",
    "MILLRACE_ADMIN_NATS_URL": "`deploy.prepare --nats`: administrator URL of the broker.",
    "MILLRACE_ADMIN_DATABASE_URL": "`deploy.prepare --postgres`: administrator URL of the database.",
    "MILLRACE_NATS_REPLICAS": "`--nats-replicas` of both: copies of each stream; 3 where NATS is a cluster, else 1.",
    "MILLRACE_INDEX_PASSWORD": "Any variable that `MILLRACE_INDEX_URL` names; `millrace up` hands on this one.",
}
