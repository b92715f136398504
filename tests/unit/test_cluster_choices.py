"""What `up` refuses of its choices about a cluster, before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.errors import StartError
from deploy.folder import DataFolder
from deploy.local import check_kind
from deploy.stack import Options, named


def options(**chosen: object) -> Options:
    return Options(**({"public_url": None, "nats": None, "postgres": None, "unsafe": False} | chosen))  # type: ignore[arg-type]


def test_a_folder_stays_what_it_was_made(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    check_kind(folder, options())
    check_kind(folder, options(cluster=True))
    folder.own("nats")
    with pytest.raises(StartError, match="holds data of one broker"):
        check_kind(folder, options(cluster=True))
    (tmp_path / "nats").rmdir()
    folder.own("nats-1")
    with pytest.raises(StartError, match=r"start it with --cluster\."):
        check_kind(folder, options())


@pytest.mark.parametrize("given", [{"nats": "nats://x"}, {"postgres": "postgresql://x"}])
def test_a_cluster_takes_no_servers_of_others(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(StartError, match="give no --nats and no --postgres"):
        check_kind(DataFolder(tmp_path), options(cluster=True, **given))


def test_the_first_process_of_a_service_has_its_name() -> None:
    assert [named("gateway", number) for number in (1, 2)] == ["gateway", "gateway-2"]
