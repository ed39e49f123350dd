"""Webhooks by the Standard Webhooks spec: signatures, retries, and the one door to receivers.

Theory of operation. A message is signed as `id.timestamp.body` with every live secret of its receiver, so
that secrets rotate without a gap. `Sender` makes one attempt and says what came of it as a value; `decide`
says what that means for the message; nothing here keeps state.

Receivers' addresses come from customers, so the sender is a door into our own network unless it is kept
shut. It resolves a name once, refuses it if *any* of its addresses is not public, and connects to the very
address that it looked at: there is no second resolution that could answer differently. Redirects are not
followed, proxies and other advice of the environment are not taken, and one clock covers resolution,
connection, handshake and answer, however slowly the other side drips.

Signing is our own code because `standardwebhooks` (1.1) fixes the tolerance, signs aware datetimes of other
zones wrongly and raises several kinds of exception for malformed input. Sending is our own because
`requests-hardened` (1.3) looks at a name's first address only and has no total timeout. Tests hold both
against this file.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hashlib
import hmac
import http.client
import ipaddress
import queue
import re
import secrets as randomness
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from importlib import metadata
from types import TracebackType
from typing import Literal
from urllib.parse import quote, urlsplit

import certifi

from services.settings import Settings

# --- signatures --------------------------------------------------------------------------

SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32
_SECRET_RANGE = range(24, 65)
_VERSION = "v1"
# No dot: `id.timestamp.body` could otherwise be cut at another place and mean another message.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,200}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_MAX_SIGNATURES_CHARS = 4096


class VerificationFailed(Exception):
    """A message that is not proven to be from who it says, or not proven to be fresh."""


class InvalidSecret(ValueError):
    """A secret that is not `whsec_` and the base64 of 24 to 64 bytes. Does not repeat it."""


def new_secret() -> str:
    """A fresh secret."""
    return SECRET_PREFIX + base64.b64encode(randomness.token_bytes(_SECRET_BYTES)).decode("ascii")


def key_of(secret: str) -> bytes:
    """The key bytes of a secret.

    Raises:
        InvalidSecret: it is not one.
    """
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if encoded == secret or len(key) not in _SECRET_RANGE:
        raise InvalidSecret("a webhook secret is whsec_ and the base64 of 24 to 64 bytes")
    return key


def sign(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The signature of one message with one secret, as it stands in `webhook-signature`."""
    signed = b"%s.%d.%s" % (message_id.encode("ascii"), timestamp_s, body)
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return f"{_VERSION},{base64.b64encode(digest).decode('ascii')}"


