"""Derives the rights on the bus from the declarations: one NATS user per service.

The rules follow from `shared.messages` and `shared.questions` (`by`) and from the table of `shared.streams`.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from deploy.credentials import Credentials
from shared.batching import MOST_TOGETHER
from shared.messages import DECLARATIONS
from shared.messages.log import SERVICES
from shared.messages.shards import shards_of, subject_in
from shared.nkeys import Issuer
from shared.pull import inbox_prefix
from shared.questions import ASKED
from shared.runs import RUN_STREAMS
from shared.streams import (
    BUCKETS,
    CACHE,
    CACHING,
    DIGESTS,
    LOCKING,
    LOCKS,
    REGISTRIES,
    STREAMS,
    SUSPECTS,
    WORK,
    Stream,
    among_replicas,
)
from shared.subscribers import ADMITTING, CONNECTIONS, KICK, READABLE, SUBSCRIBERS, TOLD, TOLD_ORG

ACCOUNT = "MILLRACE"
# Of all subscribers, which is more than are admitted: a net. Subscriptions are those of a connection; nothing is published, so
# that messages may be as small as the protocol's own.
MOST_CONNECTIONS = 1000
SUBSCRIPTIONS = 50
SMALLEST = 1024
# Most bytes of one message: a body of 256 KiB in base64 within its envelope, with room; larger things travel by reference.
MAX_PAYLOAD = 2 * 1024 * 1024


def service_permissions(service: str) -> dict[str, list[str]]:
    """Return the subjects that a service may `publish` to and `subscribe` to, and those of the first that it may not (`never`)."""
    publish: set[str] = set()
    subscribe: set[str] = set()
    for declared, _ in DECLARATIONS.values():
        if service not in declared.by:
            continue
        if declared.verb_field is not None and declared.key_field == "service":
            # log.<service>.<level>, dead.<service>.<…>: in a service's own name only.
            publish.add(f"{declared.noun}.{service}.>")
        elif declared.suffix == "owner":
            publish.add(f"{declared.noun}.*.{declared.verb}.{service}")
        else:
            shards = range(shards_of(declared.noun))
            publish |= {subject_in(pattern, shard) for pattern in declared.patterns() for shard in shards}
    for asked, _ in ASKED.values():
        if service in asked.by:
            publish.add(asked.subject)
    for stream in STREAMS:
        if service == "logs" or (service in stream.readers and not stream.owned):
            publish |= _reading(stream.name)
        elif service in stream.readers:
            publish |= _reading_own(stream, service)
        if service == stream.purged_by:
            publish.add(f"$JS.API.STREAM.PURGE.{stream.name}")
        if service in {stream.erased_by, stream.removed_by}:
            publish.add(f"$JS.API.STREAM.MSG.DELETE.{stream.name}")
    for work in WORK:
        if work.service == service:
            publish |= {
                f"$JS.API.CONSUMER.MSG.NEXT.{work.stream}.{work.name}",
                f"$JS.API.CONSUMER.INFO.{work.stream}.{work.name}",
                f"$JS.API.CONSUMER.CREATE.{work.stream}.{work.name}",
                f"$JS.API.CONSUMER.CREATE.{work.stream}.{work.name}.>",
                f"$JS.ACK.{work.stream}.{work.name}.>",
                f"$JS.ACK.*.*.{work.stream}.{work.name}.>",
                f"$KV.{SUSPECTS}.{work.name}.>",
                f"$JS.API.STREAM.INFO.KV_{SUSPECTS}",
                f"$JS.API.DIRECT.GET.KV_{SUSPECTS}.$KV.{SUSPECTS}.{work.name}.>",
            }
        elif service in work.watched_by:
            publish.add(f"$JS.API.CONSUMER.INFO.{work.stream}.{work.name}")
            # The time of the oldest message that waits stands with the message, which the broker gives whole.
            publish.add(f"$JS.API.STREAM.MSG.GET.{work.stream}")
    if service == "executor":
        # Its executors make the consumers of worker groups, which are known when they start.
        for runs in RUN_STREAMS:
            publish |= {f"$JS.API.CONSUMER.INFO.{runs}.*", f"$JS.ACK.{runs}.*.>", f"$JS.ACK.*.*.{runs}.*.>"}
    for registry in REGISTRIES:
        if service == registry.writer or service in registry.readers:
            publish |= _reading(f"KV_{registry.bucket}")
        if service == registry.writer:
            publish.add(f"$KV.{registry.bucket}.>")
    for bucket in BUCKETS:
        if service in bucket.writers or service in bucket.readers:
            publish |= _reading(f"OBJ_{bucket.name}")
        if service in bucket.writers:
            publish |= {f"$O.{bucket.name}.>", f"$JS.API.STREAM.PURGE.OBJ_{bucket.name}"}
    if service == "logs":
        publish |= _reading(f"KV_{DIGESTS}") | {f"$KV.{DIGESTS}.>"}
        publish |= {f"{TOLD}.>", f"{TOLD_ORG}.>", CONNECTIONS, KICK.format("*")}
        subscribe.add(ADMITTING)
    if service in LOCKING:
        publish |= {
            f"$KV.{LOCKS}.{service}.>",
            f"$JS.API.DIRECT.GET.KV_{LOCKS}.$KV.{LOCKS}.{service}.>",
            f"$JS.API.STREAM.INFO.KV_{LOCKS}",
            f"$JS.API.CONSUMER.CREATE.KV_{LOCKS}.*.$KV.{LOCKS}.{service}.>",
            f"$JS.API.CONSUMER.DELETE.KV_{LOCKS}.>",
            f"$JS.API.CONSUMER.MSG.NEXT.KV_{LOCKS}.>",
        }
    if service in CACHING:
        publish |= {
            f"$KV.{CACHE}.{service}.>",
            f"$JS.API.DIRECT.GET.KV_{CACHE}.$KV.{CACHE}.{service}.>",
            f"$JS.API.STREAM.INFO.KV_{CACHE}",
        }
    # Answers to any asker: the inboxes of services, and nothing else, while a question waits (allow_responses).
    publish.add(among_replicas(service, "*"))
    subscribe |= {among_replicas(service, "*"), f"{inbox_prefix(service)}.>", f"ask.{service}.*", f"do.{service}.*"}
    return {"publish": sorted(publish), "subscribe": sorted(subscribe), "never": sorted(_never(service))}


def _never(service: str) -> set[str]:
    """Return the subjects of a durable consumer, out of all for reading its stream: the owner takes and makes, no service deletes.

    Consumers for reading have names that cannot be guessed, and listing them is not permitted.
    """
    denied: set[str] = set()
    for work in WORK:
        verbs = ("DELETE",) if work.service == service else ("DELETE", "CREATE", "MSG.NEXT")
        if service not in {work.service, *work.watched_by}:
            denied.add(f"$JS.API.CONSUMER.INFO.{work.stream}.{work.name}")
        if work.service != service:
            denied |= {f"$JS.ACK.{work.stream}.{work.name}.>", f"$JS.ACK.*.*.{work.stream}.{work.name}.>"}
        denied |= {f"$JS.API.CONSUMER.{verb}.{work.stream}.{work.name}" for verb in verbs}
        denied |= {f"$JS.API.CONSUMER.{verb}.{work.stream}.{work.name}.>" for verb in verbs}
    return denied


def _reading(stream: str) -> set[str]:
    return {
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
    }


def _reading_own(stream: Stream, service: str) -> set[str]:
    """Return the subjects for reading a stream by consumers of the service's own messages: a look-up of single ones gives any."""
    return {
        f"$JS.API.STREAM.INFO.{stream.name}",
        *(f"$JS.API.CONSUMER.CREATE.{stream.name}.*.{noun}.*.*.{service}" for noun in stream.nouns),
        f"$JS.API.CONSUMER.DELETE.{stream.name}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.>",
    }


