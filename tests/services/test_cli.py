"""What a user of the command line sees, and with which exit code."""

from __future__ import annotations

import json
import os
import stat
from types import SimpleNamespace

import jsonschema
import pytest
from click.testing import CliRunner

from grading.controls import ControlsFailed
from grading.guide import as_markdown, load_guide
from grading.verdict import Report
from grading.verify import VerifyFailure
from sandbox.spec import Job, Limits, RunResult, RunTiming, SandboxUnavailable, Step
from services.cli import LimitedSandbox, main
from services.settings import Settings

GRADE = ("grade", "a.py", "--challenge", "spiral")


class TestGrade:
    def test_a_graded_file_is_printed_bug_by_bug(self, desk):
        desk.write("a.py", b"fixed=6")
        result = desk(*GRADE)
        assert result.exit_code == 0
        assert result.stderr == ""
        assert result.stdout.count("✔ fixed") == 6
        assert result.stdout.count("✘ not fixed") == 2
        assert "Hire (6 of 8)" in result.stdout
        assert "✔ reached in epoch 3, 97.0 % after the last" in result.stdout
        assert "docker sandbox" in result.stdout
        assert "CPU 0.5 s, peak 256 MiB" in result.stdout

    def test_json_is_alone_on_stdout_and_follows_the_schema(self, desk):
        desk.write("a.py")
        result = desk(*GRADE, "--json", "--sandbox", "process")
        schema = json.loads(desk("schema", "report").stdout)
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(json.loads(result.stdout), schema, cls=jsonschema.Draft202012Validator)
        assert "for trying out only" in result.stderr

    def test_json_is_ascii_whatever_a_submission_wrote(self, desk):
        desk.write("a.py")
        desk.backend.text = "\x1b[2J\u202e\x9b31m\u2028end"
        result = desk(*GRADE, "--json")
        assert result.stdout.isascii()
        assert "\x1b" not in result.stdout
        assert json.loads(result.stdout)["bugs"][0]["evidence"]["seen"] == desk.backend.text

    def test_out_writes_the_report_as_well(self, desk):
        desk.write("a.py")
        assert desk(*GRADE, "--out", "report.json").exit_code == 0
        assert Report.model_validate_json((desk.folder / "report.json").read_bytes()).submission_name == "a.py"

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda path: path.symlink_to("elsewhere.json"), "not a regular file"),
            (lambda path: os.mknod(path, stat.S_IFSOCK), "not a regular file"),
            (lambda path: path.hardlink_to(path.parent / "a.py"), "the submission itself"),
        ],
        ids=["link", "socket", "submission"],
    )
    def test_out_takes_the_place_of_nothing_but_a_report(self, desk, make, words):
        desk.write("a.py")
        make(desk.folder / "out")
        before = os.lstat(desk.folder / "out")
        result = desk(*GRADE, "--out", "out")
        assert result.exit_code == 2
        assert words in result.stderr
        assert "choose another --out" in result.stderr.casefold()
        assert os.lstat(desk.folder / "out").st_ino == before.st_ino
        assert desk.graded_names() == []

    @pytest.mark.parametrize("out", ["a.py", "./a.py", ""])
    def test_out_is_never_the_submission_or_a_folder(self, desk, out):
        path = desk.write("a.py", b"fixed=1")
        assert desk(*GRADE, "--out", out).exit_code == 2
        assert path.read_bytes() == b"fixed=1"

    def test_an_earlier_report_is_replaced(self, desk):
        desk.write("a.py")
        desk.write("report.json", b"old")
        assert desk(*GRADE, "--out", "report.json").exit_code == 0
        Report.model_validate_json((desk.folder / "report.json").read_bytes())

    def test_out_that_is_a_pipe_is_written_into(self, desk):
        desk.write("a.py")
        os.mkfifo(desk.folder / "pipe")
        reader = os.open(desk.folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert desk(*GRADE, "--out", "pipe").exit_code == 0
            assert Report.model_validate_json(os.read(reader, 1 << 20)).submission_name == "a.py"
        finally:
            os.close(reader)
        assert (desk.folder / "pipe").is_fifo()

    def test_out_may_be_a_device(self, desk):
        desk.write("a.py")
        (desk.folder / "null").symlink_to("/dev/null")  # were it replaced, it would be this link
        assert desk(*GRADE, "--out", "null").exit_code == 0
        assert (desk.folder / "null").is_char_device()

    def test_the_secret_seed_is_handed_on(self, desk):
        desk.write("a.py")
        desk(*GRADE, "--secret-seed", "00ff")
        assert desk.backend.seeds == ["00ff"]

    @pytest.mark.parametrize(
        "arguments",
        [
            ("grade", "a.py", "--challenge", "unheard-of"),
            ("grade", "missing.py", "--challenge", "spiral"),
            ("grade", "a.py"),
            (*GRADE, "--secret-seed", "xyz"),
            (*GRADE, "--out", "no/such/folder/report.json"),
            (*GRADE, "--sandbox", "bucket"),
            ("unknown-command",),
        ],
    )
    def test_bad_usage_is_2(self, desk, arguments):
        desk.write("a.py")
        result = desk(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert desk.graded_names() == []

    def test_an_invalid_file_is_3_and_still_reported(self, desk):
        desk.write("a.py", b"syntax error")
        result = desk(*GRADE)
        assert result.exit_code == 3
        assert "Invalid  the file is no program" in result.stdout
        assert json.loads(desk(*GRADE, "--json").stdout)["outcome"] == "invalid"

    def test_a_file_that_is_too_large_is_an_invalid_report(self, desk):
        with desk.write("a.py").open("wb") as file:
            file.truncate(10 << 20)
        result = desk(*GRADE, "--json")
        report = json.loads(result.stdout)
        assert result.exit_code == 3
        assert report["outcome"] == "invalid"
        assert "10,485,760 bytes" in report["invalid_reason"]
        assert report["submission_bytes"] == 10 << 20
        assert report["submission_sha256"] == ""

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda path: path.mkdir(), "a folder"),
            (lambda path: path.symlink_to("elsewhere.py"), "a symbolic link"),
            (lambda path: path.symlink_to("/dev/zero"), "a symbolic link"),
            (lambda path: os.mkfifo(path), "a device, pipe or socket"),
        ],
        ids=["folder", "link to nowhere", "link to a device", "fifo"],
    )
    def test_what_is_no_file_is_3_and_never_opened(self, desk, make, words):
        make(desk.folder / "a.py")
        result = desk(*GRADE)
        assert result.exit_code == 3
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 2

    def test_a_name_that_no_disk_can_hold_is_3(self, desk):
        result = desk("grade", "a" * 300 + ".py", "--challenge", "spiral")
        assert result.exit_code == 3
        assert "is unreadable: File name too long" in result.stderr

    def test_a_device_is_3(self, desk):
        assert desk("grade", "/dev/zero", "--challenge", "spiral").exit_code == 3

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (SandboxUnavailable("the container was lost"), "sandbox is unavailable: the container was lost"),
            (ControlsFailed("the solution reads wrong"), "no fault of the submission"),
            (RuntimeError("oops\x1b[31m"), "internal error: RuntimeError: oops\\x1b[31m"),
        ],
    )
    def test_infrastructure_is_4_in_two_lines(self, desk, error, words):
        desk.write("a.py")
        desk.backend.on_grade = raiser(error)
        result = desk(*GRADE)
        assert result.exit_code == 4
        assert result.stdout == ""
        assert words.casefold() in result.stderr.casefold()
        assert len(result.stderr.splitlines()) == 2
        assert "Traceback" not in result.stderr

    def test_docker_asked_for_by_name_is_never_replaced(self, desk):
        desk.write("a.py")
        desk.backend.docker_works = False
        assert desk(*GRADE, "--sandbox", "docker").exit_code == 4
        assert desk.graded_names() == []

    def test_auto_falls_back_with_one_line_of_warning(self, desk):
        desk.write("a.py")
        desk.backend.docker_works = False
        result = desk(*GRADE)
        assert result.exit_code == 0
        assert len(result.stderr.splitlines()) == 1
        assert "for trying out only" in result.stderr
        assert "no Engine answers" in result.stderr
        assert "process sandbox" in result.stdout

    def test_ctrl_c_is_130(self, desk):
        desk.write("a.py")
        desk.backend.on_grade = raiser(KeyboardInterrupt())
        result = desk(*GRADE)
        assert result.exit_code == 130
        assert result.stderr.strip() == "assay: interrupted"


