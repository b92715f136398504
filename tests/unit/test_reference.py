"""The pages of reference say what the code declares."""

from __future__ import annotations

import re

import pytest

from tests.reference import DOCS, PAGES, configuration

ROOT = DOCS.parent


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_reference_is_current(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), "python -m tests.reference"


def test_every_variable_that_the_code_names_is_explained() -> None:
    named = set()
    for folder in ("services", "shared", "deploy", "sdk"):
        for path in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"""["'](MILLRACE_[A-Z_]*[A-Z])["']""", path.read_text("utf-8")))
    page = configuration.page()
    assert sorted(one for one in named if f"`{one}`" not in page) == []


def test_nothing_is_explained_that_is_not_read() -> None:
    assert configuration.unread() == set()


def test_no_setting_of_a_service_is_made_in_vain_where_everything_is_started_by_one_command() -> None:
    assert configuration.untold() == set()
