"""What a run may reach: by name, by address, by whatever an address stands for."""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.egress.addresses import SPECIAL, inside
from shared.egress.policy import EgressPolicy, EgressRules, rules, target


def policy(allow: str = "", deny: str = "", org: str = "acme") -> EgressPolicy:
    return EgressRules((*rules(allow, allows=True), *rules(deny, allows=False))).of(org)


def reaches(given: EgressPolicy, host: str, *addresses: str, port: int = 443) -> bool:
    wanted = target(f"[{host}]" if ":" in host else host, port)
    if given.refusal_of_name(wanted) is not None:
        return False
    found = [ip_address(one) for one in addresses] or [wanted.address]
    return all(given.refusal_of_address(one, port) is None for one in found if one is not None)


REFUSED = {
    "0.0.0.0": "unspecified",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "100.64.0.1": "shared",
    "100.127.255.255": "shared",
    "169.254.1.1": "link_local",
    "169.254.169.254": "metadata",
    "169.254.170.2": "metadata",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "192.0.0.192": "metadata",
    "192.0.0.1": "reserved",
    "198.18.0.1": "reserved",
    "203.0.113.7": "reserved",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "::ffff:169.254.169.254": "embedded",
    "::ffff:8.8.8.8": "embedded",
    "::127.0.0.1": "embedded",
    "64:ff9b::7f00:1": "embedded",
    "64:ff9b:1::a00:1": "embedded",
    "2002:7f00:1::": "embedded",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "embedded",
    "fc00::1": "private",
    "fd00:ec2::254": "metadata",
    "fe80::1": "link_local",
    "fec0::1": "private",
    "ff02::1": "multicast",
    "2001:db8::1": "reserved",
    "3fff::1": "reserved",
    "100::1": "reserved",
    "4000::1": "reserved",
    "5f00::1": "reserved",
}


@pytest.mark.parametrize(("address", "code"), REFUSED.items())
def test_an_address_that_is_not_public_is_refused_with_what_it_is(address: str, code: str) -> None:
    refusal = policy().refusal_of_address(ip_address(address), 443)
    assert refusal is not None
    assert refusal.code == code
    assert refusal.detail.startswith(f"{ip_address(address)} is ")
    assert refusal.detail.isascii()


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "140.82.121.3", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_a_public_address_is_reached(address: str) -> None:
    assert reaches(policy(), address)


@given(st.ip_addresses(v=4))
def test_no_spelling_inside_ipv6_reaches_more_than_the_address_itself(address: IPv4Address) -> None:
    number = int(address)
    plain = policy().refusal_of_address(address, 443) is None
    for outer in (
        IPv6Address(number),
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(int(IPv6Address("64:ff9b::")) | number),
        IPv6Address(0x2002 << 112 | number << 80),
        IPv6Address(0x20010000 << 96 | number << 64),
        IPv6Address(0x20010000 << 96 | (number ^ 0xFFFFFFFF)),
    ):
        assert address in inside(outer)
        assert policy().refusal_of_address(outer, 443) is not None
        # Even where an operator opens the translation, what lies behind it is judged by itself.
        opened = policy(allow="::/96 ::ffff:0:0/96 64:ff9b::/96 2002::/16 2001::/32")
        if not plain:
            assert opened.refusal_of_address(outer, 443) is not None


def test_who_uses_nat64_can_open_it_for_public_addresses_only() -> None:
    opened = policy(allow="64:ff9b::/96")
    assert reaches(opened, "api.example.com", "64:ff9b::8c52:7903")
    refusal = opened.refusal_of_address(ip_address("64:ff9b::a9fe:a9fe"), 80)
    assert refusal is not None
    assert refusal.detail == "64:ff9b::a9fe:a9fe stands for 169.254.169.254, which is a metadata service of the machine's cloud"


@pytest.mark.parametrize("address", ["10.20.0.0/16", "10.20.3.4"])
def test_an_operators_network_opens_what_lies_in_it_and_nothing_else(address: str) -> None:
    opened = policy(allow=address)
    assert reaches(opened, "crm.corp.example", "10.20.3.4")
    assert reaches(opened, "10.20.3.4")
    assert not reaches(opened, "crm.corp.example", "10.21.3.4")
    assert not reaches(opened, "crm.corp.example", "10.20.3.4", "10.21.3.4")


def test_a_name_never_opens_an_address() -> None:
    assert not reaches(policy(allow="crm.corp.example *.corp.example *"), "crm.corp.example", "10.20.3.4")


def test_allowing_everything_opens_nothing_that_is_not_public() -> None:
    opened = policy(allow="0.0.0.0/0 ::/0 *")
    assert not [address for address in REFUSED if reaches(opened, "x.example", address)]


def test_a_wide_network_does_not_open_the_metadata_address_in_it() -> None:
    opened = policy(allow="169.254.0.0/16")
    assert reaches(opened, "169.254.7.7", port=80)
    assert not reaches(opened, "169.254.169.254", port=80)
    assert reaches(policy(allow="169.254.169.254:80"), "169.254.169.254", port=80)
    assert not reaches(policy(allow="169.254.169.254:80"), "169.254.169.254", port=8080)


