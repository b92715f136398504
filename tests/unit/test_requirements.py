"""The requirements of a workspace as they are read: what is asked for, where, and what is not for a workspace to say."""

from __future__ import annotations

import pytest

from services.executor.environments.lock import Lock, LockError, Package, read
from services.executor.environments.requirements import MOST_PROBLEMS, of_project, of_script, of_text

SHA = "a" * 64


def test_requirements_have_names_texts_lines_and_hashes() -> None:
    text = "# what we need\nRequests>=2.0 ; python_version > '3'  # http\n\n"
    text += f"pandas[excel]==2.* \\\n    --hash=sha256:{SHA}\nmillrace\n"
    found = of_text("requirements.txt", text)
    assert not found.problems
    assert [(one.name, one.line, one.hashes) for one in found.wanted] == [("requests", 2, ()), ("pandas", 4, (SHA,))]
    assert found.wanted[0].text == 'Requests>=2.0; python_version > "3"'


def test_comments_order_and_blanks_make_no_other_environment() -> None:
    one, other = of_text("requirements.txt", "a\nb>=1\n"), of_text("requirements.txt", "# more\nb >= 1\n\na  # here\n")
    assert one.key == other.key
    assert one.key != of_text("requirements.txt", "a\nb>=2\n").key


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--index-url https://evil.example/simple", "--index-url is not for a workspace to say"),
        ("--extra-index-url=https://evil.example", "--extra-index-url is not for"),
        ("-i https://evil.example", "-i is not for"),
        ("-f /etc", "-f is not for"),
        ("--find-links /etc", "--find-links is not for"),
        ("-e .", "-e is not for"),
        ("--no-binary :all:", "--no-binary is not for"),
        ("--trusted-host evil.example", "--trusted-host is not for"),
        ("evil @ https://evil.example/evil-1.0-py3-none-any.whl", "evil is asked for from an address"),
        ("evil @ file:///etc/passwd", "evil is asked for from an address"),
        ("git+https://evil.example/evil.git", "is no requirement"),
        ("./evil-1.0-py3-none-any.whl", "is no requirement"),
        ("/etc/passwd", "is no requirement"),
        ("evil --config-settings=x=y", "no option of a requirement"),
        ("evil --global-option=x", "no option of a requirement"),
        ("evil ==", "is no requirement"),
        ("-r ../../etc/passwd", "there is no file ../../etc/passwd in the workspace"),
        ("-r /etc/passwd", "there is no file /etc/passwd in the workspace"),
        ("-c https://evil.example/c.txt", "there is no file https://evil.example/c.txt in the workspace"),
    ],
)
def test_what_leads_elsewhere_than_to_the_configured_index_is_a_problem_of_its_line(line: str, told: str) -> None:
    found = of_text("requirements.txt", f"good\n{line}\n", {"/etc/passwd": "x", "etc/passwd": "x"}.get)
    (problem,) = found.problems
    assert (problem.path, problem.line) == ("requirements.txt", 2)
    assert told in problem.message


def test_files_may_include_others_of_the_workspace_and_not_without_end() -> None:
    files = {"needs/base.txt": "b\n-r more.txt\n", "needs/more.txt": "-r base.txt\nc\n-x\n", "limits.txt": "b<2\n"}
    found = of_text("requirements.txt", "-r needs/base.txt\n-c limits.txt\na\n", files.get)
    assert sorted((one.name, one.path) for one in found.wanted) == [
        ("a", "requirements.txt"),
        ("b", "needs/base.txt"),
        ("c", "needs/more.txt"),
    ]
    assert [one.text for one in found.constraints] == ["b<2"]
    assert [(one.path, one.line) for one in found.problems] == [("needs/more.txt", 3)]


def test_a_project_s_dependencies_are_read_with_their_lines() -> None:
    text = '[project]\nname = "flows"\nrequires-python = ">=3.11"\ndependencies = [\n  "requests>=2",\n  "pandas @ https://e.example/p.whl",\n]\n'
    found = of_project("pyproject.toml", text)
    assert found is not None
    assert [(one.name, one.line) for one in found.wanted] == [("requests", 5)]
    assert [(one.path, one.line) for one in found.problems] == [("pyproject.toml", 6)]
    assert of_project("pyproject.toml", '[tool.ruff]\nline-length = 100\n[project]\nname = "x"\n') is None
    broken = of_project("pyproject.toml", "[project\n")
    assert broken is not None
    assert broken.problems[0].line == 1


def test_another_python_is_a_problem() -> None:
    found = of_project("pyproject.toml", '[project]\nrequires-python = ">=4"\ndependencies = []\n')
    assert found is not None
    assert [(one.line, one.message.split(",")[0]) for one in found.problems] == [(2, "it is for Python >=4")]


def test_a_block_of_script_metadata_gives_a_file_its_own_requirements() -> None:
    text = '"""Flow."""\n# /// script\n# requires-python = ">=3.11"\n'
    text += '# dependencies = [\n#   "requests<3",\n#   "rich",\n# ]\n# ///\nimport requests\n'
    found = of_script("flows/a.py", text)
    assert found is not None
    assert not found.problems
    assert [(one.name, one.line) for one in found.wanted] == [("requests", 5), ("rich", 6)]
    assert of_script("flows/b.py", "import json\n") is None
    broken = of_script("flows/c.py", "# /// script\n# dependencies = [\n# ///\n")
    assert broken is not None
    assert broken.problems
    twice = of_script("flows/d.py", text + text)
    assert twice is not None
    assert "two blocks" in twice.problems[0].message


