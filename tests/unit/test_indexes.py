"""Where packages come from, as an operator says it; and no word of a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.executor.environments.indexes import DEFAULT, indexes
from shared.egress.policy import target

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


def test_only_the_hosts_of_the_indexes_may_be_reached() -> None:
    found = indexes("https://packages.example/simple", None, "files.example,cdn.example:8443", variables={})
    for allowed in ("packages.example:443", "files.example:443", "cdn.example:8443"):
        assert found.policy.refusal_of_name(target(allowed)) is None
    for refused in ("packages.example:80", "pypi.org:443", "127.0.0.1:443", "169.254.169.254:80", "evil.packages.example:443"):
        assert found.policy.refusal_of_name(target(refused)) is not None
    public = indexes(DEFAULT, None, variables={}).policy
    assert public.refusal_of_name(target("files.pythonhosted.org:443")) is None


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
