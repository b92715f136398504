"""The environments that the files of a workspace ask for."""

from __future__ import annotations

from pathlib import Path

from services.executor.workspaces.packages import MOST_ENVIRONMENTS, WORKSPACE, _wanted


def test_a_workspace_has_a_bounded_number_of_environments_and_files_may_share_one(tmp_path: Path) -> None:
    texts = {f"flow_{number:03}.py": f"a=={number}" for number in range(MOST_ENVIRONMENTS + 2)}
    texts["flow_shared.py"] = "a==0"
    for name, needed in texts.items():
        (tmp_path / name).write_text(f'# /// script\n# dependencies = ["{needed}"]\n# ///\n')
    found = _wanted(dict.fromkeys(texts, ""), tmp_path)
    refused = [path for path, requirements in found.items() if requirements.problems]
    assert refused == [f"flow_{MOST_ENVIRONMENTS:03}.py", f"flow_{MOST_ENVIRONMENTS + 1:03}.py"]
    assert found["flow_shared.py"].key == found["flow_000.py"].key


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"\xef\xbb\xbfrequests\n")
    found = _wanted({"requirements.txt": ""}, tmp_path)[WORKSPACE]
    assert not found.problems
    assert [one.name for one in found.wanted] == ["requests"]
