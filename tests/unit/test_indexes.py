"""Where packages come from, as an operator says it; and no word of a password."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.executor.environments import access
from services.executor.environments.access import IndexAccess
from services.executor.environments.indexes import indexes, public_index
from shared.egress.policy import target
from shared.errors import Unavailable

SECRET = "s3same"


def test_an_index_is_named_with_a_password_by_reference_that_nothing_shows() -> None:
    found = indexes("https://reader:${TOKEN}@packages.example:8443/simple", None, variables={"TOKEN": SECRET})
    assert found.credentials("https://packages.example:8443/files/a.whl") == f"reader:{SECRET}"
    assert found.credentials("https://elsewhere.example:8443/files/a.whl") is None
    assert found.credentials("http://packages.example:8443/files/a.whl") is None
    assert SECRET not in repr(found)
    assert SECRET not in found.cleaned(f"cannot fetch https://reader:{SECRET}@packages.example:8443/simple/a/ with {SECRET}")
    with pytest.raises(ValueError, match="the variable TOKEN is not set"):
        indexes("https://reader:${TOKEN}@packages.example/simple", None, variables={})


def test_a_secret_stands_in_an_address_only_where_nothing_shows_it() -> None:
    found = indexes("https://reader:${secret:index.key}@packages.example/simple", None, "files.example", variables={})
    assert found.secrets == {"index.key"}
    assert found.policy.refusal_of_name(target("packages.example:443")) is None
    filled = found.filled({"index.key": "p@ss/w:rd\n"})
    assert filled.secrets == frozenset()
    assert filled.credentials("https://packages.example/files/a.whl") == "reader:p@ss/w:rd"
    for shown in ("p@ss/w:rd", "p%40ss%2Fw%3Ard"):
        assert shown not in filled.cleaned(f"no {shown} at https://reader:{shown}@packages.example/simple/")
    assert filled.policy.refusal_of_name(target("packages.example:443")) is None
    for wrong in (
        "https://packages.example/${secret:a}/simple",
        "https://${secret:a}/simple",
        "https://packages.example/simple?key=${secret:a}@x",
        "https://reader:${secret:}@packages.example/simple",
        "https://reader:${secret:a/b}@packages.example/simple",
        "file:///srv/${secret:a}@x",
    ):
        with pytest.raises(ValueError, match="where an address has its user or password"):
            indexes(wrong, None, variables={})


async def test_a_secret_is_asked_for_once_in_a_while_and_again_after_it_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def secret_of(name: str) -> str:
        asked.append(name)
        if len(asked) == 1:
            raise Unavailable("not now")
        return f"{SECRET}{len(asked)}"

    known = IndexAccess(indexes("https://reader:${secret:a}@packages.example/simple", None, variables={}), secret_of)
    with pytest.raises(Unavailable):
        await known.filled()
    filled = await asyncio.gather(known.filled(), known.filled())
    assert {one.credentials("https://packages.example/a") for one in filled} == {f"reader:{SECRET}2"}
    assert asked == ["a", "a"]
    monkeypatch.setattr(access, "_KEPT", -1.0)
    known = IndexAccess(known.indexes, secret_of)
    assert [(await known.filled()).default for _ in "ab"] == [f"https://reader:{SECRET}{n}@packages.example/simple" for n in (3, 4)]


def test_only_the_hosts_of_the_indexes_may_be_reached() -> None:
    found = indexes("https://packages.example/simple", None, "files.example,cdn.example:8443", variables={})
    for allowed in ("packages.example:443", "files.example:443", "cdn.example:8443"):
        assert found.policy.refusal_of_name(target(allowed)) is None
    for refused in ("packages.example:80", "127.0.0.1:443", "169.254.169.254:80", "evil.packages.example:443"):
        assert found.policy.refusal_of_name(target(refused)) is not None


def test_the_public_index_is_the_one_that_pip_brings_along_and_its_files_may_be_had() -> None:
    public = public_index()
    assert public is not None
    policy = indexes(public.address, None, variables={}).policy
    assert policy.refusal_of_name(target(f"{public.files}:443")) is None
    other = indexes("https://packages.example/simple", None, variables={}).policy
    assert other.refusal_of_name(target(f"{public.files}:443")) is not None


def test_a_file_in_pip_s_format_says_all_of_it(tmp_path: Path) -> None:
    limits, conf = tmp_path / "limits.txt", tmp_path / "pip.conf"
    limits.write_text("plain<2\n")
    conf.write_text(
        f"[global]\nindex-url = https://a.example/simple\nextra-index-url =\n    https://b.example/simple\n    file:///srv/c/simple\n"
        f"find-links = /srv/wheels\ncert = /etc/own.pem\n[install]\nconstraint = {limits}\n"
    )
    found = indexes(None, str(conf), variables={})
    assert (found.default, found.extra) == ("https://a.example/simple", ("https://b.example/simple", "file:///srv/c/simple"))
    assert (found.links, found.constraints) == (("/srv/wheels",), "plain<2\n")
    assert found.folders == [Path("/etc/own.pem"), Path("/srv/c"), Path("/srv/wheels")]
    conf.write_text("[global]\nno-index = true\nfind-links = file:///simple\n")
    alone = indexes(None, str(conf), variables={})
    assert (alone.default, alone.folders) == (None, [Path("/simple")])
    with pytest.raises(ValueError, match="is no file in pip's format"):
        indexes(None, str(tmp_path / "absent"), variables={})
