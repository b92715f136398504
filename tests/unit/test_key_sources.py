"""Keys come from a variable, a file or a command, and what is wrong with a source is said without anything of a key."""

from __future__ import annotations

import base64
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.credentials import load_or_create
from deploy.stack import keys_of
from shared import config
from shared.config import ConfigError, Environment

FIRST, SECOND = b"f" * 32, b"s" * 32
ONE, TWO = (base64.b64encode(key).decode() for key in (FIRST, SECOND))
NAME = "MILLRACE_KEYS"


def keys(**variables: str) -> tuple[bytes, ...]:
    environment = Environment(variables)
    found = environment.keys(NAME)
    environment.check()
    return found


def command(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def refused(**variables: str) -> str:
    with pytest.raises(ConfigError) as error:
        keys(**variables)
    assert ONE not in str(error.value)
    assert ONE[:10] not in str(error.value)
    return str(error.value)


def test_keys_are_those_of_the_one_source_that_is_set(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{ONE}\n{TWO}\n")
    assert keys(MILLRACE_KEYS=f"{ONE}, {TWO}") == (FIRST, SECOND)
    assert keys(MILLRACE_KEYS_FILE=str(file)) == (FIRST, SECOND)
    assert keys(MILLRACE_KEYS=ONE, MILLRACE_KEYS_OPENING=TWO) == (FIRST, SECOND)
    assert keys(MILLRACE_KEYS_COMMAND=command(f"print({ONE!r}); print({TWO!r})")) == (FIRST, SECOND)


def test_the_command_is_run_without_a_shell_and_is_given_no_setting_of_ours(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"import os, sys; open({str(told)!r}, 'w').write(repr((sys.argv[1:], sorted(os.environ)))); print({ONE!r})"
    given = {"MILLRACE_KEYS_COMMAND": f"{command(code)} '$HOME' ';' id", "MILLRACE_DATABASE_URL": "secret", "AWS_PROFILE": "p"}
    assert keys(**given) == (FIRST,)
    arguments, variables = eval(told.read_text())
    assert arguments == ["$HOME", ";", "id"]
    assert "AWS_PROFILE" in variables
    assert not [one for one in variables if one.startswith("MILLRACE_")]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "MILLRACE_KEYS: is not set, and neither is MILLRACE_KEYS_FILE nor MILLRACE_KEYS_COMMAND"),
        ({NAME: ONE, f"{NAME}_FILE": "x"}, "MILLRACE_KEYS_FILE: is set, and so is MILLRACE_KEYS"),
        (
            {f"{NAME}_FILE": "/nowhere/keys"},
            "MILLRACE_KEYS_FILE: names '/nowhere/keys', which cannot be read: No such file or directory",
        ),
        ({f"{NAME}_FILE": sys.executable}, "MILLRACE_KEYS_FILE: names .*, which is no text of base64 keys"),
        ({f"{NAME}_FILE": "/dev/null"}, "MILLRACE_KEYS_FILE: gives no key"),
        (
            {f"{NAME}_COMMAND": "/nowhere/kms get"},
            "MILLRACE_KEYS_COMMAND: names the program '/nowhere/kms', which cannot be started",
        ),
        ({f"{NAME}_COMMAND": "kms 'get"}, "MILLRACE_KEYS_COMMAND: is no command line: No closing quotation"),
        ({f"{NAME}_COMMAND": "true"}, "MILLRACE_KEYS_COMMAND: gives no key"),
        (
            {f"{NAME}_COMMAND": command(f"import sys; print({ONE!r}); sys.stderr.write({ONE!r}); sys.exit(3)")},
            "COMMAND: ended with 3",
        ),
        ({f"{NAME}_COMMAND": command(f"print({ONE[:-8]!r})")}, "MILLRACE_KEYS_COMMAND: key 1 (has|is not)"),
        ({f"{NAME}_COMMAND": command(f"print({ONE!r} + chr(233))")}, "COMMAND: printed what is no text of base64 keys"),
        ({f"{NAME}_COMMAND": command(f"print({ONE!r} * 3000)")}, "COMMAND: printed what is no text of base64 keys"),
        ({NAME: f"{ONE},nonsense!"}, "MILLRACE_KEYS: key 2 is not base64"),
    ],
)
def test_a_source_that_gives_no_key_is_named_with_the_reason(
    variables: dict[str, str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import re

    assert re.search(said, refused(**variables))
    assert capfd.readouterr() == ("", "")


def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "KEYS_WITHIN", 0.5)
    pid = tmp_path / "pid"
    code = f"import subprocess; p = subprocess.Popen(['sleep', '60']); open({str(pid)!r}, 'w').write(str(p.pid)); p.wait()"
    began = time.monotonic()
    assert "MILLRACE_KEYS_COMMAND: did not end within 0.5 s" in refused(MILLRACE_KEYS_COMMAND=command(code))
    assert time.monotonic() < began + 10
    stat = Path(f"/proc/{pid.read_text()}/stat")
    assert not stat.exists() or ") Z " in stat.read_text() or _is_gone(stat)


def _is_gone(stat: Path) -> bool:
    for _ in range(200):
        try:
            if ") Z " in stat.read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_a_stack_gives_its_services_the_source_that_its_operator_names(tmp_path: Path) -> None:
    credentials = load_or_create(tmp_path / "credentials.json", None)
    own: Any = {"MILLRACE_KEYS": ",".join(credentials.keys)}
    assert keys_of(credentials, {}) == own
    assert keys_of(credentials, {"MILLRACE_KEYS_FILE": "", "OTHER": "x"}) == own
    # What was sealed before goes on opening.
    given = keys_of(credentials, {"MILLRACE_KEYS_COMMAND": command(f"print({ONE!r})")})
    assert keys(**given) == (FIRST, base64.b64decode(credentials.keys[0]))
