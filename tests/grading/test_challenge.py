from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grading.challenge import CHALLENGES_ROOT, Challenge, ChallengeError, catalogue, load_challenge

MANIFEST = (CHALLENGES_ROOT / "spiral" / "manifest.toml").read_text("utf-8")
Load = Callable[[str], object]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a challenge whose manifest has this text."""

    def loading(text: str) -> object:
        (tmp_path / "spiral").mkdir()
        (tmp_path / "spiral" / "manifest.toml").write_text(text, "utf-8")
        return load_challenge("spiral", tmp_path)

    return loading


def edited(old: str, new: str) -> str:
    assert old in MANIFEST
    return MANIFEST.replace(old, new, 1)


def test_the_spiral_is_in_the_catalogue_with_its_eight_bugs() -> None:
    manifest = load_challenge("spiral").manifest

    assert "spiral" in catalogue()
    assert [(bug.number, bug.id) for bug in manifest.bugs] == list(
        enumerate(["softmax", "zero-grad", "loss-leak", "eval", "no-grad", "device", "shuffle", "lr"], start=1)
    )
    assert [manifest.band(fixed).rating for fixed in (0, 8)] == ["No Hire", "Strong Hire"]


def test_the_untouched_manifest_loads_from_elsewhere(load: Load) -> None:
    assert load(MANIFEST)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("slug = ?", r"manifest\.toml: .*line 1"),
        ("", "slug\n  Field required"),
        (edited("number = 2", "number = 3"), "numbered 1, 2, 3"),
        (edited('id = "zero-grad"', 'id = "softmax"'), "bug ids must differ"),
        (edited('id = "zero-grad"', 'id = "../x"'), "should match pattern"),
        (edited("min_fixed = 4", "min_fixed = 5"), "0 rating bands cover 4 mended bugs, not one"),
        (edited("max_fixed = 5", "max_fixed = 6"), "2 rating bands cover 6 mended bugs, not one"),
        (edited("wall_time_s = 120", "wall_time_s = 0"), r"limits\.wall_time_s"),
        (edited("minutes = 45", 'minutes = "soon"'), "minutes"),
        (edited("minutes = 45", "minutes = 45\nhours = 1"), "hours\n  Extra inputs are not permitted"),
        (edited('metric = "validation_accuracy"', 'metric = "beauty"'), r"goal\.metric"),
        (edited("time_limit_minutes = 45", "time_limit_minutes = 0"), r"candidate\.time_limit_minutes"),
        (edited('check_shows = ["loads"', 'check_shows = ["verdicts"'), r"candidate\.check_shows"),
        (edited('result = "receipt"', 'result = "everything"'), r"candidate\.result"),
    ],
)
def test_a_bad_manifest_is_refused_in_words_that_name_the_place(load: Load, text: str, complaint: str) -> None:
    with pytest.raises(ChallengeError, match=complaint) as caught:
        load(text)

    assert "manifest.toml" in str(caught.value)


def test_a_manifest_that_says_nothing_of_candidates_shows_them_little(load: Load) -> None:
    """Older manifests stay valid: no time limit, five checks, no output, no result."""
    begin, end = MANIFEST.index("[candidate]"), MANIFEST.index("[[bugs]]")
    challenge = load(MANIFEST[:begin] + MANIFEST[end:])

    assert isinstance(challenge, Challenge)
    view = challenge.manifest.candidate
    assert (view.time_limit_minutes, view.checks, view.result) == (None, 5, "receipt")
    assert view.check_shows == ("loads", "trains", "accuracy")


def test_an_unknown_challenge_is_answered_with_those_there_are() -> None:
    with pytest.raises(ChallengeError, match=r"no challenge called 'nope'; there are: .*spiral"):
        load_challenge("nope")


@pytest.mark.parametrize("slug", ["../spiral", "spiral/../spiral", "/etc", ".", ""])
def test_a_slug_is_a_name_and_no_path(slug: str) -> None:
    with pytest.raises(ChallengeError):
        load_challenge(slug)


def test_without_challenges_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ChallengeError, match="there are: none"):
        load_challenge("spiral", tmp_path)


def test_the_digest_tells_of_every_file_that_decides(tmp_path: Path) -> None:
    """A report names its grader: another judge is another digest, another brief is not."""
    folder = tmp_path / "spiral"
    folder.mkdir()
    for name in ("manifest.toml", "problem.py", "solution.py", "probes.py", "judge.py", "brief.md"):
        (folder / name).write_bytes((CHALLENGES_ROOT / "spiral" / name).read_bytes())
    seen = {load_challenge("spiral", tmp_path).digest()}
    (folder / "brief.md").write_text("other", "utf-8")
    assert load_challenge("spiral", tmp_path).digest() in seen
    for name in ("problem.py", "solution.py", "probes.py", "judge.py"):
        (folder / name).write_text(f"# {name}", "utf-8")
        seen.add(load_challenge("spiral", tmp_path).digest())

    assert len(seen) == 5


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spiral").mkdir()
    (tmp_path / "spiral" / "manifest.toml").write_bytes(b"slug = '\xff'\n")

    with pytest.raises(ChallengeError, match="utf-8"):
        load_challenge("spiral", tmp_path)