def raiser(error):
    def act(*_):
        raise error

    return act


class TestReports:
    @pytest.mark.parametrize("bug", ["3", "loss-leak"])
    def test_explain_says_it_in_sentences(self, desk, bug):
        desk.write("a.py", b"fixed=2")
        desk(*GRADE, "--out", "report.json")
        result = desk("explain", "report.json", bug)
        assert result.exit_code == 0
        assert "The candidate did not fix it." in result.stdout
        assert "What was wrong: Every batch's autograd graph stays alive" in result.stdout
        assert "How sure: As sure as it gets" in result.stdout

    def test_explain_finds_a_submission_in_the_results_of_a_batch(self, desk):
        desk.write("in/a.py")
        desk.write("in/b.py")
        desk("batch", "in", "--challenge", "spiral")
        assert desk("explain", "results.json", "1", "--name", "b.py").exit_code == 0
        unnamed = desk("explain", "results.json", "1")
        assert unnamed.exit_code == 2
        assert "--name: a.py, b.py" in unnamed.stderr

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 1}', b"\xff"])
    def test_what_is_no_report_is_bad_usage(self, desk, content):
        desk.write("report.json", content)
        result = desk("explain", "report.json", "1")
        assert result.exit_code == 2
        assert "neither a report nor the results" in result.stderr

    def test_explain_knows_no_ninth_bug(self, desk):
        desk.write("a.py")
        desk(*GRADE, "--out", "report.json")
        result = desk("explain", "report.json", "9")
        assert result.exit_code == 2
        assert "8 lr" in result.stderr

    def test_replay_uses_the_secrets_of_the_report(self, desk):
        desk.write("a.py")
        desk(*GRADE, "--out", "report.json")
        result = desk("replay", "report.json", "a.py")
        assert result.exit_code == 0
        assert desk.backend.seeds == [None, "00ff"]
        assert "the same verdicts" in result.stdout

    def test_replay_tells_other_verdicts_and_another_grader(self, desk, make_report):
        desk.write("a.py", b"fixed=3")
        other = make_report("a.py", b"fixed=3").bugs[:3]
        before = make_report("a.py", b"fixed=3", bugs=other, sandbox="process")
        desk.write("report.json", before.model_dump_json().encode())
        desk.backend.grader = "grader-2"
        result = desk("replay", "report.json", "a.py")
        assert result.exit_code == 1
        assert "the verdicts differ" in result.stdout
        assert "grader_digest, sandbox changed" in result.stderr

    def test_replay_refuses_another_file(self, desk):
        desk.write("a.py")
        desk(*GRADE, "--out", "report.json")
        desk.write("a.py", b"fixed=4")
        assert desk("replay", "report.json", "a.py").exit_code == 2

    def test_the_schema_of_results_holds_for_results(self, desk):
        desk.write("a.py")
        desk.write("b.py", b"syntax")
        desk("batch", "a.py", "b.py", "--challenge", "spiral")
        schema = json.loads(desk("schema", "results").stdout)
        jsonschema.Draft202012Validator.check_schema(schema)
        results = json.loads((desk.folder / "results.json").read_bytes())
        jsonschema.validate(results, schema, cls=jsonschema.Draft202012Validator)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"a.py": {}}, schema, cls=jsonschema.Draft202012Validator)


