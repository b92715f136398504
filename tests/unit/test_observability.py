"""The alert rules and the dashboard as files: expressions parse, and every alert says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.support.observability import ROOT, alerts, dashboard, expressions, selectors


def test_every_alert_is_explained_and_every_explanation_has_its_alert() -> None:
    explained = re.findall(r"^### (Millrace\w+)$", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE)
    assert explained == [rule["alert"] for rule in alerts()]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_what_a_rule_needs(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
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
