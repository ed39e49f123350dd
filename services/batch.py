"""Grades many submissions and keeps what was graded, whatever happens on the way.

Theory of operation
-------------------
The calling thread alone owns the results file; worker threads load a submission, look for
an earlier report on the same bytes, or grade. Each finished report is appended to a
journal, `<out>.partial.jsonl`, and synced. When the batch ends, by itself or by an
interrupt, journal and earlier results become one new results file: written beside the old
one, synced, renamed over it. Whoever is killed outright leaves the journal, which the next
batch reads. An advisory lock on the journal keeps two batches off one results file.

A submission that cannot be read gets an invalid report with the reason. One that the
infrastructure failed is tried once more and then left out, so that the next batch takes
it up again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import queue
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from grading.engine import Submission
from grading.verdict import Report
from services.intake import Item, UnusableFile

GradeOne = Callable[[Submission], Report]

_REPORTS: TypeAdapter[dict[str, Report]] = TypeAdapter(dict[str, Report])
_JOURNAL_VERSION = 1
_POLL_S = 0.1


class ResultsError(Exception):
    """The results file cannot be read or written; `advice` says what to do.

    `disk` tells a disk that fails from a file that was badly chosen.
    """

    def __init__(self, problem: str, advice: str, *, disk: bool = False) -> None:
        super().__init__(problem)
        self.advice, self.disk = advice, disk


@dataclass(frozen=True)
class Grader:
    """What a report must have come from to be worth reusing."""

    challenge: str
    challenge_digest: str
    grader_digest: str
    sandbox: str

    def gave(self, report: Report) -> bool:
        """Whether grading the same bytes now would be a repetition."""
        versions = report.versions
        same = (
            report.challenge == self.challenge
            and versions.challenge_digest == self.challenge_digest
            and versions.grader_digest == self.grader_digest
        )
        return same and (report.outcome == "invalid" or report.sandbox == self.sandbox)


@dataclass(frozen=True)
class Done:
    """One finished submission: a report, reused or new, or why there is none."""

    name: str
    report: Report | None
    reused: bool = False
    error: str = ""


@dataclass
class Stop:
    """How an interrupt reaches a batch: no new gradings, then, at once or in time, the end.

    Plain flags, because a signal handler sets them: taking an Event's lock there could
    wait for the very code that it interrupted.
    """

    grace_s: float
    asked: bool = False
    at_once: bool = False

    def ask(self) -> None:
        """Ask once to finish what is under way; a second time to end without it."""
        self.at_once = self.asked
        self.asked = True


@dataclass(frozen=True)
class Outcome:
    """How a batch ended."""

    done: tuple[Done, ...]
    interrupted: bool

    @property
    def failures(self) -> tuple[Done, ...]:
        """The submissions that the infrastructure failed."""
        return tuple(one for one in self.done if one.report is None)

    @property
    def reports(self) -> dict[str, Report]:
        """The report of each submission that has one."""
        return {one.name: one.report for one in self.done if one.report is not None}

    @property
    def reused(self) -> int:
        """How many reports an earlier batch had already made."""
        return sum(one.reused for one in self.done)


# --- the results file ------------------------------------------------------------------


class Results:
    """The results file of one batch, open and locked. Use as a context manager.

    Raises:
        ResultsError: it is no results file, another batch has it, or the disk fails.
    """

    def __init__(self, out: Path, *, fresh: bool = False) -> None:
        self._out = out
        self._fresh = fresh
        self._begun = False
        with _disk_trouble(out):
            before = _read_results(out)
            self._journal_path = out.with_name(out.name + ".partial.jsonl")
            self._journal = _open_locked(self._journal_path)
            try:
                started_fresh, recorded = _read_journal(self._journal, self._journal_path)
            except BaseException:
                self._journal.close()
                raise
        self.earlier = {} if fresh else {**({} if started_fresh else before), **recorded}
        self.reports = dict(self.earlier)
        self._given_up = {name: r for name, r in {**before, **recorded}.items() if name not in self.earlier}

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        if os.fstat(self._journal.fileno()).st_size == 0:
            self._journal_path.unlink(missing_ok=True)
        self._journal.close()

    def _begin(self) -> None:
        """Before the first report: a batch that never makes one leaves everything as it was."""
        if self._fresh:
            self._journal.truncate(0)
        if os.fstat(self._journal.fileno()).st_size == 0:
            self._append({"assay_batch": _JOURNAL_VERSION, "fresh": self._fresh})
        self._begun = True

    def _append(self, line: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def record(self, name: str, report: Report) -> None:
        """Keep a new report, on disk before this returns."""
        with _disk_trouble(self._out):
            if not self._begun:
                self._begin()
            self._append({"name": name, "report": json.loads(report.model_dump_json())})
        self.reports[name] = report

    def compact(self, *, whole: bool) -> None:
        """Write the results file anew from everything kept, and remove the journal.

        A batch that did not come to its `whole` end keeps what a fresh one would have given up.
        """
        if not whole:
            self.reports = {**self._given_up, **self.reports}
        if self._fresh and not self._begun:
            return  # nothing new to put in the old file's place
        with _disk_trouble(self._out):
            write_atomically(self._out, results_json(self.reports))
            self._journal_path.unlink(missing_ok=True)


def results_json(reports: Mapping[str, Report]) -> bytes:
    """The contents of a results file: each name with its report, sorted, in plain ASCII."""
    data = {name: json.loads(reports[name].model_dump_json()) for name in sorted(reports)}
    return json.dumps(data, indent=1).encode() + b"\n"


def parse_results(data: bytes) -> dict[str, Report]:
    """Read a results file.

    Raises:
        ValidationError: it is none.
    """
    return _REPORTS.validate_json(data)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: whoever looks sees the old file or the whole new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.chmod(temporary, 0o644 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0o077)  # the only way to read it is to set it
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _disk_trouble(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{error.filename or out}: {error.strerror}",
            "Check the folder of --out, its rights and the free space.",
            disk=True,
        ) from error


def _read_results(out: Path) -> dict[str, Report]:
    if not out.parent.is_dir():
        raise ResultsError(f"there is no folder {out.parent}", "Make it, or choose another --out.")
    if not out.exists() and not out.is_symlink():
        return {}
    if out.is_symlink() or not out.is_file():
        raise ResultsError(f"{out} is not a regular file", "Choose another --out.")
    try:
        return parse_results(out.read_bytes())
    except ValidationError as error:
        raise ResultsError(
            f"{out} exists and is not a results file of this version of assay ({_first(error)})",
            "It was left as it is. Move it away, or choose another --out.",
        ) from error


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"[:200]


def _open_locked(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    journal = os.fdopen(os.open(path, flags, 0o666), "r+b")
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = not path.exists() or os.fstat(journal.fileno()).st_ino != path.stat().st_ino
    except BlockingIOError:
        gone = True
    if gone:
        journal.close()
        raise ResultsError(f"another batch is writing {path.name}", "Wait for it, or choose another --out.")
    return journal


def _read_journal(journal: IO[bytes], path: Path) -> tuple[bool, dict[str, Report]]:
    """Whether the batch of the journal started fresh, and the reports that it recorded.

    A last line without its end was being written when the batch was killed: it is cut off.
    """
    data = journal.read()
    whole = data[: data.rfind(b"\n") + 1]
    journal.truncate(len(whole))
    lines = whole.splitlines()
    if not lines:
        return False, {}
    try:
        header = json.loads(lines[0])
        if header["assay_batch"] != _JOURNAL_VERSION:
            raise ValueError("of another version")
        entries = [json.loads(line) for line in lines[1:]]
        return bool(header["fresh"]), _REPORTS.validate_python({e["name"]: e["report"] for e in entries}, strict=False)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsError(
            f"{path} is not the journal of an interrupted batch, or it is damaged",
            "It was left as it is. Move it away, or choose another --out.",
        ) from error


# --- the batch -------------------------------------------------------------------------


class _Earlier:
    """Finds earlier reports on the same bytes."""

    def __init__(self, reports: Mapping[str, Report], names: Iterable[str], grader: Grader) -> None:
        batch = frozenset(names)
        good = {name: report for name, report in reports.items() if grader.gave(report)}
        self._left_over = defaultdict[str, list[str]](list)
        for name, report in good.items():
            if name not in batch:
                self._left_over[report.submission_sha256].append(name)
        self._reports = good

    def find(self, name: str, sha256: str) -> tuple[str, Report] | None:
        """A report on these bytes with its name: this one, or that of a file that this batch does not have.

        Of the latter, this very file under another name comes first.
        """
        report = self._reports.get(name)
        if report is not None and report.submission_sha256 == sha256:
            return name, report
        left_over = self._left_over.get(sha256, [])
        old = next((old for old in left_over if _is_renamed(old, name)), next(iter(left_over), None))
        return None if old is None else (old, self._reports[old])


def _is_renamed(old: str, new: str) -> bool:
    """Whether both are one file's: another of its base name makes a name longer by a folder or zip."""
    return old.endswith(f"/{new}") or new.endswith(f"/{old}")


