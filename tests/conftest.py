"""What the tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from sandbox.rehearsal import RehearsalSandbox

# How long one example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("assay", deadline=None)
hypothesis.settings.load_profile("assay")


@pytest.fixture(scope="session")
def rehearsal() -> Iterator[RehearsalSandbox]:
    """One warm interpreter for all programs of our own; never for strangers' code."""
    with RehearsalSandbox() as sandbox:
        yield sandbox
