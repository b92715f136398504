"""`millrace up` on servers of the operator's own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from deploy.files import write_private
from deploy.folder import claim
from tests.support.servers import Servers
from tests.support.stack import running_up


async def test_a_stack_starts_on_given_servers_and_leaves_them_running(servers: Servers, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with claim(data) as folder:
        write_private(folder.credentials, msgspec.json.encode(servers.credentials))
    async with servers.place(admitting=True) as place:
        options = ("--nats", place.nats_url("admin"), "--postgres", place.database_url("admin"))
        async with running_up(data, *options) as up:
            ready = up.ready
            assert (ready["nats_pid"], ready["postgres_pid"]) == (None, None)
            assert ready["nats_url"] == place.nats_url("admin")
            assert all(ready["services"].values())
            await up.until(lambda: "ready" in up.said.read_text())
            # The servers of tests do not sync.
            assert "WARNING: NATS loses what it has acknowledged" in up.said.read_text()
            assert "WARNING: Postgres loses what it has acknowledged" in up.said.read_text()
        assert not (data / "nats").exists()
        assert not (data / "postgres").exists()
        assert place.broker_pid
