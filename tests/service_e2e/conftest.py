"""`assay serve` as a user starts it, and a receiver of its webhooks. Everything is real."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.stack import Client, Part, assay, free_port

START_S, GRADE_S = 180.0, 400.0  # on a machine that does something else too


def until(true: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {within_s:g} s"
        time.sleep(0.5)


class Inbox:
    """Takes webhooks on loopback and keeps what came."""

    def __init__(self) -> None:
        self.came: list[tuple[Mapping[str, str], bytes]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.came.append((dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Inbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Served:
    """One state folder and the `assay serve` on it."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.state = folder / "state"
        self.port = free_port()
        self.key = ""
        self.environment = {
            "ASSAY_STATE_DIR": str(self.state),
            "ASSAY_API_PORT": str(self.port),
            "ASSAY_WEBHOOK_ALLOW_PRIVATE": "true",
            "ASSAY_SOFT_STOP_S": "20",
            "ASSAY_API_RATE_LIMIT": "100000/minute",  # these tests ask more often than anybody should
            "ASSAY_API_ANONYMOUS_RATE_LIMIT": "100000/minute",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            **(settings or {}),
        }
        self.log = folder / "log"
        self.part = self._part()

    def _part(self) -> Part:
        return assay("serve", ["serve"], self.log, self.environment)

    def start(self) -> None:
        self.log.touch()
        began = len(self.log.read_text())
        self.part = self._part()
        self.part.start()

        def up() -> bool:
            assert self.part.runs, self.part.tail()
            return "assay: serving at" in self.log.read_text()[began:]

        until(up, START_S, "the service")
        if not self.key:
            (self.key,) = re.findall(r"shown this once\): (assay_\w+)", self.log.read_text())

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", self.key, timeout_s=30.0)

    def processes(self) -> list[int]:
        """Everything that runs for this state folder, whoever its parent is."""
        mark = f"ASSAY_STATE_DIR={self.state}".encode()
        socket = str(self.state / "service").encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                belongs = mark in (entry / "environ").read_bytes() or socket in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if belongs and entry.name.isdigit() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """SIGKILL to `assay serve` and to nothing else."""
        os.kill(self.part.pid, signal.SIGKILL)
        assert self.part.process is not None
        self.part.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    """Started once for a module, with its SETTINGS: the first start grades the controls."""
    one = Served(tmp_path_factory.mktemp("served"), getattr(request.module, "SETTINGS", None))
    try:
        one.start()
        yield one
    finally:
        one.part.stop(90)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as one:
        yield one
