"""The settings and their documentation cannot drift apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError

from sandbox.spec import Limits
from services.settings import Settings, markdown, rows

DOC = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_document_is_fresh():
    """Mend it with `assay settings --markdown > docs/settings.md`."""
    assert DOC.read_text("utf-8") == markdown()


def test_every_setting_says_what_it_does():
    assert all(row.description.endswith(".") for row in rows())


@pytest.mark.parametrize("limit", dataclasses.fields(Limits), ids=lambda field: field.name)
def test_every_limit_is_a_setting_with_the_same_default(limit):
    assert Settings.model_fields[f"limit_{limit.name}"].default == limit.default


def test_only_limits_that_were_set_are_chosen(monkeypatch):
    monkeypatch.setenv("ASSAY_LIMIT_PIDS", "12")
    assert Settings().chosen_limits() == {"pids": 12}


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().jobs = 3


def test_the_state_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Settings().state_dir == tmp_path / "assay"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert Settings().state_dir == Path.home() / ".local" / "state" / "assay"
