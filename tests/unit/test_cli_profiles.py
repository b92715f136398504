"""The file of profiles: private, whole, and with everything that a person wrote there besides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from millrace.cli import main
from millrace.cli.place import find
from millrace.cli.profiles import Profiles, config_file

LIVE = {"url": "https://m.example.com", "key": "mr_live", "org": "acme"}
TEST = {"url": "https://t.example.com", "key": "mr_test"}
BY_HAND = """\
# mine
[profiles.live] # the real one
url = "https://m.example.com"
key = "mr_live"

# for tries
[profiles."a.b"]
url = "https://t.example.com"
key = "mr_test"
"""


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profiles:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("MILLRACE_URL", "MILLRACE_KEY", "MILLRACE_PROFILE", "MILLRACE_ORG"):
        monkeypatch.delenv(name, raising=False)
    return Profiles(config_file({"XDG_CONFIG_HOME": str(tmp_path)}))


def by_hand(profiles: Profiles, text: str, mode: int = 0o600) -> None:
    profiles.file.parent.mkdir(mode=0o700, exist_ok=True)
    profiles.file.write_text(text)
    profiles.file.chmod(mode)


def told(profiles: Profiles) -> dict[str, Any]:
    return tomllib.loads(profiles.file.read_text())


def test_a_profile_is_kept_from_others_and_read_again(profiles: Profiles) -> None:
    profiles.save("live", LIVE, use=True)
    assert (profiles.file.stat().st_mode & 0o777, profiles.file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert told(profiles) == {"profile": "live", "profiles": {"live": LIVE}}
    profiles.save("127.0.0.1:8420", TEST, use=False)
    profiles.save("live", LIVE | {"key": "mr_next"}, use=False)
    assert told(profiles) == {"profile": "live", "profiles": {"live": LIVE | {"key": "mr_next"}, "127.0.0.1:8420": TEST}}
    profiles.use("127.0.0.1:8420")
    assert told(profiles)["profile"] == "127.0.0.1:8420"
    profiles.remove("127.0.0.1:8420")
    assert told(profiles) == {"profiles": {"live": LIVE | {"key": "mr_next"}}}
    profiles.remove("live")
    assert told(profiles) == {}
    assert [one.name for one in profiles.file.parent.iterdir()] == ["config.toml"]


def test_what_a_person_wrote_stays(profiles: Profiles) -> None:
    by_hand(profiles, BY_HAND)
    profiles.save("live", TEST, use=True)
    assert profiles.file.read_text() == (
        'profile = "live"\n\n# mine\n[profiles."live"]\nurl = "https://t.example.com"\nkey = "mr_test"\n'
        '\n# for tries\n[profiles."a.b"]\nurl = "https://t.example.com"\nkey = "mr_test"\n'
    )
    profiles.use("a.b")
    profiles.remove("live")
    assert profiles.file.read_text() == (
        'profile = "a.b"\n\n# mine\n\n# for tries\n[profiles."a.b"]\nurl = "https://t.example.com"\nkey = "mr_test"\n'
    )
    profiles.use(None)
    profiles.remove("a.b")
    assert told(profiles) == {}
    assert "# mine" in profiles.file.read_text()


@pytest.mark.parametrize(
    "text",
    [
        'profiles.live.url = "https://m.example.com"\nprofiles.live.key = "mr_x"\n',
        'profiles = {live = {url = "https://m.example.com", key = "mr_x"}}\n',
        '[profiles]\nlive = {url = "https://m.example.com", key = "mr_x"}\n',
        '[profiles.live]\nurl = "https://m.example.com"\nkey = "mr_x"\n[profiles.live.more]\nx = 1\n',
        'note = """\n[profiles.live]\n"""\n[profiles.live]\nurl = "https://m.example.com"\nkey = "mr_x"\n',
    ],
)
def test_what_would_come_to_say_something_else_is_not_written(profiles: Profiles, text: str) -> None:
    by_hand(profiles, text)
    with pytest.raises(click.UsageError, match="change it by hand") as raised:
        profiles.save("live", LIVE, use=False)
    assert profiles.file.read_text() == text
    assert "mr_" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (BY_HAND, 0o640, "chmod 600"),
        (BY_HAND, 0o604, "chmod 600"),
        ('key = "mr_secret\n', 0o600, "is not TOML"),
        ("\x00", 0o600, "is not TOML"),
        ("profile = 3\n", 0o600, "profile is not the name of one"),
        ('profile = "gone"\n', 0o600, "has no profile 'gone'; there are: none"),
    ],
)
def test_a_file_that_is_open_or_broken_is_refused_and_left_alone(profiles: Profiles, text: str, mode: int, said: str) -> None:
    by_hand(profiles, text, mode)
    with pytest.raises(click.UsageError, match=said) as raised:
        find(None, {"XDG_CONFIG_HOME": str(profiles.file.parent.parent)}, Path("/"))
    assert "mr_" not in str(raised.value)
    if "profile" not in text:
        with pytest.raises(click.UsageError, match=said):
            profiles.save("live", LIVE, use=False)
    assert (profiles.file.read_text(), profiles.file.stat().st_mode & 0o777) == (text, mode)


def test_a_folder_that_others_may_write_gets_no_key(profiles: Profiles) -> None:
    profiles.file.parent.mkdir()
    profiles.file.parent.chmod(0o777)
    with pytest.raises(click.UsageError, match="chmod 700"):
        profiles.save("live", LIVE, use=False)
    assert list(profiles.file.parent.iterdir()) == []


def test_a_link_stays_one(profiles: Profiles, tmp_path: Path) -> None:
    profiles.file.parent.mkdir(mode=0o700)
    kept = tmp_path / "dotfiles"
    kept.mkdir(mode=0o700)
    (kept / "millrace.toml").touch(mode=0o600)
    profiles.file.symlink_to(kept / "millrace.toml")
    profiles.save("live", LIVE, use=False)
    assert profiles.file.is_symlink()
    assert told(profiles) == {"profiles": {"live": LIVE}}


def test_a_write_that_fails_leaves_the_file_as_it_was(profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.save("live", LIVE, use=True)
    before = profiles.file.read_text()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        profiles.save("test", TEST, use=False)
    assert profiles.file.read_text() == before
    assert [one.name for one in profiles.file.parent.iterdir()] == ["config.toml"]


def test_writers_at_once_lose_nothing(profiles: Profiles) -> None:
    code = (
        "import os, sys; from millrace.cli.profiles import Profiles, config_file\n"
        "for n in range(5): Profiles(config_file(os.environ)).save(f'{sys.argv[1]}-{n}', "
        "{'url': 'https://m.example.com', 'key': 'mr_x'}, use=True)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(number)]) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert len(profiles.read().profiles) == 20


def test_the_order_is_option_environment_profile_and_stack(profiles: Profiles, tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    ready = tmp_path / ".millrace" / "ready.json"
    ready.parent.mkdir()
    ready.write_text(json.dumps({"url": "http://127.0.0.1:9", "admin_key": "mr_local"}))
    ready.chmod(0o600)

    def found(profile: str | None = None, **more: str) -> tuple[str, str]:
        place = find(profile, environment | more, tmp_path)
        return place.key, place.source

    assert found() == ("mr_local", str(ready))
    profiles.save("live", LIVE, use=False)
    profiles.save("test", TEST, use=False)
    assert found() == ("mr_local", str(ready))
    profiles.use("live")
    assert found() == ("mr_live", f"the profile live (in use) of {profiles.file}")
    assert found(MILLRACE_PROFILE="test") == ("mr_test", f"the profile test (MILLRACE_PROFILE) of {profiles.file}")
    given = {"MILLRACE_URL": "https://e.example.com", "MILLRACE_KEY": "mr_environment"}
    assert found(MILLRACE_PROFILE="test", **given) == ("mr_environment", "MILLRACE_URL and MILLRACE_KEY")
    assert found("live", MILLRACE_PROFILE="test", **given) == ("mr_live", f"the profile live (--profile) of {profiles.file}")
    profiles.use(None)
    assert found() == ("mr_local", str(ready))


def test_profiles_are_listed_without_their_keys_used_and_removed(profiles: Profiles, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand(profiles, BY_HAND)
    assert main(["profiles", "use", "live"]) == 0
    assert main(["profiles", "list"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1:] == ["   a.b   https://t.example.com", "*  live  https://m.example.com"]
    assert "mr_" not in said
    assert main(["profiles", "list", "--output", "json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert items[1] == {"name": "live", "url": "https://m.example.com", "org": None, "used": True}
    for arguments, said in (
        (["use", "gone"], "has no profile 'gone'; there are: a.b, live"),
        (["remove", "gone"], "has no profile 'gone'; there are: a.b, live"),
        (["use"], "Give either NAME or --none."),
        (["use", "live", "--none"], "Give either NAME or --none."),
    ):
        assert main(["profiles", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert main(["profiles", "use", "--none"]) == 0
    assert main(["profiles", "remove", "live"]) == 0
    assert told(profiles) == {"profiles": {"a.b": TEST}}


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "-x", "a]b", 'a"b', "x" * 101])
def test_a_profile_has_a_plain_name(profiles: Profiles, name: str) -> None:
    with pytest.raises(click.UsageError, match="no name of a profile"):
        profiles.save(name, LIVE, use=False)
