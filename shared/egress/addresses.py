"""Kinds of addresses, from IANA's special-purpose registries (RFC 6890 and its updates). Pure.

`ipaddress.is_global` is no substitute: it follows the interpreter's version, and 3.11 calls 192.0.0.192, 64:ff9b::/96,
2002::/16, fec0::/10 and every mapped IPv4 address global.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PUBLIC: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("2000::/3"))
"""The ranges of public addresses, apart from those below."""

_METADATA = "a metadata service of the machine's cloud"

SPECIAL: tuple[tuple[Network, str, str], ...] = tuple(
    (ip_network(text), code, what)
    for text, code, what in (
        ("0.0.0.0/8", "unspecified", "an unspecified address"),
        ("10.0.0.0/8", "private", "a private address"),
        ("100.64.0.0/10", "shared", "a carrier-grade NAT address"),
        ("127.0.0.0/8", "loopback", "a loopback address"),
        ("169.254.0.0/16", "link_local", "a link-local address"),
        ("172.16.0.0/12", "private", "a private address"),
        ("192.0.0.0/24", "reserved", "a reserved address"),
        ("192.0.2.0/24", "reserved", "a documentation address"),
        ("192.88.99.0/24", "reserved", "a 6to4 relay address"),
        ("192.168.0.0/16", "private", "a private address"),
        ("198.18.0.0/15", "reserved", "a benchmarking address"),
        ("198.51.100.0/24", "reserved", "a documentation address"),
        ("203.0.113.0/24", "reserved", "a documentation address"),
        ("224.0.0.0/4", "multicast", "a multicast address"),
        ("240.0.0.0/4", "reserved", "a reserved address"),
        ("255.255.255.255/32", "broadcast", "the broadcast address"),
        # Single addresses, so that allowing the range around them does not allow them by accident. The fourth looks public.
        ("169.254.169.254/32", "metadata", _METADATA),
        ("169.254.170.2/32", "metadata", _METADATA),
        ("100.100.100.200/32", "metadata", _METADATA),
        ("168.63.129.16/32", "metadata", _METADATA),
        ("192.0.0.192/32", "metadata", _METADATA),
        ("::/3", "reserved", "an address outside of what is routed"),
        ("4000::/2", "reserved", "an address outside of what is routed"),
        ("8000::/1", "reserved", "an address outside of what is routed"),
        ("::/128", "unspecified", "an unspecified address"),
        ("::1/128", "loopback", "a loopback address"),
        ("::/96", "embedded", "an IPv4-compatible address"),
        ("::ffff:0:0/96", "embedded", "an IPv4-mapped address"),
        ("64:ff9b::/96", "embedded", "a NAT64 address"),
        ("64:ff9b:1::/48", "embedded", "a local NAT64 address"),
        ("100::/64", "reserved", "a discard address"),
        ("2001::/23", "reserved", "a reserved address"),
        ("2001::/32", "embedded", "a Teredo address"),
        ("2001:db8::/32", "reserved", "a documentation address"),
        ("2002::/16", "embedded", "a 6to4 address"),
        ("3fff::/20", "reserved", "a documentation address"),
        ("fc00::/7", "private", "a private address"),
        ("fe80::/10", "link_local", "a link-local address"),
        ("fec0::/10", "private", "a site-local address"),
        ("ff00::/8", "multicast", "a multicast address"),
        ("fd00:ec2::254/128", "metadata", _METADATA),
        ("fd20:ce::254/128", "metadata", _METADATA),
    )
)
"""Ranges that no run reaches unless an operator allows them: network, code, and a description."""

_LAST_FOUR_BYTES = (ip_network("::/96"), ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))


def inside(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address stands for, by any translation: a connection to it may reach them."""
    if isinstance(address, IPv4Address):
        return []
    found = [one for one in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if one is not None]
    if any(address in network for network in _LAST_FOUR_BYTES):
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return found