def headers(secrets: Iterable[str], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt, signed with every live secret.

    Args:
        secrets: the live ones; a receiver needs to know only one of them.
        message_id: the same for every attempt; the receiver's idempotency key.
        timestamp_s: UTC seconds of this attempt.
        body: exactly what is posted.
    """
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp_s, body) for secret in secrets),
    }


def verify(
    secrets: Iterable[str], received: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float
) -> str:
    """The id of a message that is signed with one of `secrets` and fresh.

    Whether the id came before is for the caller to know.

    Args:
        secrets: the live ones.
        received: the headers, in any case.
        body: the raw bytes, before any parsing.
        now_s: UTC seconds.
        tolerance_s: how far the message's time may be from `now_s`, either way.

    Raises:
        VerificationFailed: anything else, malformed headers included.
    """
    named = {name.lower(): value for name, value in received.items()}
    message_id, timestamp = named.get("webhook-id", ""), named.get("webhook-timestamp", "")
    signatures = named.get("webhook-signature", "")
    if not (message_id and timestamp and signatures):
        raise VerificationFailed("webhook-id, webhook-timestamp and webhook-signature are needed")
    if not _MESSAGE_ID.fullmatch(message_id):
        raise VerificationFailed("webhook-id has to be at most 200 visible ASCII characters without a dot")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise VerificationFailed("webhook-timestamp has to be whole seconds since 1970")
    if len(signatures) > _MAX_SIGNATURES_CHARS:
        raise VerificationFailed("webhook-signature is too long")
    if not _any_matches(secrets, message_id, int(timestamp), body, signatures):
        raise VerificationFailed("no signature matches the body and a live secret")
    if abs(now_s - int(timestamp)) > tolerance_s:
        raise VerificationFailed(f"webhook-timestamp is more than {tolerance_s:g} s from now")
    return message_id


def _any_matches(secrets: Iterable[str], message_id: str, timestamp_s: int, body: bytes, signatures: str) -> bool:
    """Compare as text, which needs no decoding of what came; all pairs, so that time tells nothing."""
    given = [signature.encode("utf-8", "replace") for signature in signatures.split(" ")]
    wanted = [sign(secret, message_id, timestamp_s, body).encode() for secret in secrets]
    return any([hmac.compare_digest(one, other) for one in wanted for other in given])


# --- one attempt, and what follows from it -------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """What came of one attempt.

    Attributes:
        status: of the answer; None where there was none.
        error: why it failed, in words without secrets or addresses of ours; None where it did not.
        response_head: the beginning of the answer's body, made printable: untrusted text.
        retry_after_s: how long the receiver asked us to wait, uncapped.
    """

    status: int | None
    error: str | None
    duration_ms: int
    response_head: str = ""
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.error is None


@dataclass(frozen=True)
class Schedule:
    """When a message is tried.

    Attributes:
        delays_s: before each attempt, the first included; as many attempts as delays.
        jitter: up to this share is added to a delay, so that messages that failed together do not return together.
        retry_after_max_s: longest wait that a receiver may ask for.
    """

    delays_s: tuple[float, ...]
    jitter: float = 0.2
    retry_after_max_s: float = 86_400.0

    @classmethod
    def of(cls, settings: Settings) -> Schedule:
        """The operator's."""
        return cls(settings.webhook_delays_s(), settings.webhook_jitter, settings.webhook_retry_after_max_s)


@dataclass(frozen=True)
class Decision:
    """What becomes of a message after an attempt; `retry_in_s` is set where it stays pending."""

    state: Literal["delivered", "pending", "dead"]
    retry_in_s: float | None = None
    disable_reason: str | None = None


def decide(delivery: Delivery, attempts: int, schedule: Schedule, draw: Callable[[], float]) -> Decision:
    """What follows from the latest of `attempts` attempts; `draw` gives random numbers from 0 to 1."""
    if delivery.delivered:
        return Decision("delivered")
    if delivery.status == 410:
        return Decision("dead", disable_reason="the receiver answered 410 Gone")
    if attempts >= len(schedule.delays_s):
        return Decision("dead")
    planned = schedule.delays_s[attempts] * (1 + schedule.jitter * draw())
    asked = min(delivery.retry_after_s or 0.0, schedule.retry_after_max_s)
    return Decision("pending", retry_in_s=max(planned, asked))


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """The seconds that a Retry-After header asks for, or None where it makes no sense."""
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now_s)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# --- which addresses are anybody's ---------------------------------------------------------

Resolve = Callable[[str, int], Sequence[str]]
Dial = Callable[[str, int, float], socket.socket]

_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
# Public by the registry, or by an older Python's copy of it, and still not a receiver's.
_CLOSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments; a cloud's metadata service lives here
            "192.88.99.0/24",  # 6to4 relays
            "168.63.129.16/32",  # a cloud's host agent, reachable from its guests only
            "2001::/23",  # Teredo and other protocol assignments
            "2001:db8::/32",
            "2002::/16",  # 6to4: an IPv4 address in disguise
            "3fff::/20",
        ),
    )
)


class UnsafeUrl(ValueError):
    """An address that webhooks are not sent to; says why."""


@dataclass(frozen=True)
class Target:
    """A URL taken apart: `host` in ASCII without brackets, `path` with the query."""

    https: bool
    host: str
    port: int
    path: str