class TestChallenges:
    def test_challenges_are_listed(self, desk):
        line = next(line for line in desk("challenges").stdout.splitlines() if line.startswith("spiral"))
        assert line.split()[-3:] == ["Hard", "45", "8"]

    @pytest.mark.parametrize(("option", "name"), [("--brief", "brief.md"), ("--problem", "problem.py")])
    def test_show_gives_a_text_as_it_is(self, desk, option, name):
        assert desk("show", "spiral", option).stdout == desk.backend.challenge("spiral").text(name)

    def test_show_gives_the_guide_to_read(self, desk):
        challenge = desk.backend.challenge("spiral")
        guide = load_guide(challenge)
        assert guide is not None
        assert desk("show", "spiral", "--guide").stdout == as_markdown(guide, challenge.manifest)

    def test_show_lists_bugs_and_bands(self, desk):
        shown = desk("show", "spiral").stdout
        assert "zero-grad" in shown
        assert "6-7 fixed: Hire" in shown

    def test_verify_is_thin(self, desk):
        desk.backend.verify_report = SimpleNamespace(passed=True, runs=9, failures=[])
        result = desk("verify", "spiral", "--seeds", "3", "--jobs", "2", "--all-subsets")
        assert result.exit_code == 0
        assert "9 gradings, 0 wrong" in result.stdout
        asked = desk.backend.verified
        assert (asked["subsets"], len(set(asked["seeds"])), asked["jobs"]) == ("all", 3, 2)

    def test_verify_that_finds_a_wrong_verdict_is_1(self, desk):
        failure = VerifyFailure(
            planted=("lr",), seed="2", wrong=("lr: fixed",), invalid_reason=None, tampering_reasons=()
        )
        desk.backend.verify_report = SimpleNamespace(passed=False, runs=9, failures=[failure])
        result = desk("verify", "spiral")
        assert result.exit_code == 1
        assert "wrong: lr planted, seed 2: lr: fixed\n" in result.stdout

    def test_demo_grades_every_sample_and_sums_up(self, desk, tmp_path):
        challenge = desk.backend.challenge("spiral")
        samples = (
            "untouched",
            "half_mended_trainer_style",
            "half_mended_functional_style",
            "solution",
            "forgery",
        )
        for sample in samples:
            folder = tmp_path / "spiral" / "cases" / sample
            folder.mkdir(parents=True)
            (folder / "submission.py").write_bytes(b"fixed=3")
        desk.backend.challenge = lambda slug: challenge.model_copy(update={"folder": tmp_path / "spiral"})
        result = desk("demo")
        assert result.exit_code == 0, result.output
        assert desk.graded_names() == sorted(samples)
        overview = result.stdout[result.stdout.index("all of them") :]
        assert all(sample in overview for sample in samples)


