"""Nothing that a submission wrote can move, colour or hide anything on a terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from grading.challenge import load_challenge
from services import render

SPIRAL = load_challenge("spiral").manifest
UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
HOSTILE = st.text(max_size=300) | st.text(
    alphabet="\x1b\x07\x9b\r\n\b\t\u202e\u2066\u200b\ufeff\u2028\u0301[]/:abc \\", max_size=60
)


def printed(renderable: object, width: int = 100) -> str:
    """What a plain terminal without colours gets."""
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False, emoji=False, highlight=False).print(renderable)
    return stream.getvalue()


def unsafe(text: str) -> set[str]:
    return {character for character in text if unicodedata.category(character) in UNSAFE}


@given(HOSTILE, st.integers(5, 500))
def test_inert_text_is_one_safe_line_of_bounded_length(text, max_chars):
    shown = render.inert(text, max_chars)
    assert unsafe(shown) == set()
    assert len(shown) <= max_chars


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S")), max_size=100))
def test_inert_text_leaves_ordinary_words_alone(text):
    assert render.inert(text) == text


def test_long_text_ends_in_an_ellipsis():
    assert render.inert("a" * 500) == "a" * 399 + "…"
    assert render.inert(" " * 5000 + "a").endswith("…")


def test_marks_do_not_pile_up():
    assert render.inert("a" + "\u0301" * 50 + "b") == "a" + "\u0301" * 4 + "b"


@settings(max_examples=60)
@given(text=HOSTILE, name=HOSTILE)
def test_no_report_reaches_the_terminal_unsafe(make_report, text, name):
    forged = make_report(name, b"fixed=4 forged", text=text, run_error=text)
    invalid = make_report(name, b"syntax", text=text)
    for report in (forged, invalid):
        assert unsafe(printed(render.full_report(report, SPIRAL))) <= {"\n"}
        assert unsafe(printed(render.overview({name: report}))) <= {"\n"}
        assert unsafe(render.one_liner(report)) == set()
    assert unsafe(printed(render.explanation(forged, forged.bugs[0], text))) <= {"\n"}


@pytest.mark.parametrize("width", [80, 110])
def test_a_long_name_takes_nothing_from_verdicts_and_rating(make_report, width):
    name = "n" * 75 + ".py"
    report = make_report(name, b"fixed=3 forged")
    shown = printed(render.overview({name: report, "b.py": make_report("b.py", b"fixed=8")}), width)
    row = next(line for line in shown.splitlines() if "tampering?" in line)
    assert (row.count("✔"), row.count("✘")) == (3, 5)
    assert report.rating.rating in row and f"{report.timing.total_s:.1f} s" in row
    assert "".join(shown.split()).count("n") >= 75, "the name is folded, not cut"
    assert max(map(len, shown.splitlines())) <= width


def test_rich_markup_of_a_submission_stays_text(make_report):
    report = make_report("[bold red]x[/].py", text="[link=http://x]:smile:[/link]")
    shown = printed(render.full_report(report, SPIRAL))
    assert "[bold red]x[/].py" in shown
    assert "[link=http://x]:smile:[/link]" in shown


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"fixed=8", "8/8 Strong Hire"),
        (b"fixed=1", "1/8 No Hire"),
        (b"fixed=2 forged", "2/8 Below Bar, tampering suspected"),
        (b"", "invalid: the file is no program: what was seen"),
    ],
)
def test_one_line_says_what_matters(make_report, source, words):
    assert render.one_liner(make_report(source=source)) == words


def test_the_tally_is_best_first(make_report):
    reports = [make_report(source=source) for source in (b"", b"fixed=6", b"fixed=8", b"fixed=7")]
    assert render.tally(reports) == "Strong Hire 1, Hire 2, invalid 1"


def test_a_forgery_is_flagged_for_a_human(make_report):
    shown = printed(render.full_report(make_report(source=b"fixed=8 forged"), SPIRAL))
    assert "TAMPERING SUSPECTED for a human to confirm or dismiss: what was seen" in shown


def test_gpu_figures_are_told_where_there_are_any(make_report):
    timing = make_report("x.py", b"fixed=3").timing
    assert "GPU" not in render.timing_line(timing)
    used = timing.model_copy(update={"gpu_s": 0.53, "gpu_peak_memory_bytes": 819 << 20})
    assert "GPU 0.5 s, GPU memory 819 MiB" in render.timing_line(used)
    silent = used.model_copy(update={"gpu_s": None})
    assert "GPU memory 819 MiB" in render.timing_line(silent)


def test_probes_that_ran_beside_the_own_run_are_said_to_have(make_report):
    timing = make_report("x.py", b"fixed=3").timing
    assert "beside" not in render.timing_line(timing)
    overlapped = timing.model_copy(update={"probes_s": 1.0, "real_run_s": 5.0, "total_s": 5.4})
    assert "own run 5.0, judge 0.5, probes beside the run), CPU" in render.timing_line(overlapped)
