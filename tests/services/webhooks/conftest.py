"""A receiver of webhooks on the loopback that behaves as badly as a test wants."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

Script = Callable[[socket.socket], None]


@dataclass
class Receiver:
    """Takes connections, reads one request from each, and lets `script` answer."""

    script: Script
    tls: ssl.SSLContext | None = None
    requests: list[bytes] = field(default_factory=list)
    reads_request: bool = True

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?a=1"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            with contextlib.suppress(OSError), connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        if self.tls:
            with self.tls.wrap_socket(connection, server_side=True) as wrapped:
                self._answer(wrapped)
        else:
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if self.reads_request:
            self.requests.append(_request(connection))
        self.script(connection)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (part := connection.recv(65536)):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while lengths and len(body) < lengths[0] and (part := connection.recv(65536)):
        body += part
    return head + b"\r\n\r\n" + body


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    """Start receivers; all are closed at the end."""
    started: list[Receiver] = []

    def start(script: Script | bytes, **kwargs: object) -> Receiver:
        act = script if callable(script) else (lambda connection: connection.sendall(script))
        started.append(Receiver(act, **kwargs))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.close()
