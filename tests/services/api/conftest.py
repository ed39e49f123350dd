"""An API over a real store on SQLite; what a worker would do is done by hand."""

from __future__ import annotations

import io
import logging
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from werkzeug.test import TestResponse

from services.api import create_app
from services.logs import configure
from services.settings import Settings
from services.store import Scope, Store
from tests.services.conftest import a_report

PROGRAM = "fixed=3\nprint('trained')\n"


class Api:
    """A client of the API with a key for everything, and the hands of a worker."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.database = folder / "assay.db"
        self.ahead_us = 0
        # The limits are tried where they are the subject.
        given = {
            "state_dir": folder,
            "api_rate_limit": "100000/minute",
            "sse_poll_s": 0.02,
            "api_metrics_cache_s": 0,
            **settings,
        }
        self.settings = Settings(**given)
        self.url = f"sqlite:///{self.database}"
        self.store = Store.open(self.url, clock=lambda: time.time_ns() // 1000 + self.ahead_us)
        self.app = create_app(self.settings, self.store)
        self.client = self.app.test_client()
        self.everything = self.key("submit", "read", "manage")

    def key(self, *scopes: Scope, expires_us: int | None = None) -> str:
        return self.store.create_key("test", scopes, expires_us)[1]

    def __call__(self, method: str, path: str, *, key: str | None = "", **request: Any) -> TestResponse:
        """One request under /v1; `key` None sends none, the default is one with every scope."""
        headers = dict(request.pop("headers", {}))
        if key is not None:
            headers.setdefault("Authorization", f"Bearer {key or self.everything}")
        address = path if path.startswith("//") else f"/v1{path}"
        path = address.replace("//", "/", 1)
        response = self.client.open(path, method=method, headers=headers, buffered=True, **request)
        response.request.environ["wsgi.input"].close()  # a temporary file of the client's where it is long
        return response

    def submit(self, source: str = PROGRAM, **fields: Any) -> str:
        headers = fields.pop("headers", {})
        body = {"challenge": "spiral", "source": source, **fields}
        response = self("POST", "/submissions", json=body, headers=headers)
        assert response.status_code == 202, response.text
        return response.json["id"]

    def cohort(self, count: int = 3, **fields: Any) -> str:
        submissions = [
            {"source": f"fixed={n % 9}\n", "file_name": f"c{n}.py", "candidate": {"external_id": f"cand-{n}"}}
            for n in range(count)
        ]
        body = {"name": "Spring", "challenge": "spiral", "submissions": submissions, **fields}
        response = self("POST", "/cohorts", json=body)
        assert response.status_code == 202, response.text
        return response.json["id"]

    def grade(self, submission_id: str, **report: Any) -> None:
        claim = self.store.claim(submission_id, "worker", 60)
        assert claim is not None
        assert self.store.finish(claim, a_report(claim.file_name, claim.source, **report))

    def kill(self, submission_id: str) -> None:
        """Let the infrastructure fail until it is dead."""
        for _ in range(20):
            claim = self.store.claim(submission_id, "worker", 60)
            assert claim is not None
            if self.store.release(claim, "the Engine is gone", 0) == "dead":
                return
        raise AssertionError("it does not die")


@pytest.fixture(autouse=True)
def logs() -> Iterator[io.StringIO]:
    """What the service logs meanwhile, as an operator would have it."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    configure("debug", stream)
    yield stream
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with today's schema, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "assay.db"
    Store.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def make_api(tmp_path: Path, migrated: Path) -> Iterator[Any]:
    """Makes an `Api` with settings of its own."""
    made: list[Api] = []

    def make(**settings: Any) -> Api:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        for file in migrated.parent.iterdir():
            shutil.copy(file, folder)
        made.append(Api(folder, **settings))
        return made[-1]

    yield make
    for api in made:
        api.store.close()


@pytest.fixture
def api(make_api: Any) -> Api:
    return make_api()


def a_zip(members: dict[str, bytes | str]) -> io.BytesIO:
    """A zip in memory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    file.seek(0)
    return file


def problem(response: TestResponse, status: int, kind: str = "") -> dict[str, Any]:
    """The problem of a response, which has to be one."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    body = response.json
    assert body["status"] == status and body["title"] and body["detail"] and body["instance"]
    assert body["type"] == (f"urn:assay:problem:{kind}" if kind else body["type"])
    return body