class TestSettings:
    def test_a_setting_that_makes_no_sense_is_named(self, monkeypatch):
        monkeypatch.setenv("ASSAY_JOBS", "many")
        result = CliRunner().invoke(main, ["challenges"])
        assert result.exit_code == 2
        assert result.stderr.startswith("assay: ASSAY_JOBS: ")

    def test_settings_are_a_table(self, desk):
        shown = desk("settings").stdout
        assert "ASSAY_LIMIT_MEMORY_BYTES" in shown
        assert "1073741824 (1 GiB)" in " ".join(shown.split())

    def test_limits_that_the_operator_set_win_over_the_job(self):
        inner = RecordingSandbox()
        settings = Settings(limit_pids=7)
        step = Step("one", "probe:run")
        LimitedSandbox(inner, settings.chosen_limits()).run(
            Job(b"", {}, (step,), Limits(pids=99, memory_bytes=5 << 20))
        )
        assert inner.job.limits == Limits(pids=7, memory_bytes=5 << 20)


class RecordingSandbox:
    name = "recording"
    job: Job

    def run(self, job, listener=None):
        self.job = job
        return RunResult((), RunTiming(), self.name)

    def cannot_hold(self):
        return ()


def test_every_command_teaches_by_example():
    for name, command in main.commands.items():
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert f"  assay {name}" in result.output or name == "settings", command
        assert "Examples:" in result.output


def test_the_version_is_told():
    assert CliRunner().invoke(main, ["--version"]).output.startswith("assay, version ")