def users(credentials: Credentials, *, suffix: str = "") -> list[dict[str, Any]]:
    """Return the users of one account: the administrator and the five services. `suffix` makes names unique on a shared server."""
    made: list[dict[str, Any]] = [{"user": f"admin{suffix}", "password": credentials.nats_admin}]
    for service in SERVICES:
        allowed = service_permissions(service)
        made.append(
            {
                "user": f"{service}{suffix}",
                "password": credentials.nats[service],
                "permissions": {
                    "publish": {"allow": allowed["publish"], "deny": allowed["never"]},
                    "subscribe": {"allow": allowed["subscribe"]},
                    "allow_responses": {"max": 1, "expires": "2m"},
                },
            }
        )
    return made


def accounts(credentials: Credentials) -> dict[str, Any]:
    """Return the accounts of a server: the services' with all of JetStream, the subscribers', who only read, and the system's."""
    told = [f"{TOLD}.>", f"{TOLD_ORG}.>"]
    reads = [{"stream": {"account": ACCOUNT, "subject": f"{TOLD}.{noun}.>"}, "to": f"{noun}.>"} for noun in sorted(READABLE)]
    limits = {"max_connections": MOST_CONNECTIONS, "max_subscriptions": SUBSCRIPTIONS, "max_payload": SMALLEST}
    reads.append({"stream": {"account": ACCOUNT, "subject": f"{TOLD_ORG}.>"}})
    return {
        ACCOUNT: {
            "jetstream": "enabled",
            "users": users(credentials),
            "exports": [{"stream": subject, "accounts": [SUBSCRIBERS]} for subject in told],
            "imports": [{"service": {"account": "SYS", "subject": subject}} for subject in (CONNECTIONS, KICK.format("*"))],
        },
        SUBSCRIBERS: {"imports": reads, "limits": limits},
        "SYS": {
            "users": [{"user": "sys", "password": credentials.nats_admin}],
            "exports": [
                {"service": CONNECTIONS, "response_type": "stream", "accounts": [ACCOUNT]},
                {"service": KICK.format("*"), "accounts": [ACCOUNT]},
            ],
        },
    }


