"""The sender against real receivers on the loopback that do what receivers do."""

from __future__ import annotations

import itertools
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import webhooks
from services.webhooks import Delivery, Sender

if TYPE_CHECKING:
    from tests.services.webhooks.conftest import Receiver

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIMIT_S = 0.5
SLACK_S = 3.0  # for a machine with other things to do; without a limit these would take for ever
SECRET = webhooks.new_secret()

Start = Callable[..., "Receiver"]


def local(timeout_s: float = 5.0, **kwargs: int) -> Sender:
    return Sender(timeout_s=timeout_s, allow_private=True, **kwargs)


def send(receiver: Receiver, timeout_s: float = 5.0) -> Delivery:
    return local(timeout_s).post(receiver.url, [SECRET], "msg_1", '{"type":"x"}')


def drip(connection: socket.socket, parts: Sequence[bytes] | itertools.cycle[bytes]) -> None:
    for part in parts:
        connection.sendall(part)
        time.sleep(0.05)


def test_what_arrives_is_signed_and_says_who_sends_it(receiver: Start) -> None:
    there = receiver(OK)
    delivery = send(there)
    assert (delivery.status, delivery.error, delivery.response_head) == (200, None, "ok")
    assert delivery.delivered and delivery.duration_ms >= 0
    head, _, body = there.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    got = dict(line.split(": ", 1) for line in lines)
    assert first == "POST /hook?a=1 HTTP/1.1"
    assert got["Host"] == f"127.0.0.1:{there.port}"
    assert got["User-Agent"].startswith("Assay/")
    assert got["Content-Type"] == "application/json"
    assert webhooks.verify([SECRET], got, body, now_s=time.time(), tolerance_s=5) == "msg_1"


def test_other_methods_go_through_the_same_door(receiver: Start) -> None:
    there = receiver(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert local().send("PATCH", there.url, {"Authorization": "Basic eDo="}, b"").status == 204
    assert b"Content-Length: 0" in there.requests[0]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_taken(receiver: Start, status: int) -> None:
    assert send(receiver(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)).error is None


@pytest.mark.parametrize("status", [101, 300, 304, 400, 401, 404, 410, 429, 500, 503, 999])
def test_any_other_status_is_a_failure_that_keeps_it(receiver: Start, status: int) -> None:
    delivery = send(receiver(b"HTTP/1.1 %d X\r\nContent-Length: 4\r\n\r\nwhy?" % status))
    assert delivery.status == status and delivery.error and str(status) in delivery.error


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_failures_and_not_followed(receiver: Start, status: int) -> None:
    elsewhere = receiver(OK)
    there = receiver(b"HTTP/1.1 %d X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, elsewhere.url.encode()))
    delivery = send(there)
    assert (delivery.status, elsewhere.requests) == (status, [])
    assert delivery.error == f"answered {status}, and redirects are not followed"


def test_retry_after_comes_back_with_the_failure(receiver: Start) -> None:
    assert send(receiver(b"HTTP/1.1 503 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")).retry_after_s == 7
    dated = b"HTTP/1.1 429 X\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n"
    assert send(receiver(dated)).retry_after_s == 0
    assert send(receiver(b"HTTP/1.1 503 X\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n")).retry_after_s is None


DRIPS: dict[str, Callable[[socket.socket], None]] = {
    "nothing at all": lambda c: time.sleep(1.2),
    "a status line that never ends": lambda c: drip(c, itertools.cycle([b"H"])),
    "headers that never end": lambda c: drip(
        c, itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.cycle([b"a: b\r\n"]))
    ),
    "a header value that never ends": lambda c: drip(
        c, itertools.chain([b"HTTP/1.1 200 OK\r\na: "], itertools.cycle([b"x"]))
    ),
    "continue, continue": lambda c: drip(c, itertools.cycle([b"HTTP/1.1 100 Continue\r\n\r\n"])),
}


@pytest.mark.parametrize("what", DRIPS)
def test_a_slow_drip_is_cut_off_when_the_time_is_up(receiver: Start, what: str) -> None:
    began = time.monotonic()
    delivery = send(receiver(DRIPS[what]), LIMIT_S)
    assert time.monotonic() - began < LIMIT_S + SLACK_S
    assert (delivery.status, delivery.error) == (None, "no complete answer within 0.5 s")
    assert LIMIT_S * 1000 - 20 <= delivery.duration_ms <= (LIMIT_S + SLACK_S) * 1000


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 999\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"]
)
def test_a_body_that_drips_does_not_undo_the_status_that_came(receiver: Start, framing: bytes) -> None:
    """The receiver has taken the message; sending it again would be a duplicate."""
    parts = itertools.chain([b"HTTP/1.1 200 OK\r\n" + framing], itertools.cycle([b"x"]))
    delivery = send(receiver(lambda c: drip(c, parts)), LIMIT_S)
    assert (delivery.status, delivery.error) == (200, None)
    assert delivery.duration_ms < (LIMIT_S + SLACK_S) * 1000


def test_only_the_beginning_of_a_huge_body_is_read(receiver: Start) -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 500 X\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"y" * (1 << 20))

    delivery = send(receiver(flood))
    assert delivery.response_head == "y" * 2048
    assert delivery.duration_ms < 4000


