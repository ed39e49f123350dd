"""A PostgreSQL of the tests' own, for whoever imports `postgres_server` or the fixtures here.

It listens on a unix socket in a temporary folder and ends with the tests, killed ones too. Where its
programs are missing the tests fail: infra/dev/services.sh installs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_USER = "postgres"
_CLUSTER = ("--username", _USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
_START_S, _STOP_S = 30, 10


@dataclasses.dataclass
class PostgresServer:
    """A running cluster. `process` may be stopped, continued or killed by tests of faults; then `restart`."""

    folder: Path
    programs: Path
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def url(self, database: str = "postgres") -> str:
        """How clients name it."""
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    def create_database(self, template: str = "template1") -> str:
        """A new database as a copy of `template`, to which nobody may be connected; its name."""
        name = f"assay_{next(self._numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """Remove it, whoever is connected."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def restart(self) -> None:
        """End it at once, all connections with it, and start it again: it has to recover from its log."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(_STOP_S)
        self.process = _start(self.programs, self.folder)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Make a cluster, run it, and remove it."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="assay-pg-"))
    try:
        if os.geteuid() == 0:
            account = pwd.getpwnam(_USER)
            os.chown(folder, account.pw_uid, account.pw_gid)
        made = subprocess.run(
            [*_as_nobody_special(), programs / "initdb", "--pgdata", folder / "data", *_CLUSTER],
            capture_output=True,
            text=True,
            cwd="/",
        )
        if made.returncode:
            pytest.fail(f"initdb: {made.stderr}")
        server = PostgresServer(folder, programs, _start(programs, folder))
        try:
            yield server
        finally:
            server.process.send_signal(signal.SIGCONT)  # tests of faults may have stopped it
            server.process.send_signal(signal.SIGINT)
            try:
                server.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    places = [Path(found).resolve().parent for found in (shutil.which("initdb"),) if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "postgres").exists():
            return place
    pytest.fail("PostgreSQL is not installed; infra/dev/services.sh does that")


def _as_nobody_special() -> list[str]:
    """PostgreSQL refuses to run as root. The server ends when the test process does, however that ends."""
    if os.geteuid() != 0:
        return ["setpriv", "--pdeathsig", "INT"]
    return ["setpriv", "--reuid", _USER, "--regid", _USER, "--init-groups", "--pdeathsig", "INT"]


def _start(programs: Path, folder: Path) -> subprocess.Popen[bytes]:
    options = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off", "max_connections": "60"}
    command = [*_as_nobody_special(), str(programs / "postgres"), "-D", str(folder / "data")]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")
    end = time.monotonic() + _START_S
    while True:
        try:
            psycopg.connect(f"postgresql://{_USER}@/postgres?host={folder}").close()
            return process
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                pytest.fail(f"PostgreSQL does not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of the session."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A database of the test's own, empty."""
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.drop_database(name)
