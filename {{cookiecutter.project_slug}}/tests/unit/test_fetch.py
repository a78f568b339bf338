"""Which addresses may be asked for at all: the form of an address, and where an IP address belongs."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.rag.fetch import Address, _checked, is_public

NETWORKS = [
    # IPv4, as IANA's registry of special-purpose addresses has it
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    # where clouds keep what a machine may know about itself
    *("169.254.169.254/32", "169.254.170.2/32", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
    *("fd00:ec2::254/128", "fd20:ce::254/128"),
    # IPv6
    *("::/128", "::1/128", "::ffff:0:0/96", "::ffff:7f00:0/104", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64"),
    *("100:0:0:1::/64", "2001::/23", "2001::/32", "2001:2::/48", "2001:db8::/32", "2002::/16", "2002:7f00::/24"),
    *("2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "4000::/2"),
    *("2a00::5efe:a00:0/104", "2a00::200:5efe:a00:0/104"),
]
NO_ADDRESSES = [
    # numbers for a host, in every notation that a C library reads
    *("https://127.0.0.1/", "https://127.1/", "https://127.0.1/", "https://2130706433/", "https://0x7f000001/"),
    *("https://0x7f.1/", "https://0x7f.0x0.0x0.0x1/", "https://0177.0.0.1/", "https://017700000001/", "https://0/"),
    *("https://00000177.1/", "https://0X7F.0.0.1/", "https://10.0.0.1/", "https://169.254.169.254/latest/meta-data/"),
    *("https://2852039166/", "https://0xa9fea9fe/", "https://0251.0376.0251.0376/", "https://169.254.43518/"),
    *(
        "https://100.100.100.200/",
        "https://192.168.0.1/",
        "https://172.16.0.1/",
        "https://0.0.0.0/",
        "https://1.1.1.1/",
    ),
    *("https://255.255.255.255/", "https://127.0.0.1./", "https://localhost.0x7f000001/", "https://a.b.1/"),
    *(
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
    ),
    *(
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b:1::a00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00:ec2::254]/",
    ),
    *(
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[2001:0:7f00:1::]/",
        "https://[0:0:0:0:0:0:0:1]/",
    ),
    *("https://[2606:4700:4700::1111]/", "https://[::1/", "https://::1/", "https://[]/", "https://[127.0.0.1]/"),
    # letters that stand for others, or for none
    *(
        "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/",
        "https://\u2460\u2461\u2466.0.0.1/",
        "https://127\u3002\uff10.0.1/",
    ),
    *("https://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/", "https://\u0661\u0662\u0667.0.0.1/"),
    *("https://%31%32%37.0.0.1/", "https://%6cocalhost/", "https://local\u00adhost/", "https://xn--/"),
    *("https://\ud800.example/", "https://docs.example/\ud800", "https://docs.example\u2028.evil.example/"),
    # no name, or none that is one
    *("https:///", "https://", "https:docs.example", "https:/docs.example", "https://./", "https://docs.example./"),
    *("https://docs..example/", "https://.docs.example/", "https://-docs.example/", "https://docs-.example/"),
    *(
        "https://docs_1.example/",
        "https://docs.example%00.evil.example/",
        "https://docs.example%2f@x/",
        "https://*.example/",
    ),
    *("https://docs.example\\.evil.example/", "https://docs .example/", f"https://{'a' * 64}.example/"),
    f"https://{'a.' * 130}example/",
    # a user, a port, another kind
    *(
        "https://me@docs.example/",
        "https://me:pw@docs.example/",
        "https://:@docs.example/",
        "https://docs.example@10.0.0.1/",
    ),
    *(
        "https://docs.example\\@10.0.0.1/",
        "https://docs.example:80/",
        "https://docs.example:8443/",
        "https://docs.example:0/",
    ),
    *(
        "https://docs.example:65536/",
        "https://docs.example:-1/",
        "https://docs.example:4 43/",
        "https://docs.example:443:22/",
    ),
    *(
        "http://docs.example/",
        "http://docs.example:443/",
        "ftp://docs.example/",
        "file:///etc/passwd",
        "gopher://docs.example/",
    ),
    *(
        "httpss://docs.example/",
        "data:text/plain,hello",
        "javascript://docs.example/",
        "jar:https://docs.example!/",
        "ws://a/",
    ),
    *(
        "unix:///var/run/docker.sock",
        "dict://127.0.0.1:11211/stat",
        "//docs.example/",
        "docs.example",
        "/etc/passwd",
        "",
    ),
    # what cannot be in an address
    *(
        "https://docs.example/\r\nHost: evil",
        "https://docs.example/\x00",
        "https://docs\t.example/",
        "https://docs.example\n/",
    ),
    "https://docs.example/" + "a" * 1_980,
    "https://docs.example/" + "\u00e9" * 500,
    "https://docs.example/" + "a" * 70_000,
]


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_an_address_of_another_form_is_refused(url: str) -> None:
    """In a sentence that says what is wrong, and quotes nothing."""
    with pytest.raises(InvalidInput, match=r"^the address "):
        _checked(url)


def test_there_are_enough_of_them() -> None:
    """Each counts once."""
    assert len(set(NO_ADDRESSES)) == len(NO_ADDRESSES) >= 100
    assert len(set(NETWORKS)) == len(NETWORKS)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://docs.example", "https://docs.example"),
        ("HTTPS://DOCS.example:443/A?b=%20#c", "https://docs.example/A?b=%20"),
        ("https://b\u00fccher.example/\u00fc", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://0x.1-2.3com.a1/", "https://0x.1-2.3com.a1/"),
        ("https://intranet/", "https://intranet/"),
        (f"https://{'a' * 63}.example/", f"https://{'a' * 63}.example/"),
        ("https://docs.example/" + "a" * 1_979, "https://docs.example/" + "a" * 1_979),
        ("https://docs.example/?u=https://me@10.0.0.1:22/", "https://docs.example/?u=https://me@10.0.0.1:22/"),
    ],
)
def test_an_address_is_taken(url: str, asked: str) -> None:
    """Normalised, so that one document has one name."""
    assert str(_checked(url)) == asked


@given(st.text(max_size=30) | st.text("0123456789abcdefxX.%:@[]\\/?#-_\uff11\u3002 ", max_size=30))
@example("127.1")
@example("0x7f.1")
@example("a.0x7f000001")
def test_no_host_is_a_number(host: str) -> None:
    """What passes is a name of plain letters, and no C library reads a number in it; all else is refused."""
    try:
        url = _checked(f"https://{host}/")
    except InvalidInput:
        return
    name = url.raw_host.decode()
    with pytest.raises(OSError, match="illegal IP address"):
        socket.inet_aton(name)
    assert (url.scheme, url.port, url.userinfo) == ("https", None, b"")
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert str(_checked(str(url))) == str(url)


@given(st.sampled_from(NETWORKS).flatmap(lambda network: st.ip_addresses(network=network)))
def test_no_address_of_a_special_network_is_public(address: Address) -> None:
    """Loopback, private, shared, link-local, multicast, reserved, documentation, benchmarks, metadata."""
    assert not is_public(address)


@given(st.ip_addresses())
def test_what_python_knows_to_be_special_is_not_public(address: Address) -> None:
    """Whichever address it is."""
    known = ("is_private", "is_loopback", "is_link_local", "is_multicast", "is_reserved", "is_unspecified")
    assert not (is_public(address) and any(getattr(address, name) for name in known))


@given(st.ip_addresses(v=4), st.integers(0, 2**32 - 1))
def test_no_ipv4_address_is_reached_through_ipv6(inner: IPv4Address, others: int) -> None:
    """Mapped, compatible, translated or tunnelled: what is inside is never checked, so a public one is refused too."""
    number = int(inner)
    for outer in (
        int(ip_address("::ffff:0:0")) | number,
        number,
        int(ip_address("64:ff9b::")) | number,
        int(ip_address("64:ff9b:1::")) | others << 32 | number,
        int(ip_address("2002::")) | number << 80 | others,
        int(ip_address("2001::")) | others << 64 | number ^ 0xFFFF_FFFF,
        int(ip_address("2a00::5efe:0:0")) | others << 64 | number,
        int(ip_address("2a00::200:5efe:0:0")) | others << 64 | number,
    ):
        assert not is_public(IPv6Address(outer))


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1"),
        *("198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.17", "2606:4700:4700::1111"),
        *("2a00:1450:4001::71", "2001:200::1", "2003::1", "3ffe::1", "2a00::1:5efe:a00:1"),
    ],
)
def test_the_internet_is_public(address: str) -> None:
    """Up to the very edges of what is not."""
    assert is_public(ip_address(address))


def test_an_address_of_one_link_is_not_public() -> None:
    """A zone names an interface of this machine."""
    assert not is_public(ip_address("2606:4700:4700::1111%eth0"))


def test_networks_are_written_whole() -> None:
    """So that their first and last address are what they seem."""
    assert [str(ip_network(network)) for network in NETWORKS] == NETWORKS