def admission(credentials: Credentials) -> dict[str, Any]:
    """Return how the server knows who is none of its users: the service that admits subscribers is asked (auth callout).

    All users of the server's own are known as before, also while nobody answers.
    """
    issuer = Issuer(base64.b64decode(credentials.nats_issuer)).public
    # One user is taken, and makes no difference: only the subscribers' account, which has none, is delegated.
    return {"auth_callout": {"issuer": issuer, "account": ACCOUNT, "auth_users": ["admin"], "allowed_accounts": [SUBSCRIBERS]}}


def quoted(path: str) -> str:
    """Return a path as a string of the server's configuration, which has its own language: it takes any byte in hexadecimal."""
    plain = set(range(0x20, 0x7F)) - {ord('"'), ord("\\")}
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)) + '"'


def nats_config(
    credentials: Credentials,
    *,
    listen: str,
    store_dir: str,
    ports_dir: str | None = None,
    server_name: str = "millrace",
    max_file_store: int = 20 * 1024**3,
    sync_interval: str = "always",
    extra: str = "",
) -> str:
    """Return the configuration of a server with its accounts and users; secrets are within: mode 0600.

    A `server_name` with a $ in front names a variable of the server's environment.
    `sync_interval: always` makes an acknowledged message a stored one (facts of JetStream: the default is two minutes).
    """
    named = "\n".join(f"  {name}: {json.dumps(account)}" for name, account in accounts(credentials).items())
    ports = f"ports_file_dir: {quoted(ports_dir)}\n" if ports_dir else ""
    return f"""\
server_name: {server_name if server_name.startswith("$") else json.dumps(server_name)}
listen: {json.dumps(listen)}
{ports}max_payload: {MAX_PAYLOAD}
write_deadline: "10s"
jetstream {{
  store_dir: {quoted(store_dir)}
  sync_interval: {sync_interval}
  max_file_store: {max_file_store}
  max_memory_store: {256 * 1024**2}
  limits {{ batch {{ max_msgs: {MOST_TOGETHER} }} }}
}}
accounts {{
{named}
}}
system_account: SYS
authorization: {json.dumps(admission(credentials))}
{extra}"""
