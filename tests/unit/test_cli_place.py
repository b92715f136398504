"""Where the command finds Millrace and its key, and what it refuses to believe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from millrace.cli.place import Place, config_file, find

ENVIRONMENT = {"MILLRACE_URL": "http://127.0.0.1:8420/", "MILLRACE_KEY": "mr_environment"}


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def ready(folder: Path, mode: int = 0o600) -> Path:
    told = {"url": "http://127.0.0.1:9", "admin_key": "mr_local", "services": {}}
    return written(folder / ".millrace" / "ready.json", json.dumps(told), mode)


def profiles(home: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    environment = {"XDG_CONFIG_HOME": str(home)}
    written(config_file(environment), text, mode)
    return environment


def test_the_running_stack_is_found_from_a_folder_below_it(tmp_path: Path) -> None:
    ready(tmp_path)
    below = tmp_path / "work" / "flows"
    below.mkdir(parents=True)
    assert find(None, {}, below) == Place("http://127.0.0.1:9", "mr_local")


def test_the_environment_comes_before_the_running_stack_and_a_profile_before_both(tmp_path: Path) -> None:
    ready(tmp_path)
    assert find(None, ENVIRONMENT, tmp_path) == Place("http://127.0.0.1:8420", "mr_environment")
    given = profiles(tmp_path, '[profiles.live]\nurl = "https://m.example.com"\nkey = "mr_live"\norg = "acme"\n')
    assert find("live", ENVIRONMENT | given, tmp_path) == Place("https://m.example.com", "mr_live", "acme")
    assert find("live", ENVIRONMENT | given | {"MILLRACE_ORG": "other"}, tmp_path).org == "other"


@pytest.mark.parametrize(("given", "missing"), [("MILLRACE_URL", "MILLRACE_KEY"), ("MILLRACE_KEY", "MILLRACE_URL")])
def test_half_an_environment_is_an_error_that_names_the_other_half(tmp_path: Path, given: str, missing: str) -> None:
    with pytest.raises(click.UsageError, match=f"{missing} is not"):
        find(None, {given: ENVIRONMENT[given]}, tmp_path)


def test_without_any_the_three_ways_are_named(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"MILLRACE_URL.*--profile.*ready\.json"):
        find(None, {}, tmp_path)


def test_a_file_with_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ready(tmp_path, 0o644)
    with pytest.raises(click.UsageError, match="chmod 600"):
        find(None, {}, tmp_path)
    given = profiles(tmp_path, '[profiles.live]\nurl = "https://m.example.com"\nkey = "mr_live"\n', 0o640)
    with pytest.raises(click.UsageError, match="chmod 600"):
        find("live", given, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    os.chown(ready(tmp_path), 12345, 12345)
    with pytest.raises(click.UsageError, match="not believed"):
        find(None, {}, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[profiles.test]", "no profile 'live'; there are: test"),
        ("", "no profile 'live'; there are: none"),
        ("profiles = 3", "there are: none"),
        ("[profiles.live]\nurl = 'https://m.example.com'", "profiles.live.key is missing"),
        ("[profiles.live]\nurl = 'https://m.example.com'\nkey = 7", "profiles.live.key is missing or is not text"),
        ("[profiles.live]\nurl = 'ftp://m.example.com'\nkey = 'mr_secret'", "profiles.live.url is not an address"),
        ("[profiles.live]\nurl = 'https://u:p@m.example.com'\nkey = 'mr_secret'", "profiles.live.url is not an address"),
        ("[profiles.live]\nurl = 'https://m.example.com'\nkey = 'mr_secret'\ntoken = 'x'", "profiles.live.token is not a setting"),
        ("[profiles.live]\nurl = 'https://m.example.com'\nkey = 'mr_secret\\u00e9'", "a character that no key has"),
        ("[profiles", "is not TOML"),
    ],
)
def test_a_profile_that_cannot_be_used_says_which_part(tmp_path: Path, text: str, said: str) -> None:
    given = profiles(tmp_path, text.replace("'mr_secret\\u00e9'", '"mr_secret\\u00e9"'))
    with pytest.raises(click.UsageError, match=said) as raised:
        find("live", given, tmp_path)
    assert "mr_secret" not in str(raised.value)


def test_a_place_does_not_show_its_key() -> None:
    assert "mr_" not in repr(Place("https://m.example.com", "mr_secret"))