def test_an_installation_can_be_closed_but_for_what_it_names() -> None:
    closed = policy(deny="*", allow="api.github.com, *.halopsa.com:443 10.20.0.5")
    assert reaches(closed, "api.github.com", "140.82.121.3")
    assert reaches(closed, "API.GitHub.com.", "140.82.121.3")
    assert reaches(closed, "acme.halopsa.com", "1.1.1.1")
    assert reaches(closed, "10.20.0.5", port=8080)
    assert not reaches(closed, "acme.halopsa.com", "1.1.1.1", port=80)
    assert not reaches(closed, "halopsa.com", "1.1.1.1")
    assert not reaches(closed, "evilhalopsa.com", "1.1.1.1")
    assert not reaches(closed, "github.com", "140.82.121.3")
    assert not reaches(closed, "140.82.121.3")
    assert not reaches(closed, "2130706433")


def test_the_narrowest_entry_decides() -> None:
    mixed = policy(allow="*.example.com bad.a.example.com", deny="a.example.com *.a.example.com example.com 1.1.0.0/16")
    assert reaches(mixed, "b.example.com", "8.8.8.8")
    assert not reaches(mixed, "a.example.com", "8.8.8.8")
    assert not reaches(mixed, "x.a.example.com", "8.8.8.8")
    assert reaches(mixed, "bad.a.example.com", "8.8.8.8")
    assert not reaches(mixed, "example.com", "8.8.8.8")
    assert not reaches(mixed, "b.example.com", "1.1.1.1")
    assert reaches(mixed, "b.example.com", "1.2.1.1")


def test_of_two_entries_alike_the_refusing_one_decides() -> None:
    assert not reaches(policy(allow="a.example 8.8.8.8", deny="a.example 8.8.8.8"), "a.example", "1.1.1.1")
    assert not reaches(policy(allow="8.8.8.8", deny="8.8.8.8"), "8.8.8.8")


def test_an_entry_binds_its_organization_only_and_goes_before_one_for_all() -> None:
    allow, deny = "acme=10.20.0.0/16 acme=evil.example", "evil.example globex=api.example"
    assert reaches(policy(allow, deny, "acme"), "crm.example", "10.20.0.1")
    assert not reaches(policy(allow, deny, "globex"), "crm.example", "10.20.0.1")
    assert reaches(policy(allow, deny, "acme"), "evil.example", "8.8.8.8")
    assert not reaches(policy(allow, deny, "globex"), "evil.example", "8.8.8.8")
    assert reaches(policy(allow, deny, "acme"), "api.example", "8.8.8.8")
    assert not reaches(policy(allow, deny, "globex"), "api.example", "8.8.8.8")


@pytest.mark.parametrize(
    "entry",
    [
        "10.0.0.300", "10.0.0.0/33", "10.0.0.1/8", "1.2.3", "fd00::/129", "[fd00::", "[fd00::]x", "[::1]:0", "b=c!",
        "a..b", "-a.example", "a.*.example", "*example.com", "**", "*.*", "host:0", "host:65536", "host:", "host:80:80",
        "ä.example", "http://a.example", "a.example/path", "acme=", "=a.example", "or/g=a.example", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_an_entry_that_means_nothing_is_refused_with_its_text(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(entry))):
        rules(entry, allows=True)


@pytest.mark.parametrize(
    "entry", ["fd00::/8", "[fd00::/8]:443", "[::1]:443", "::1", "10.0.0.0/8:443", "xn--bcher-kva.example", "a_b.c:1"]
)
def test_entries_of_every_kind_are_read(entry: str) -> None:
    (rule,) = rules(f" ,{entry}, ", allows=True)
    assert rule.allows


@pytest.mark.parametrize(
    "authority",
    [
        "", ":80", "a", "a:", "a:0", "a:65536", "a:-1", "a:8 0", "a:+80", "a:0x50", "a b:80", "a\0b:80", "a/b:80", "user@a:80",
        "a:80:80", "::1:80", "[::1]", "[::1]80", "[::1%lo]:80", "[a]:80", "[1.2.3.4]:80", "fe80::1%eth0:80", ".a:80", "a..b:80",
        "ä:80", "x" * 254 + ":80", "a:٨٠", "a.example..:80",
    ],
)  # fmt: skip
def test_what_is_no_host_and_port_is_refused(authority: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        target(authority)


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        found = target(text, 80)
    except ValueError:
        return
    assert found.host.isascii()
    assert found.host == found.host.lower()
    assert 1 <= found.port <= 65535
    assert not set(found.host) & set(" \t\r\n\0/@%\"'\\")


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "017700000001", "127.0.1"])
def test_an_odd_spelling_is_a_name_and_judged_by_what_it_resolves_to(spelling: str) -> None:
    assert target(spelling, 80).address is None
    (resolved,) = {
        entry[4][0] for entry in socket.getaddrinfo(spelling, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    }
    assert not reaches(policy(), spelling, str(resolved))


def test_every_special_range_is_refused_from_its_first_address_to_its_last() -> None:
    for network, _, _ in SPECIAL:
        for address in (network.network_address, network.broadcast_address):
            assert policy().refusal_of_address(address, 80) is not None
