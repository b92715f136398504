"""The alert rules and the dashboard as files: expressions parse, and every alert says what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from deploy.folder import DataFolder
from services.gateway.supervisor_reports import backup
from shared.service import room
from tests.support.observability import ROOT, alerts, dashboard, explained, expressions, selectors


def test_every_alert_is_explained_and_every_explanation_has_its_alert() -> None:
    explained = re.findall(r"^### (Millrace\w+)$", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE)
    assert explained == [rule["alert"] for rule in alerts()]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_what_a_rule_needs(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    # What to do comes with the message.
    assert rule["annotations"]["description"] == explained()[rule["alert"]]
    # An alert is a condition: an expression that always has a value would always fire.
    assert isinstance(promql_parser.parse(rule["expr"]), promql_parser.BinaryExpr)
    assert re.search(r"(==|>) [\d.]+$", rule["expr"])


def test_every_expression_is_promql_and_asks_for_something() -> None:
    found = expressions()
    assert len(found) > 60
    for expression in found:
        assert selectors(promql_parser.parse(expression)), expression


def test_an_expression_that_is_none_is_found() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (le (x)")


def test_the_dashboard_has_panels_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells


def test_no_file_names_a_host() -> None:
    for path in (ROOT / "deploy" / "observability").iterdir():
        assert "://" not in Path(path).read_text(), path


def test_the_age_of_a_backup_is_that_of_its_note(tmp_path: Path) -> None:
    states = tmp_path / "state.json"
    assert (backup(None, 0.0), backup(states, 0.0)) == ({}, {})
    DataFolder(tmp_path).last_backup.touch()
    told = DataFolder(tmp_path).last_backup
    os.utime(told, (1000, 1000))
    assert backup(told.with_name("state.json"), 1060.0) == {"age_s": 60.0}
    assert backup(DataFolder(tmp_path).states, 900.0) == {"age_s": 0.0}


def test_the_room_on_a_disk_is_in_bytes_and_a_folder_that_is_gone_has_none(tmp_path: Path) -> None:
    found = room(tmp_path)
    assert 0 < found["free_bytes"] <= found["size_bytes"]
    assert room(tmp_path / "gone") == {}
