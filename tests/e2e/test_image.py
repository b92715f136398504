"""What the image holds and does, without Docker: its build's steps are carried out in a root of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.image import USER, Image
from tests.support.places import open_folder


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The root, built."""
    wanted = [one for one in ("unshare", "chroot", "setpriv") if shutil.which(one) is None]
    if wanted or os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip(f"a root of its own needs root and a mount namespace here{'; missing: ' if wanted else ''}{', '.join(wanted)}")
    with open_folder() as folder:
        built = Image(folder)
        built.build()
        yield built


def test_a_service_in_the_image_is_an_ordinary_users_and_names_every_setting_that_it_lacks(image: Image) -> None:
    done = image.run("/opt/millrace/bin/python", "-m", "services", "gateway", user=USER)
    assert done.returncode == 2
    assert {line.split()[2] for line in done.stdout.splitlines()} == {
        "MILLRACE_NATS_URL",
        "MILLRACE_DATABASE_URL",
        "MILLRACE_KEYS",
        "MILLRACE_ADMIN_KEY",
    }


def test_nothing_of_the_image_can_be_written_but_its_data(image: Image) -> None:
    tried = image.run("/bin/sh", "-c", "id -u; touch /var/lib/millrace/x && touch /opt/millrace/x", user=USER)
    assert tried.returncode != 0
    assert tried.stdout.splitlines()[0] == str(USER)
    assert "/opt/millrace/x" in tried.stdout
    assert not [path for name in ("pytest", "libreadline*", "psql") for path in (image.root / "opt/millrace").rglob(name)]


def test_the_tier_of_the_sandbox_is_tried_within(image: Image) -> None:
    done = image.run("/opt/millrace/bin/millrace", "doctor", "--data", "/var/lib/millrace/data", user=USER)
    assert re.search(r"sandbox", done.stdout), done.stdout
    assert re.search(r"tier [AB]", done.stdout), done.stdout


def test_secrets_for_all_services_are_made_within(image: Image) -> None:
    given = ["--credentials", "/var/lib/millrace/credentials.json", "--write-env", "/var/lib/millrace/env"]
    urls = ["--nats", "nats://n:4222", "--postgres", "postgresql://p:s@d/m", "--public-url", "https://hooks.example.com"]
    done = image.run("/opt/millrace/bin/python", "-m", "deploy.prepare", *given, *urls, user=USER)
    assert done.returncode == 0, done.stdout
    assert (image.root / "var/lib/millrace/env/gateway.env").stat().st_uid == USER
