"""What processes on machines or in containers of their own are told: variables for each service, and the broker's configuration."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from deploy.credentials import SERVICES, Credentials
from deploy.files import write_private
from deploy.nats_cluster import cluster_block
from deploy.permissions import nats_config
from shared.addresses import servers_of, user_of, with_user
from shared.messages.shards import VARIABLE
from shared.runs import RUN_SHARDS

ROUTES = 6222


def environment_of(service: str, credentials: Credentials, *, nats_url: str, database_url: str, public_url: str) -> dict[str, str]:
    """Return the secrets of a service, and the addresses by which it reaches the stores; the URLs' own users are replaced."""
    told = {
        "MILLRACE_NATS_URL": with_user(nats_url, service, credentials.nats[service]),
        "MILLRACE_DATABASE_URL": with_user(database_url, f"millrace_{service}", credentials.postgres[service]),
        "MILLRACE_KEYS": ",".join(credentials.keys),
    }
    if service in {"gateway", "events"}:
        told["MILLRACE_PUBLIC_URL"] = public_url
    told |= shards_told()
    if service == "gateway":
        told["MILLRACE_ADMIN_KEY"] = credentials.admin_key
    if service == "logs":
        told["MILLRACE_NATS_ISSUER"] = credentials.nats_issuer
    return told


def shards_told() -> dict[str, str]:
    """Return the number of shards as a variable; nothing where it is the default."""
    return {VARIABLE: str(RUN_SHARDS)} if RUN_SHARDS > 1 else {}


def nats_config_of(credentials: Credentials, nats_url: str) -> str:
    """Return the configuration of the broker at `nats_url`, the same for each server where the URL names several.

    Those have their name from the variable NATS_SERVER_NAME, and reach each other at port 6222. Where the URL begins with tls:// it
    includes tls.conf, a file of the operator's beside it.
    """
    servers = servers_of(nats_url)
    tls = 'include "tls.conf"\n' if nats_url.strip().startswith("tls://") else ""
    listen = f"0.0.0.0:{urlsplit(servers[0]).port or 4222}"
    if len(servers) == 1:
        return nats_config(credentials, listen=listen, store_dir="/data/jetstream", extra=tls)
    routes = [f"{urlsplit(one).hostname}:{ROUTES}" for one in servers]
    extra = tls + cluster_block(f"0.0.0.0:{ROUTES}", routes, credentials.nats_admin, extra=tls)
    return nats_config(credentials, listen=listen, store_dir="/data/jetstream", server_name="$NATS_SERVER_NAME", extra=extra)


def write(folder: Path, credentials: Credentials, *, nats_url: str, database_url: str, public_url: str) -> list[Path]:
    """Write `<service>.env` for each service into a folder that is made if missing; returns the files, all of mode 0600.

    And what is an administrator's: `prepare.env` for `deploy.prepare`, `postgres.env` for the image of Postgres, and `nats.conf`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {
        service: environment_of(service, credentials, nats_url=nats_url, database_url=database_url, public_url=public_url)
        for service in SERVICES
    }
    files["prepare"] = {
        "MILLRACE_ADMIN_NATS_URL": with_user(nats_url, "admin", credentials.nats_admin),
        "MILLRACE_ADMIN_DATABASE_URL": database_url,
    } | shards_told()
    database = urlsplit(database_url)
    user = user_of(database_url) or ("postgres", "")
    files["postgres"] = {
        "POSTGRES_USER": user[0],
        "POSTGRES_PASSWORD": user[1],
        "POSTGRES_DB": unquote(database.path.lstrip("/")),
    }
    written = [folder / "nats.conf"]
    write_private(written[0], nats_config_of(credentials, nats_url).encode())
    for name, told in files.items():
        path = folder / f"{name}.env"
        write_private(path, "".join(f"{variable}={value}\n" for variable, value in told.items()).encode())
        written.append(path)
    return written
