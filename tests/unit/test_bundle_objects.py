"""What is counted and removed of a bundle's objects while other deployments write theirs."""

from pathlib import Path

from services.executor.workspaces.bundles import _remove, _size


def test_a_file_that_goes_while_its_folder_is_looked_through_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"four")
    # Listed, and gone when it is asked about.
    (tmp_path / "unfinished").symlink_to(tmp_path / "gone")
    assert _size(tmp_path) == 4
    _remove(tmp_path / "tree", tmp_path)
    assert (tmp_path / "there").exists()