def test_what_a_receiver_writes_is_made_printable(receiver: Start) -> None:
    delivery = send(receiver(b"HTTP/1.1 500 X\r\n\r\n<b>\x1b[2J\x00\xff\xe2\x80\xae\nline"))
    assert delivery.response_head.replace("\n", "").isprintable()
    assert "<b>" in delivery.response_head


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"\x00" * 100,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 -1 OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 101 + b"\r\n",
    ],
)
def test_an_answer_that_is_not_http_is_a_failure(receiver: Start, answer: bytes) -> None:
    delivery = send(receiver(answer))
    assert delivery.status is None and delivery.error


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n"]),
)
def test_whatever_a_receiver_says_becomes_a_value(said: bytes, before: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(before + said)
    theirs.shutdown(socket.SHUT_WR)

    def dial(address: str, port: int, left_s: float) -> socket.socket:
        return ours

    sender = Sender(timeout_s=5, allow_private=True, resolve=lambda host, port: ["127.0.0.1"], dial=dial)
    with theirs:
        delivery = sender.send("POST", "http://hooks.example.com/", {}, b"")
        assert theirs.recv(4) == b"POST"
    assert delivery.delivered == (delivery.status is not None and 200 <= delivery.status < 300)
    assert delivery.response_head.replace("\n", "").isprintable() or not delivery.response_head


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"-5\r\nx", b"5\r\nabc", b"ffffffffffffffffff\r\nx"])
def test_a_broken_body_does_not_undo_the_status_either(receiver: Start, chunks: bytes) -> None:
    delivery = send(receiver(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))
    assert (delivery.status, delivery.error) == (200, None)


def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert local().send("POST", f"http://127.0.0.1:{port}/", {}, b"").error == "the connection was refused"


def test_a_resolver_that_hangs_costs_no_more_than_the_time_limit() -> None:
    hang = threading.Event()
    sender = Sender(timeout_s=0.2, resolve=lambda host, port: [str(hang.wait(5))])
    began = time.monotonic()
    delivery = sender.send("POST", "https://hooks.example.com/", {}, b"")
    hang.set()
    assert time.monotonic() - began < SLACK_S
    assert delivery.error == "no complete answer within 0.2 s"


def test_proxies_of_the_environment_are_not_asked(receiver: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, there = receiver(OK), receiver(OK)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert send(there).status == 200
    assert proxy.requests == []


def test_a_key_that_breaks_a_header_is_not_in_the_error(receiver: Start) -> None:
    delivery = local().send("POST", receiver(OK).url, {"Authorization": "Basic c2VjcmV0\r\nX: y"}, b"")
    assert delivery.error == "cannot be sent (ValueError)"


# --- TLS under a pinned address: the name is public, the connection is led to the loopback -------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate for hooks.example.com in one file."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    made += ["-addext", "subjectAltName=DNS:hooks.example.com"]
    made += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


def pinned(there: Receiver, certificate: Path, timeout_s: float = 5.0) -> tuple[Sender, list[str]]:
    dialled: list[str] = []

    def dial(address: str, port: int, left_s: float) -> socket.socket:
        dialled.append(address)
        return socket.create_connection(("127.0.0.1", there.port), timeout=left_s)

    trust = ssl.create_default_context(cafile=str(certificate))
    return Sender(timeout_s=timeout_s, resolve=lambda host, port: ["93.184.216.34"], dial=dial, tls=trust), dialled


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_the_name_is_checked_in_the_certificate_though_an_address_is_dialled(
    receiver: Start, certificate: Path
) -> None:
    there = receiver(OK, tls=serving(certificate))
    sender, dialled = pinned(there, certificate)
    assert sender.post("https://hooks.example.com/x", [SECRET], "msg_1", "{}").status == 200
    assert dialled == ["93.184.216.34"]
    assert b"Host: hooks.example.com\r\n" in there.requests[0]
    delivery = sender.post("https://other.example.com/x", [SECRET], "msg_1", "{}")
    assert delivery.error and delivery.error.startswith("the certificate does not hold")
    assert len(there.requests) == 1


def test_a_certificate_of_nobody_we_trust_is_refused(receiver: Start, certificate: Path) -> None:
    there = receiver(OK, tls=serving(certificate))
    sender = Sender(
        resolve=lambda host, port: ["93.184.216.34"],
        dial=lambda address, port, left_s: socket.create_connection(("127.0.0.1", there.port), timeout=left_s),
    )
    delivery = sender.post("https://hooks.example.com/x", [SECRET], "msg_1", "{}")
    assert delivery.error and delivery.error.startswith("the certificate does not hold")
    assert there.requests == []


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x03\x40\x00"])
def test_a_handshake_that_drips_is_cut_off(receiver: Start, certificate: Path, hello: bytes) -> None:
    there = receiver(
        lambda c: drip(c, itertools.chain([hello], itertools.cycle([b"\x02"]))) if hello else time.sleep(1.2)
    )
    sender, _ = pinned(there, certificate, LIMIT_S)
    there.reads_request = False
    began = time.monotonic()
    delivery = sender.post("https://hooks.example.com/x", [SECRET], "msg_1", "{}")
    assert time.monotonic() - began < LIMIT_S + SLACK_S
    assert delivery.error == "no complete answer within 0.5 s"


def test_plain_http_at_an_https_address_is_a_failure(receiver: Start, certificate: Path) -> None:
    sender, _ = pinned(receiver(OK, reads_request=False), certificate)
    assert sender.post("https://hooks.example.com/x", [SECRET], "msg_1", "{}").error == "no TLS connection"


def test_a_body_that_drips_over_tls_ends_in_time(receiver: Start, certificate: Path) -> None:
    parts = itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.cycle([b"x"]))
    sender, _ = pinned(receiver(lambda c: drip(c, parts), tls=serving(certificate)), certificate, 1.0)
    delivery = sender.post("https://hooks.example.com/x", [SECRET], "msg_1", "{}")
    assert (delivery.status, delivery.error) == (200, None)
    assert delivery.duration_ms < 1000 * (1 + SLACK_S)
