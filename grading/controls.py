"""Controls: the problem and the solution through the same probes must read right, or nothing is decided.

Running them with every grade would triple its cost. So they run once for each combination
of image, grader and challenge, and the result is kept; when a grade leaves a verdict open
they run again, with that grade's own secrets.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from grading import engine
from grading.challenge import Challenge
from grading.judgement import Secrets
from grading.verdict import Report, Verdict
from sandbox.spec import Sandbox


class ControlsFailed(Exception):
    """The problem or the solution misread: the grader cannot be trusted here. Not the candidate's fault."""


class Controls:
    """Proves that the grader reads right on this host, and remembers that it did.

    Args:
        state_folder: where passed controls are remembered, one small file each.
    """

    def __init__(self, state_folder: Path) -> None:
        self.folder = state_folder / "controls"
        self.lock = threading.Lock()

    def ensure(
        self, challenge: Challenge, sandbox: Sandbox, listener: Callable[[str, str], None] | None = None
    ) -> None:
        """Run the controls unless they are known to have passed with this image, grader and challenge.

        Raises:
            ControlsFailed: a control misread.
            SandboxUnavailable: the sandbox failed.
        """
        with self.lock:
            path = self.folder / f"{self._key(challenge, sandbox)}.json"
            if path.is_file():
                return
            if listener is not None:
                listener("controls", "begin")
            reports = self.recheck(challenge, sandbox, Secrets(os.urandom(16).hex()))
            if listener is not None:
                listener("controls", "end")
            self._remember(path, reports)

    def recheck(self, challenge: Challenge, sandbox: Sandbox, secrets: Secrets) -> tuple[Report, Report]:
        """Run both controls with `secrets`.

        Raises:
            ControlsFailed: a control misread.
        """
        reports = []
        for name, wanted in (("problem.py", Verdict.NOT_FIXED), ("solution.py", Verdict.FIXED)):
            submission = engine.Submission(name, challenge.text(name).encode())
            report = engine.grade(submission, challenge, sandbox, secret_seed=secrets.seed)
            wrong = [f"{bug.number} ({bug.id}) is {bug.verdict}" for bug in report.bugs if bug.verdict is not wanted]
            if report.outcome != "graded" or wrong:
                what = report.invalid_reason or f"bug {', '.join(wrong)}, not {wanted}"
                raise ControlsFailed(f"{challenge.slug}/{name} misread with seed {secrets.seed}: {what}")
            reports.append(report)
        return reports[0], reports[1]

    def _key(self, challenge: Challenge, sandbox: Sandbox) -> str:
        identity = getattr(sandbox, "image_identity", lambda: "")()
        parts = (sandbox.name, str(identity), engine.GRADER_DIGEST, challenge.digest())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def _remember(self, path: Path, reports: tuple[Report, Report]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "passed_at": reports[1].graded_at,
            "challenge": reports[1].challenge,
            "versions": reports[1].versions.model_dump(),
        }
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(told, indent=1), encoding="utf-8")
        draft.replace(path)