def target(url: str, allow_private: bool = False) -> Target:
    """Where `url` points.

    Raises:
        UnsafeUrl: not https (plain http is taken with `allow_private`), or malformed. What a name
            resolves to is looked at when something is sent, since it can change.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        raise UnsafeUrl("not an address that can be read") from None
    if parts.scheme not in (("https", "http") if allow_private else ("https",)):
        raise UnsafeUrl("webhooks go to https addresses only")
    if not re.fullmatch(r"[0-9a-z._:-]{1,253}", host) or port == 0 or re.search(r"[\s\\]", url):
        raise UnsafeUrl("not a host and port that can be called")
    if parts.username is not None or parts.password is not None:
        raise UnsafeUrl("an address must not hold a user name or password")
    https = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(https, host, port or (443 if https else 80), quote(path, safe="/?%:=&~+!$,;'@()*[]"))


def is_public(address: str) -> bool:
    """Whether an IP address can only be a host on the Internet, by no way round one of ours."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if any(ip in network for network in _CLOSED if network.version == ip.version):
        return False
    # Everything outside 2000::/3 is no host's: loopback, link-local, unique local, mapped and translated IPv4.
    inside = isinstance(ip, ipaddress.IPv4Address) or ip in _IPV6_UNICAST
    return inside and ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _system_resolve(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _system_dial(address: str, port: int, timeout_s: float) -> socket.socket:
    return socket.create_connection((address, port), timeout=timeout_s)  # a number: nothing is resolved


@functools.cache
def _tls() -> ssl.SSLContext:
    """The machine's authorities and, for images that have none, certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


# --- the door ------------------------------------------------------------------------------

_ADDRESSES_TRIED = 4


class Sender:
    """Makes one attempt at a time; thread-safe.

    Args:
        timeout_s: for everything: resolution, connection, handshake, request and answer.
        allow_private: plain http and any address; for development.
        max_response_bytes: how much of an answer's body is read.
        resolve: a name's addresses as text; raises OSError.
        dial: connects to an address that was looked at; raises OSError.
        tls: what certificates are trusted.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 20.0,
        allow_private: bool = False,
        max_response_bytes: int = 2048,
        resolve: Resolve = _system_resolve,
        dial: Dial = _system_dial,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._max_response_bytes = max_response_bytes
        self._resolve = resolve
        self._dial = dial
        self._tls = tls or _tls()
        self._user_agent = f"Assay/{metadata.version('assay')} (webhooks)"

    @classmethod
    def of(cls, settings: Settings) -> Sender:
        """The sender that the operator's settings ask for."""
        return cls(
            timeout_s=settings.webhook_timeout_s,
            allow_private=settings.webhook_allow_private,
            max_response_bytes=settings.webhook_max_response_bytes,
        )

    def post(self, url: str, secrets: Iterable[str], message_id: str, body: str) -> Delivery:
        """Post one signed message; `body` is what the store keeps."""
        data = body.encode()
        return self.send("POST", url, headers(secrets, message_id, int(time.time()), data), data)

    def send(self, method: str, url: str, sent: Mapping[str, str], body: bytes) -> Delivery:
        """Make one request; whatever happens becomes a value."""
        clock = _Clock(self._timeout_s)
        try:
            where = target(url, self._allow_private)
            request = _Request(method, {**sent, "User-Agent": self._user_agent, "Connection": "close"}, body)
            with _Cutoff(self._connect(where, clock), clock) as stream:
                status, head, retry_after = self._exchange(where, stream, request, clock)
        except Exception as error:  # a receiver can go wrong in any way, and must not take the deliverer along
            return Delivery(None, self._words(error), clock.spent_ms())
        return Delivery(status, _complaint(status), clock.spent_ms(), head, retry_after)

    def _connect(self, where: Target, clock: _Clock) -> socket.socket:
        """A connection to the first of the addresses that takes one; its handshake is still to be made."""
        plain = self._dial_any(self._addresses(where, clock), where.port, clock)
        if not where.https:
            return plain
        return self._tls.wrap_socket(plain, server_hostname=where.host, do_handshake_on_connect=False)

    def _dial_any(self, addresses: Sequence[str], port: int, clock: _Clock) -> socket.socket:
        """The addresses share the time, so that one that swallows everything leaves some to the next."""
        for left, address in zip(range(len(addresses), 1, -1), addresses, strict=False):
            with contextlib.suppress(OSError):
                return self._dial(address, port, clock.left_s() / left)
        return self._dial(addresses[-1], port, clock.left_s())

    def _addresses(self, where: Target, clock: _Clock) -> Sequence[str]:
        addresses = _within(clock, lambda: self._resolve(where.host, where.port))
        if not addresses:
            raise socket.gaierror
        if not self._allow_private and not all(map(is_public, addresses)):
            raise UnsafeUrl("the name leads to an address that is not public")
        return addresses[:_ADDRESSES_TRIED]

    def _exchange(
        self, where: Target, stream: socket.socket, request: _Request, clock: _Clock
    ) -> tuple[int, str, float | None]:
        """Status, head of the body and Retry-After of the answer to `request`."""
        stream.settimeout(clock.left_s())
        if isinstance(stream, ssl.SSLSocket):
            stream.do_handshake()
        kind = http.client.HTTPSConnection if where.https else http.client.HTTPConnection
        connection = kind(where.host, where.port)
        connection.auto_open = 0  # it would resolve the name again
        connection.sock = stream
        connection.request(request.method, where.path, request.body, request.headers)
        with connection.getresponse() as response:
            clock.left_s()  # a head that was cut off reads like one that ended
            retry_after = retry_after_s(response.headers.get("Retry-After"), time.time())
            return response.status, self._head(response), retry_after

    def _head(self, response: http.client.HTTPResponse) -> str:
        """The beginning of the body, as far as it comes in time: the status counts, this is for the log."""
        found = b""
        try:
            while len(found) < self._max_response_bytes and (
                part := response.read1(self._max_response_bytes - len(found))
            ):
                found += part
        except (OSError, http.client.HTTPException, ValueError):
            pass
        return "".join(c if c.isprintable() or c == "\n" else " " for c in found.decode("utf-8", "replace"))

    def _words(self, error: Exception) -> str:
        """Why it failed. Messages of other libraries are not repeated: they can hold headers, and so keys."""
        match error:
            case UnsafeUrl():
                return str(error)
            case TimeoutError():
                return f"no complete answer within {self._timeout_s:g} s"
            case socket.gaierror() | UnicodeError():
                return "the name does not resolve"
            case ssl.SSLCertVerificationError():
                return f"the certificate does not hold: {error.verify_message}"
            case ssl.SSLError():
                return "no TLS connection"
            case ConnectionRefusedError():
                return "the connection was refused"
            case OSError():
                return f"the connection failed: {error.strerror or type(error).__name__}"
            case http.client.HTTPException():
                return f"not an answer in HTTP ({type(error).__name__})"
        return f"cannot be sent ({type(error).__name__})"


@dataclass(frozen=True)
class _Request:
    method: str
    headers: Mapping[str, str]
    body: bytes


def _complaint(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return f"answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")


class _Clock:
    """One time limit over many waits."""

    def __init__(self, limit_s: float) -> None:
        self._began = time.monotonic()
        self._limit_s = limit_s

    def left_s(self) -> float:
        """Seconds left; raises TimeoutError where there are none."""
        left = self.at_least_0_s()
        if not left:
            raise TimeoutError
        return left

    def at_least_0_s(self) -> float:
        """Seconds left, 0 where there are none."""
        return max(0.0, self._limit_s - (time.monotonic() - self._began))

    def spent_ms(self) -> int:
        """Milliseconds since the beginning."""
        return round(1000 * (time.monotonic() - self._began))


class _Cutoff:
    """Ends a conversation when its time is up, however slowly the other side drips, and closes it at the end.

    A socket's own timeout begins anew with every byte. Shutting the socket down from another thread wakes
    whoever waits for it; the error that this makes there comes out as TimeoutError.
    """

    def __init__(self, stream: socket.socket, clock: _Clock) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._fired = self._closed = False
        self._timer = threading.Timer(clock.at_least_0_s(), self._cut)
        self._timer.daemon = True

    def __enter__(self) -> socket.socket:
        self._timer.start()
        return self._stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
        self._stream.close()
        if self._fired and error is not None:
            raise TimeoutError from None

    def _cut(self) -> None:
        with self._lock:  # after closing, the descriptor's number may be somebody else's
            if not self._closed:
                self._fired = True
                # Not SSLSocket's own: it would take the TLS layer away from under the reader.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._stream, socket.SHUT_RDWR)


def _within(clock: _Clock, work: Callable[[], Sequence[str]]) -> Sequence[str]:
    """`work()` or TimeoutError; a resolver cannot be told to stop, so it is left behind."""
    box: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put(work())
        except Exception as error:
            box.put(error)

    threading.Thread(target=run, daemon=True, name="webhook-resolver").start()
    try:
        found = box.get(timeout=clock.left_s())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found