def test_a_lock_reads_what_it_wrote_and_its_identity_is_that_of_its_files() -> None:
    package = Package("plain", "1.0", "plain-1.0-py3-none-any.whl", SHA, "https://i.example/plain-1.0-py3-none-any.whl")
    lock = Lock((package,))
    assert read(lock.text) == lock
    elsewhere = Lock(
        (Package(*(package.name, package.version, package.file, package.sha256), "file:///x/plain-1.0-py3-none-any.whl"),)
    )
    assert elsewhere.identity == lock.identity
    assert Lock((Package("plain", "1.0", package.file, "b" * 64, package.url),)).identity != lock.identity


def test_a_lock_takes_the_wheel_that_fits_best_and_has_an_allowed_hash() -> None:
    def text(*wheels: str) -> str:
        return '[[packages]]\nname = "plain"\nversion = "1.0"\nwheels = [' + ", ".join(wheels) + "]\n"

    def one(tag: str, digit: str) -> str:
        return f'{{ url = "https://u:p@i.example/plain-1.0-{tag}.whl", hashes = {{ sha256 = "{digit * 64}" }} }}'

    pure, other, own = one("py3-none-any", "1"), one("cp27-cp27m-win32", "2"), one("cp311-none-any", "3")
    (package,) = read(text(pure, other, own)).packages
    assert package.url.startswith("https://i.example/")
    (hashed,) = read(text(pure, other, own), of_text("requirements.txt", f"plain --hash=sha256:{'1' * 64}\n")).packages
    assert hashed.sha256 == "1" * 64
    with pytest.raises(LockError, match="has one of the hashes"):
        read(text(pure), of_text("requirements.txt", f"plain --hash=sha256:{'4' * 64}\n"))
    with pytest.raises(LockError, match="no wheel for this machine"):
        read(text(other))
    with pytest.raises(LockError, match="no SHA-256"):
        read('[[packages]]\nname = "plain"\nversion = "1.0"\nwheels = [{ url = "https://i.example/plain-1.0-py3-none-any.whl" }]\n')
    with pytest.raises(LockError, match="cannot be read"):
        read("packages = 1\n")


LONG = 250_000
HUGE = {
    "blanks": "a" + " " * LONG + "b",
    "brackets": "a; " + "(" * 1000 + "os_name=='x'" + ")" * 1000,
    "a marker": "a; " + " and ".join(["os_name=='x'"] * 15_000),
    "versions": "a" + ",".join(f">=1.{number}" for number in range(25_000)),
    "options": "-x\n" * 80_000,
    "lines that are none": "!\n" * 120_000,
    "continued lines": "\\\n" * 120_000 + "!",
    "files": "-r more.txt\n-c more.txt\n-r again.txt\n",
}


@pytest.mark.parametrize("name", HUGE)
def test_a_file_that_is_made_to_take_long_has_a_few_problems_of_its_lines(name: str) -> None:
    found = of_text("requirements.txt", HUGE[name], lambda path: f"# {path}\n" * 20_000)
    assert 0 < len(found.problems) <= MOST_PROBLEMS
    assert not found.wanted


@pytest.mark.parametrize("opening", ["# /// script\n", "# /// script\n#\n"])
def test_blocks_that_never_end_are_no_blocks_and_take_no_time(opening: str) -> None:
    assert of_script("a.py", opening * (LONG // len(opening))) is None


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 60_000) + " = 1",
        "[" + " . ".join(["'a'"] * 10_000) + "]",
        "x = " + "9" * 10_000,
        "x = " + "[" * 50_000,
        "dependencies = [" + ",".join(['"!"'] * 500) + "]" + "\n" * 100_000,
    ],
)
def test_toml_that_is_made_to_take_long_or_cannot_be_held_is_a_problem(text: str) -> None:
    found = of_project("pyproject.toml", f"[project]\n{text}\n")
    assert found is not None
    assert 0 < len(found.problems) <= MOST_PROBLEMS
    script = of_script("a.py", f"# /// script\n# {text.rstrip()}\n# ///\n")
    assert script is not None
    assert 0 < len(script.problems) <= MOST_PROBLEMS


def test_lines_may_end_as_on_windows() -> None:
    found = of_script("a.py", '# /// script\r\n# dependencies = ["rich"]\r\n#\r\n# ///\r\nimport rich\r\n')
    assert found is not None
    assert [one.name for one in found.wanted] == ["rich"]


@pytest.mark.parametrize("port", ["0", "99999", "x"])
def test_an_address_without_a_port_that_there_is_cannot_be_in_a_lock(port: str) -> None:
    lock = Lock(
        (Package("plain", "1.0", "plain-1.0-py3-none-any.whl", SHA, f"https://i.example:{port}/plain-1.0-py3-none-any.whl"),)
    )
    with pytest.raises(LockError, match="cannot be read"):
        read(lock.text)


def test_a_wheel_with_a_name_of_millions_of_tags_is_none_for_this_machine() -> None:
    tags = "-".join(".".join(f"{kind}{number}" for number in range(1000)) for kind in ("py", "abi", "on"))
    lock = Lock((Package("plain", "1.0", f"plain-1.0-{tags}.whl", SHA, "https://i.example/plain.whl"),))
    with pytest.raises(LockError, match="no wheel for this machine"):
        read(lock.text)
