"""A batch keeps what it graded, whatever happens on the way."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import threading
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading.verdict import Report
from sandbox.spec import SandboxUnavailable
from services import batch
from services.batch import Grader, Results, ResultsError, Stop, parse_results, results_json, run_batch
from services.intake import Item

BATCH = ("batch", "in", "--challenge", "spiral")


def results(desk, name: str = "results.json") -> dict[str, Report]:
    return parse_results((desk.folder / name).read_bytes())


def fixed(desk) -> dict[str, int | None]:
    return {name: r.rating.fixed if r.rating else None for name, r in results(desk).items()}


class TestResults:
    def test_each_name_has_its_report(self, desk):
        desk.write("in/a.py", b"fixed=1")
        desk.write("in/sub/b.py", b"fixed=8")
        result = desk(*BATCH)
        assert result.exit_code == 0
        assert fixed(desk) == {"a.py": 1, "b.py": 8}
        assert "2 of 2 have a report: Strong Hire 1, No Hire 1" in result.stdout
        assert sorted(os.listdir(desk.folder)) == ["in", "results.json"]

    def test_one_bad_file_never_stops_the_rest(self, desk):
        desk.write("in/a.py", b"fixed=1")
        desk.write("in/bad.py", b"syntax")
        desk.write("in/empty.py", b"")
        desk.write("in/huge.py", b"#" * (1 << 20) + b"#")
        (desk.folder / "in" / "link.py").symlink_to("a.py")
        os.mkfifo(desk.folder / "in" / "pipe.py")
        desk.write("in/z.py", b"fixed=2")
        result = desk(*BATCH)
        assert result.exit_code == 0
        invalid = {"bad.py", "empty.py", "huge.py", "link.py", "pipe.py"}
        assert fixed(desk) == {"a.py": 1, "z.py": 2} | dict.fromkeys(invalid)
        reasons = {name: r.invalid_reason for name, r in results(desk).items() if name in invalid}
        assert "symbolic link" in reasons["link.py"]
        assert "too large" in reasons["huge.py"]

    def test_identical_bytes_are_graded_once_each(self, desk):
        for name in ("a", "b", "c"):
            desk.write(f"in/{name}.py")
        desk(*BATCH)
        assert desk.graded_names() == ["a.py", "b.py", "c.py"]

    def test_a_refused_archive_leaves_the_rest_and_is_3(self, desk):
        desk.write("in/a.py")
        with zipfile.ZipFile(desk.folder / "evil.zip", "w") as archive:
            archive.writestr("../evil.py", b"x")
        result = desk(*BATCH, "evil.zip")
        assert result.exit_code == 3
        assert "refused evil.zip: the member '../evil.py' points outside" in result.stderr
        assert list(results(desk)) == ["a.py"]

    @pytest.mark.parametrize("paths", [("nowhere",), ("in", "nowhere.py"), ("empty",)])
    def test_paths_that_hold_nothing_are_bad_usage(self, desk, paths):
        desk.write("in/a.py")
        (desk.folder / "empty").mkdir()
        assert desk("batch", *paths, "--challenge", "spiral").exit_code == 2
        assert not (desk.folder / "results.json").exists()

    def test_jobs_run_at_the_same_time(self, desk):
        for n in range(4):
            desk.write(f"in/{n}.py")
        together = threading.Barrier(4, timeout=10)
        desk.backend.on_grade = lambda submission: together.wait()
        assert desk(*BATCH, "--jobs", "4").exit_code == 0

    def test_results_are_ascii_json(self, desk):
        desk.write("in/ü\u202e.py")
        desk.backend.text = "\x1b[31m\u202e"
        desk(*BATCH)
        data = (desk.folder / "results.json").read_bytes()
        assert data.isascii()
        assert list(json.loads(data)) == ["ü\u202e.py"]

    def test_results_get_the_rights_that_the_umask_allows(self, desk):
        desk.write("in/a.py")
        before = os.umask(0o027)
        try:
            desk(*BATCH)
        finally:
            os.umask(before)
        assert stat.S_IMODE((desk.folder / "results.json").stat().st_mode) == 0o640


class TestResume:
    def test_what_was_graded_is_not_graded_again(self, desk):
        desk.write("in/a.py")
        desk(*BATCH)
        desk.write("in/b.py")
        desk.graded_names()
        result = desk(*BATCH)
        assert desk.graded_names() == ["b.py"]
        assert "1 of them from an earlier batch, not graded again" in result.stdout
        assert sorted(results(desk)) == ["a.py", "b.py"]

    @pytest.mark.parametrize("change", ["bytes", "grader", "sandbox", "fresh"])
    def test_what_would_come_out_otherwise_is_graded_again(self, desk, change):
        desk.write("in/a.py", b"fixed=1")
        desk(*BATCH)
        desk.graded_names()
        options: tuple[str, ...] = ()
        if change == "bytes":
            desk.write("in/a.py", b"fixed=2")
        elif change == "grader":
            desk.backend.grader = "grader-2"
        elif change == "sandbox":
            options = ("--sandbox", "process")
        else:
            options = ("--fresh",)
        assert desk(*BATCH, *options).exit_code == 0
        assert desk.graded_names() == ["a.py"]
        assert fixed(desk) == {"a.py": 2 if change == "bytes" else 1}

    def test_an_invalid_file_is_reused_too(self, desk):
        desk.write("in/a.py", b"syntax")
        desk(*BATCH)
        desk.graded_names()
        desk(*BATCH)
        assert desk.graded_names() == []

    def test_a_name_that_grew_longer_keeps_its_report(self, desk):
        desk.write("in/anna/main.py", b"fixed=1")
        desk(*BATCH)
        desk.write("in/bert/main.py", b"fixed=2")
        desk.graded_names()
        desk(*BATCH)
        assert desk.graded_names() == ["bert/main.py"]
        assert fixed(desk) == {"anna/main.py": 1, "bert/main.py": 2}
        assert results(desk)["anna/main.py"].submission_name == "anna/main.py"

    def test_a_copy_under_another_name_takes_nobodys_report_away(self, desk):
        desk.write("mon/alice.py", b"fixed=1")
        desk.write("tue/bob.py", b"fixed=1")
        desk("batch", "mon", "--challenge", "spiral")
        desk.graded_names()
        result = desk("batch", "tue", "--challenge", "spiral")
        assert desk.graded_names() == []
        assert fixed(desk) == {"alice.py": 1, "bob.py": 1}
        assert {name: report.submission_name for name, report in results(desk).items()} == {
            "alice.py": "alice.py",
            "bob.py": "bob.py",
        }
        assert "beside 1 earlier reports that were kept" in result.stdout

    def test_a_file_under_a_longer_name_is_found_before_a_copy(self, desk):
        for name in ("mon/copy.py", "mon/main.py"):
            desk.write(name, b"fixed=1")
        desk("batch", "mon", "--challenge", "spiral")
        for name in ("tue/anna/main.py", "tue/bert/main.py"):
            desk.write(name, b"fixed=1")
        desk("batch", "tue", "--challenge", "spiral")
        assert sorted(results(desk)) == ["anna/main.py", "bert/main.py", "copy.py"]

    def test_reports_of_other_files_are_kept_and_counted(self, desk):
        desk.write("a.py", b"fixed=1")
        desk.write("b.py", b"fixed=2")
        desk("batch", "a.py", "--challenge", "spiral")
        result = desk("batch", "b.py", "--challenge", "spiral")
        assert fixed(desk) == {"a.py": 1, "b.py": 2}
        assert "beside 1 earlier reports that were kept" in result.stdout

    def test_fresh_forgets_them(self, desk):
        desk.write("a.py")
        desk.write("b.py")
        desk("batch", "a.py", "--challenge", "spiral")
        desk("batch", "b.py", "--challenge", "spiral", "--fresh")
        assert list(results(desk)) == ["b.py"]

    def test_fresh_that_grades_nothing_leaves_the_old_results(self, desk):
        desk.write("in/a.py")
        desk(*BATCH)
        before = (desk.folder / "results.json").read_bytes()
        desk.backend.on_prepare = raiser(SandboxUnavailable("no image"))
        assert desk(*BATCH, "--fresh").exit_code == 4
        assert (desk.folder / "results.json").read_bytes() == before
        assert sorted(os.listdir(desk.folder)) == ["in", "results.json"]


class TestInterrupts:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_batch_goes_on_where_it_stopped(self, desk, number):
        for n in range(6):
            desk.write(f"in/{n}.py")

        def interrupt_at_the_third(submission):
            if len(desk.backend.graded) == 3:
                os.kill(os.getpid(), number)
                time.sleep(0.3)  # the grading under way is finished and kept

        desk.backend.on_grade = interrupt_at_the_third
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        result = desk(*BATCH)
        assert result.exit_code == 130
        assert "the same command goes on from here" in result.stderr
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        done = set(desk.graded_names())
        assert len(done) == 3
        assert set(results(desk)) == done
        assert desk(*BATCH).exit_code == 0
        assert len(desk.graded_names()) == 3
        assert len(results(desk)) == 6

    def test_an_interrupted_fresh_batch_keeps_what_it_did_not_reach(self, desk):
        for name in "abc":
            desk.write(f"in/{name}.py", b"fixed=1")
        desk.write("other.py", b"fixed=5")
        desk(*BATCH, "other.py")
        desk.write("in/a.py", b"fixed=2")

        def interrupt(submission):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the main thread takes it meanwhile

        desk.backend.on_grade = interrupt
        result = desk(*BATCH, "--fresh", "--jobs", "1")
        assert result.exit_code == 130
        assert fixed(desk) == {"a.py": 2, "b.py": 1, "c.py": 1, "other.py": 5}
        assert "beside 3 earlier reports that were kept" in result.stdout
        assert "Run it again without --fresh to go on" in result.stderr
        assert "the same command goes on" not in result.stderr

    def test_a_second_interrupt_does_not_wait(self, desk):
        desk.write("in/a.py")
        release = threading.Event()

        def interrupt_twice(submission):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
            release.wait(20)

        desk.backend.on_grade = interrupt_twice
        begun = time.monotonic()
        result = desk(*BATCH)
        release.set()
        assert result.exit_code == 130
        assert time.monotonic() - begun < 5

    def test_the_grace_ends(self, desk):
        desk.write("in/a.py")
        desk.backend.settings = desk.backend.settings.model_copy(update={"interrupt_grace_s": 0.2})
        release = threading.Event()

        def hang(submission):
            os.kill(os.getpid(), signal.SIGTERM)
            release.wait(20)

        desk.backend.on_grade = hang
        begun = time.monotonic()
        assert desk(*BATCH).exit_code == 130
        release.set()
        assert time.monotonic() - begun < 5

    @pytest.mark.parametrize("torn", [b"", b'{"name": "b.py", "rep'])
    def test_a_batch_that_was_killed_leaves_its_journal(self, desk, make_report, torn):
        killed = Results(desk.folder / "results.json")
        desk.write("in/a.py", b"fixed=4")
        killed.record("a.py", make_report("a.py", b"fixed=4"))
        killed.__exit__()
        journal = desk.folder / "results.json.partial.jsonl"
        journal.write_bytes(journal.read_bytes() + torn)
        desk.write("in/b.py", b"fixed=5")
        assert desk(*BATCH).exit_code == 0
        assert desk.graded_names() == ["b.py"]
        assert fixed(desk) == {"a.py": 4, "b.py": 5}
        assert not journal.exists()

    def test_a_killed_fresh_batch_stays_fresh(self, desk, make_report):
        desk.write("in/a.py")
        desk.write("in/b.py")
        desk(*BATCH)
        desk.graded_names()
        killed = Results(desk.folder / "results.json", fresh=True)
        killed.record("a.py", make_report("a.py"))
        killed.__exit__()
        desk(*BATCH)
        assert desk.graded_names() == ["b.py"]


class TestForeignFiles:
    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "my-app"}', b"\xff\xfe"])
    @pytest.mark.parametrize("option", ["--resume", "--fresh"])
    def test_a_file_that_is_no_results_file_is_left_as_it_is(self, desk, content, option):
        desk.write("in/a.py")
        path = desk.write("results.json", content)
        result = desk(*BATCH, option)
        assert result.exit_code == 2
        assert "left as it is" in result.stderr
        assert path.read_bytes() == content
        assert desk.graded_names() == []

    @pytest.mark.parametrize(
        "content",
        [b"hello\n", b'{"assay_batch": 9}\n', b'{"assay_batch": 1, "fresh": false}\n{}\n', b"[" * 100_000 + b"\n"],
        ids=["text", "another version", "no entry", "too deep"],
    )
    def test_a_journal_that_is_none_is_left_as_it_is(self, desk, content):
        desk.write("in/a.py")
        path = desk.write("results.json.partial.jsonl", content)
        result = desk(*BATCH)
        assert result.exit_code == 2
        assert "it is damaged" in result.stderr
        assert path.read_bytes() == content

    def test_out_that_is_a_folder_or_a_link_is_refused(self, desk):
        desk.write("in/a.py")
        (desk.folder / "link.json").symlink_to("elsewhere.json")
        for out in ("in", "link.json", "no/such/folder.json", ".", ""):
            assert desk(*BATCH, "--out", out).exit_code == 2
        assert desk.graded_names() == []

    def test_two_batches_never_share_a_results_file(self, desk):
        desk.write("in/a.py")
        with Results(desk.folder / "results.json"):
            result = desk(*BATCH)
        assert result.exit_code == 2
        assert "another batch is writing" in result.stderr
        assert desk(*BATCH).exit_code == 0

    def test_a_lock_on_a_journal_that_was_just_removed_counts_as_busy(self, tmp_path, monkeypatch):
        out = tmp_path / "results.json"
        monkeypatch.setattr(fcntl, "flock", lambda *_: (tmp_path / "results.json.partial.jsonl").unlink())
        with pytest.raises(ResultsError, match="another batch"):
            Results(out)


class TestPassedOver:
    def test_what_is_not_taken_is_told_and_changes_no_exit_code(self, desk):
        desk.write("in/a.py")
        desk.write("in/more\x1b.zip")
        with zipfile.ZipFile(desk.folder / "in.zip", "w") as archive:
            archive.writestr("b.py", b"x")
            archive.writestr("program.txt", b"x")
        result = desk(*BATCH, "in.zip")
        assert result.exit_code == 0
        assert "assay: passed over in/more\\x1b.zip: zips in folders are not opened" in result.stderr
        assert "assay: passed over program.txt: not a .py file" in result.stderr

    def test_only_the_first_twenty_are_named(self, desk):
        for n in range(23):
            desk.write(f"in/{n}.zip")
        result = desk(*BATCH)
        assert result.exit_code == 2  # no .py file found
        assert result.stderr.count("zips in folders") == 20
        assert "assay: passed over 3 more" in result.stderr


class TestFailures:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_load_that_fails_ends_no_thread(self, tmp_path, make_report, jobs):
        broken = [Item(f"{n}.py", raiser(RuntimeError("lost"))) for n in range(jobs)]
        with Results(tmp_path / "r.json") as opened:
            outcome = run_batch(
                [*broken, Item("a.py", lambda: b"fixed=1")],
                lambda submission: make_report(submission.name, submission.source),
                opened,
                Grader("spiral", "c", "g", "docker"),
                jobs=jobs,
                stop=Stop(1.0),
            )
        assert not outcome.interrupted
        assert {one.error for one in outcome.failures} == {"RuntimeError: lost"}
        assert list(outcome.reports) == ["a.py"]

    def test_a_sandbox_failure_is_retried_once(self, desk):
        desk.write("in/a.py", b"fixed=3")

        def fail_at_first(submission):
            if len(desk.backend.graded) == 1:
                raise SandboxUnavailable("lost")

        desk.backend.on_grade = fail_at_first
        assert desk(*BATCH).exit_code == 0
        assert fixed(desk) == {"a.py": 3}

    @pytest.mark.parametrize("error", [SandboxUnavailable("lost"), RuntimeError("a\x1bbug")])
    def test_a_file_that_keeps_failing_is_left_out_for_the_next_batch(self, desk, error):
        for name in "abc":
            desk.write(f"in/{name}.py")

        def fail_on_b(submission):
            if submission.name == "b.py":
                raise error

        desk.backend.on_grade = fail_on_b
        result = desk(*BATCH)
        assert result.exit_code == 4
        assert "no report for b.py" in result.stderr
        assert "\x1b" not in result.stderr
        assert sorted(results(desk)) == ["a.py", "c.py"]
        desk.graded_names()
        desk.backend.on_grade = lambda submission: None
        assert desk(*BATCH).exit_code == 0
        assert desk.graded_names() == ["b.py"]

    def test_a_failure_drops_the_report_on_the_file_as_it_was(self, desk):
        desk.write("in/a.py", b"fixed=1")
        desk(*BATCH)
        desk.write("in/a.py", b"fixed=2")
        desk.backend.on_grade = raiser(SandboxUnavailable("lost"))
        assert desk(*BATCH).exit_code == 4
        assert fixed(desk) == {}

    def test_a_report_that_could_not_be_read_back_is_a_failure(self, desk, make_report):
        broken = make_report().model_copy(update={"graded_at": None})
        answer = batch._attempt("a.py", lambda: broken)
        assert answer.report is None
        assert "graded_at" in answer.error

    def test_a_full_disk_ends_the_batch_in_two_lines(self, desk, monkeypatch):
        desk.write("in/a.py")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        result = desk(*BATCH)
        assert result.exit_code == 4
        assert "No space left" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (desk.folder / "results.json").exists()


def raiser(error):
    def act(*_):
        raise error

    return act


@given(st.dictionaries(st.text(max_size=8).filter(lambda t: t.isprintable()), st.integers(0, 8), max_size=6))
def test_results_files_round_trip(make_report, marks):
    reports = {name: make_report(name, b"fixed=%d" % mark) for name, mark in marks.items()}
    assert parse_results(results_json(reports)) == reports


def test_run_batch_needs_no_command_line(tmp_path, make_report):
    items = [Item("a.py", lambda: b"fixed=1"), Item("b.py", lambda: b"fixed=2")]
    grader = Grader("spiral", "c", "g", "docker")
    seen = []
    with Results(tmp_path / "r.json") as opened:
        outcome = run_batch(
            items,
            lambda submission: make_report(submission.name, submission.source),
            opened,
            grader,
            jobs=2,
            stop=Stop(1.0),
            on_done=seen.append,
        )
    assert not outcome.interrupted
    assert {one.name for one in seen} == {"a.py", "b.py"}
    assert parse_results(Path(tmp_path / "r.json").read_bytes()) == outcome.reports
