"""What the tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.rehearsal import RehearsalSandbox


@pytest.fixture(scope="session")
def rehearsal() -> Iterator[RehearsalSandbox]:
    """One warm interpreter for all programs of our own; never for strangers' code."""
    with RehearsalSandbox() as sandbox:
        yield sandbox