@dataclass(frozen=True)
class _Answer:
    """What a worker thread gives back; `replaces` is the file's earlier name where that differs."""

    done: Done
    replaces: str | None = None


def run_batch(
    items: Sequence[Item],
    grade_one: GradeOne,
    results: Results,
    grader: Grader,
    *,
    jobs: int,
    stop: Stop,
    on_done: Callable[[Done], None] = lambda done: None,
) -> Outcome:
    """Grade `items`, `jobs` at a time, into `results`, which are compacted at the end.

    Raises:
        ResultsError: a report could not be written.
    """
    earlier = _Earlier(results.earlier, (item.name for item in items), grader)
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    # None: a worker has ended. No SimpleQueue: an interrupted `get` of it can forget its timeout.
    answers: queue.Queue[_Answer | None] = queue.Queue()

    def work() -> None:
        try:
            while not stop.asked:
                answers.put(_grade(waiting.get_nowait(), grade_one, earlier))
        except queue.Empty:
            pass
        finally:
            answers.put(None)

    workers = max(1, min(jobs, len(items)))
    for number in range(workers):
        threading.Thread(target=work, name=f"grade-{number}", daemon=True).start()
    done = []
    try:
        for answer in _answers(answers, workers, stop):
            _keep(answer, results)
            done.append(answer.done)
            on_done(answer.done)
    finally:
        stop.asked = True
        results.compact(whole=len(done) == len(items))
    return Outcome(tuple(done), interrupted=len(done) < len(items))


