"""The dashboard and the alert rules, and what their expressions ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"


class Selected(msgspec.Struct, frozen=True):
    """A metric that is asked for: its name, its matchers as (label, operator, value), and the labels that it is grouped by."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    grouped_by: frozenset[str]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def explained() -> dict[str, str]:
    """Return what the document says of each alert, as text without links."""
    document = (ROOT / "docs" / "observability.md").read_text()
    sections = re.findall(r"^### (Millrace\w+)\n(.*?)(?=^#|\Z)", document, re.DOTALL | re.MULTILINE)
    return {name: " ".join(re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text).split()) for name, text in sections}


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return document


def expressions() -> list[str]:
    targets = [target for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    return [*(rule["expr"] for rule in alerts()), *(target["expr"] for target in targets)]


def selectors(expression: Any, grouped_by: frozenset[str] = frozenset()) -> list[Selected]:
    """Return the metrics of a parsed expression, with the labels of every aggregation around them."""
    if isinstance(expression, promql_parser.VectorSelector):
        matchers = tuple((one.name, str(one.op).rpartition(".")[2], one.value) for one in expression.matchers.matchers)
        return [Selected(expression.name, matchers, grouped_by)]
    if isinstance(expression, promql_parser.AggregateExpr) and expression.modifier is not None:
        grouped_by |= set(expression.modifier.labels)
    parts = [getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    return [
        found
        for part in (*parts, *(getattr(expression, "args", None) or ()))
        if part is not None
        for found in selectors(part, grouped_by)
    ]
