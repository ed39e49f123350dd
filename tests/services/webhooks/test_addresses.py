"""Webhooks cannot be pointed at our own network. No socket is opened here."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import pytest
import requests_hardened.ip_filter as hardened
from hypothesis import given
from hypothesis import strategies as st

from services.webhooks import Delivery, Sender, UnsafeUrl, is_public, target

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:93.184.216.34",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:3::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "ff05::2",
    "",
    "example.com",
    "127.1",
    "0x7f000001",
    "2130706433",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "223.255.255.1", "2606:4700:4700::1111", "2a00:1450:4001::200e"]


class Dialled(Exception):
    """Raised instead of a connection, with where it would have gone."""


def try_out(url: str, answers: Sequence[Sequence[str]], **kwargs: bool) -> tuple[Delivery, list[str], list[str]]:
    """A delivery under a resolver that gives `answers` one after the other: what came of it, asked, dialled."""
    asked: list[str] = []
    dialled: list[str] = []
    left = list(answers)

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return left.pop(0)

    def dial(address: str, port: int, timeout_s: float) -> socket.socket:
        dialled.append(f"{address} {port}")
        raise ConnectionRefusedError

    sender = Sender(timeout_s=5, resolve=resolve, dial=dial, **kwargs)
    return sender.send("POST", url, {}, b"{}"), asked, dialled


@pytest.mark.parametrize("address", PRIVATE)
def test_no_private_address_is_dialled_whatever_name_leads_there(address: str) -> None:
    delivery, _, dialled = try_out("https://hooks.example.com/", [[address]])
    assert (delivery.status, dialled) == (None, [])
    assert delivery.error == "the name leads to an address that is not public"


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_dialled(address: str) -> None:
    _, _, dialled = try_out("https://hooks.example.com/", [[address]])
    assert dialled == [f"{address} 443"]


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_another_filter_forbids_is_forbidden_here(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    forbidden = ip.is_private or ip.is_multicast or hardened._is_ip_in_extra_blocked_ranges(ip)
    assert not (forbidden and is_public(str(ip)))


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_public_in_the_disguise_of_an_ipv6_one(ip: ipaddress.IPv4Address) -> None:
    number = int(ip)
    for disguise in (
        number,
        (0xFFFF << 32) | number,
        (0xFFFF0000 << 32) | number,
        (0x64FF9B << 96) | number,
        (0x2002 << 112) | (number << 80) | 1,
        (0x20010000 << 96) | (number ^ 0xFFFFFFFF),
    ):
        assert not is_public(str(ipaddress.IPv6Address(disguise)))


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_not(text: str) -> None:
    assert is_public(text) in (True, False)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    delivery, _, dialled = try_out("https://hooks.example.com/", [["93.184.216.34", "10.0.0.1"]])
    assert delivery.error and dialled == []


def test_a_name_is_asked_for_once_and_the_answer_that_was_looked_at_is_dialled() -> None:
    """DNS rebinding: the second answer would be the loopback."""
    _, asked, dialled = try_out("https://rebind.example.com/", [["93.184.216.34"], ["127.0.0.1"]])
    assert asked == ["rebind.example.com"]
    assert dialled == ["93.184.216.34 443"]


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    addresses = ["2606:4700:4700::1111", "1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4"]
    delivery, _, dialled = try_out("https://hooks.example.com/", [addresses])
    assert dialled == [f"{address} 443" for address in addresses[:4]]
    assert delivery.error == "the connection was refused"


def test_an_address_that_swallows_everything_leaves_time_for_the_next() -> None:
    waits: list[float] = []

    def dial(address: str, port: int, timeout_s: float) -> socket.socket:
        waits.append(timeout_s)
        raise TimeoutError

    sender = Sender(timeout_s=60, resolve=lambda host, port: ["1.1.1.1", "1.0.0.1", "8.8.8.8"], dial=dial)
    sender.send("POST", "https://hooks.example.com/", {}, b"")
    assert [round(wait) for wait in waits] == [20, 30, 60]


def test_a_name_that_resolves_to_nothing_is_an_error_of_the_receiver() -> None:
    delivery, _, _ = try_out("https://hooks.example.com/", [[]])
    assert delivery.error == "the name does not resolve"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "//hooks.example.com/",
        "http://hooks.example.com/",
        "HTTP://hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "unix:///run/docker.sock",
        "https://",
        "https:///path",
        "https://user@hooks.example.com/",
        "https://user:pass@hooks.example.com/",
        "https://@hooks.example.com/",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com:x/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com /",
        "https://hooks.example.com/\r\nHost: x",
        "https://hooks.exa\tmple.com/",
        "https://[::1",
        "https://[fe80::1%25lo]/",
        "https://" + "a" * 64 + ".example.com/",
        "https://" + "a." * 200 + "com/",
        "https://ex%61mple.com/",
        "https://\udcff.example.com/",
    ],
)
def test_addresses_that_are_not_https_or_not_plain_are_refused(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        target(url)
    delivery, asked, _ = try_out(url, [])
    assert delivery.error and asked == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://127.0.0.1/", "127.0.0.1"),
        ("https://127.1/", "127.1"),
        ("https://0x7f.0.0.1/", "0x7f.0.0.1"),
        ("https://0177.0.0.1/", "0177.0.0.1"),
        ("https://2130706433/", "2130706433"),
        ("https://[::1]/", "::1"),
        ("https://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1"),
        ("https://LOCALHOST/", "localhost"),
        ("https://localhost./", "localhost."),
        ("https://①②⑦.0.0.1/", "127.0.0.1"),
        ("https://" + "".join(chr(ord(c) + 0xFEE0) for c in "localhost") + "/", "localhost"),
        ("https://127。0。0。1/", "127.0.0.1"),
    ],
)
def test_every_notation_goes_through_the_resolver_and_its_answer_is_looked_at(url: str, host: str) -> None:
    """The resolver reads `0177.0.0.1` as the system does; so nothing here has to guess how that is."""
    delivery, asked, dialled = try_out(url, [["127.0.0.1"]])
    assert (asked, dialled) == ([host], [])
    assert delivery.error == "the name leads to an address that is not public"


@given(st.text(max_size=80))
def test_any_text_is_a_target_or_unsafe(text: str) -> None:
    for url in (text, f"https://{text}", f"https://example.com/{text}", f"https://example.com?{text}"):
        try:
            found = target(url)
        except UnsafeUrl:
            continue
        assert found.https and found.host.isascii() and found.path.isascii() and found.path.startswith("/")
        assert not any(c.isspace() for c in found.host + found.path)


def test_a_development_setting_opens_the_door() -> None:
    _, _, dialled = try_out("http://localhost:8080/x", [["127.0.0.1"]], allow_private=True)
    assert dialled == ["127.0.0.1 8080"]
    with pytest.raises(UnsafeUrl):
        target("file:///etc/passwd", allow_private=True)