def _answers(answers: queue.Queue[_Answer | None], workers: int, stop: Stop) -> Iterator[_Answer]:
    """The workers' answers until all have ended, or an interrupt's time of grace has."""
    deadline = None
    while workers:
        if stop.asked and deadline is None:
            deadline = time.monotonic() + stop.grace_s
        if stop.at_once or (deadline is not None and time.monotonic() > deadline):
            return
        try:
            answer = answers.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if answer is None:
            workers -= 1
        else:
            yield answer


def _keep(answer: _Answer, results: Results) -> None:
    done = answer.done
    if answer.replaces is not None:
        results.reports.pop(answer.replaces, None)
    if done.report is None:
        results.reports.pop(done.name, None)  # nothing says that an earlier report there is on these bytes
    elif done.reused:
        results.reports[done.name] = done.report
    else:
        results.record(done.name, done.report)


def _grade(item: Item, grade_one: GradeOne, earlier: _Earlier) -> _Answer:
    try:
        source = item.load()
    except UnusableFile as error:
        unread = error
        return _Answer(_attempt(item.name, lambda: unread_report(item.name, unread, grade_one)))
    except Exception as error:  # a thread that died of one file would leave the rest ungraded
        return _Answer(_failed(item.name, error))
    reusable = earlier.find(item.name, hashlib.sha256(source).hexdigest())
    if reusable is not None:
        old, report = reusable
        named = report if old == item.name else report.model_copy(update={"submission_name": item.name})
        return _Answer(Done(item.name, named, reused=True), replaces=old if _is_renamed(old, item.name) else None)
    return _Answer(_attempt(item.name, lambda: grade_one(Submission(name=item.name, source=source))))


def _attempt(name: str, make: Callable[[], Report]) -> Done:
    """Make a report, trying twice: what fails here is never the submission's fault."""
    for last in (False, True):
        try:
            report = make()
            Report.model_validate_json(report.model_dump_json())  # what is written must be readable again
            return Done(name, report)
        except Exception as error:
            if last:
                return _failed(name, error)
    raise AssertionError("unreachable")


def _failed(name: str, error: Exception) -> Done:
    return Done(name, None, error=f"{type(error).__name__}: {error}")


def unread_report(name: str, problem: UnusableFile, grade_one: GradeOne) -> Report:
    """The invalid report of a submission whose bytes could not be had: its digest is empty."""
    report = grade_one(Submission(name=name, source=b""))
    reason = f"the file is {problem}; {problem.advice[0].lower()}{problem.advice[1:].rstrip('.')}"
    update: dict[str, Any] = {"outcome": "invalid", "invalid_reason": reason, "rating": None}
    update |= {"submission_sha256": "", "submission_bytes": problem.size_bytes}
    return report.model_copy(update=update)
