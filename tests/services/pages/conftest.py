"""A dashboard over a real store on SQLite, with people in it and a small cohort."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from werkzeug.test import TestResponse

from services.api import create_app
from services.settings import Settings
from services.store import Store, people
from tests.services.pages import seed


class Browser:
    """A client that keeps cookies and fills in forms as the pages give them."""

    def __init__(self, site: Site) -> None:
        self.client = site.app.test_client()

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, **options)

    def post(
        self, path: str, data: dict[str, Any] | None = None, *, form: str = "/account", **options: Any
    ) -> TestResponse:
        """Send a form with the token that the page `form` gives to this browser."""
        return self.client.post(path, data={"csrf": self.token(form), **(data or {})}, **options)

    def token(self, form: str = "/account") -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get(form).text)
        return found[1] if found else ""

    def sign_in(self, role: str) -> Browser:
        response = self.post("/sign-in", {"email": f"{role}@example.org", "password": seed.PASSWORD}, form="/sign-in")
        assert response.status_code == 303, response.text
        return self


class Site:
    """The application, its store and what was seeded."""

    def __init__(self, folder: Path, seeded: seed.Seeded, **settings: Any) -> None:
        self.ahead_us = 0
        given = {
            "state_dir": folder,
            "person_rate_limit": "100000/minute",
            "api_anonymous_rate_limit": "100000/minute",
            "api_metrics_cache_s": 0,
            **settings,
        }
        self.settings = Settings(**given)
        self.url = f"sqlite:///{folder / 'assay.db'}"
        real = Store.open(self.url)
        self.store = Store.open(self.url, clock=lambda: real.now_us() + self.ahead_us)
        self.app = create_app(self.settings, self.store)
        self.seeded = seeded

    def browser(self, role: str | None = None) -> Browser:
        fresh = Browser(self)
        return fresh.sign_in(role) if role else fresh


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Passwords that cost little to check: tests check hundreds."""
    known = people._hasher
    people._hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    yield
    people._hasher = known


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory, quick_passwords: None) -> tuple[Path, seed.Seeded]:
    """A database to be copied: 30 candidates, one flagged, one dead, one not gradable."""
    folder = tmp_path_factory.mktemp("seeded")
    store, made = seed.everything(folder, 30)
    store.close()
    return folder, made


@pytest.fixture
def make_site(tmp_path: Path, seeded: tuple[Path, seed.Seeded]) -> Iterator[Any]:
    made: list[Site] = []

    def make(**settings: Any) -> Site:
        folder = tmp_path / f"site{len(made)}"
        shutil.copytree(seeded[0], folder)
        made.append(Site(folder, seeded[1], **settings))
        return made[-1]

    yield make
    for site in made:
        site.store.close()


@pytest.fixture
def site(make_site: Any) -> Site:
    return make_site()
