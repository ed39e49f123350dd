"""A cohort of made-up candidates with varied reports, for tests of pages and for looking at them.

python -m tests.services.pages.seed FOLDER      makes FOLDER/assay.db and prints how to sign in
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from challenges.spiral.mutations import build
from grading.challenge import Challenge, load_challenge
from grading.public import public_part
from grading.verdict import (
    BugVerdict,
    Evidence,
    EvidenceKind,
    Finding,
    GoalReport,
    Report,
    StepTiming,
    Timing,
    Verdict,
    Versions,
    rate,
)
from services.store import Candidate, NewAssessment, NewIntegration, NewInvitations, NewSubmission, Store

PASSWORD = "correct horse battery"
_DAY_US = 86_400_000_000
_FIRST = [
    "Amara Okafor",
    "Lukas Brandt",
    "Mei Lin",
    "Priya Raman",
    "Jonas Weber",
    "Sofia Rossi",
    "Diego Alvarez",
    "Hana Sato",
    "Omar Haddad",
    "Ines Carvalho",
    "Noah Fischer",
    "Zofia Nowak",
    "Tariq Aziz",
    "Elena Petrova",
    "Mateo Silva",
    "Aisha Bello",
    "Oskar Lind",
    "Yuki Tanaka",
    "Clara Dubois",
    "Ravi Menon",
    "Freya Holm",
    "Ivan Horvat",
    "Leila Karimi",
    "Tomasz Zielinski",
    "Grace Mwangi",
    "Pavel Novak",
    "Marta Kovacs",
    "Daniel Cohen",
    "Nora Jensen",
    "Samuel Osei",
    "Chiara Bianchi",
    "Viktor Lang",
    "Anja Keller",
    "Bilal Demir",
    "Rosa Jimenez",
    "Erik Dahl",
    "Lin Zhao",
    "Teo Marin",
    "Sara Nilsson",
    "Bruno Costa",
]
# How often each bug is mended by a candidate of middling skill, in the order of the manifest.
_EASE = (0.45, 0.85, 0.4, 0.75, 0.7, 0.55, 0.8, 0.95)
_WORDS = {
    Verdict.FIXED: ("behaves as right code does", "The program does here what right code does."),
    Verdict.NOT_FIXED: ("behaves as the problem does", "The program still does here what the faulty one did."),
    Verdict.INCONCLUSIVE: ("could not be seen", "The run ended before this could be seen, so it is not decided."),
}


@dataclass(frozen=True)
class Seeded:
    """What is in the store."""

    cohort_id: str
    submission_ids: tuple[str, ...]
    flagged_id: str
    dead_id: str
    invalid_id: str


def verdicts_of(chance: random.Random, skill: float) -> list[Verdict]:
    """Verdicts of somebody with this skill, 0 to 1."""
    found = []
    for ease in _EASE:
        mended = chance.random() < min(0.99, max(0.02, ease + (skill - 0.5) * 1.1))
        found.append(Verdict.FIXED if mended else Verdict.NOT_FIXED)
    return found


def made_report(
    challenge: Challenge,
    name: str,
    source: bytes,
    verdicts: Sequence[Verdict],
    chance: random.Random,
    *,
    tampering: Sequence[str] = (),
    extra: str = "",
) -> Report:
    """A report such as a grade would give, with made-up figures. `extra` stands for a candidate's own words."""
    manifest = challenge.manifest
    fixed = list(verdicts).count(Verdict.FIXED)
    best = min(0.985, 0.3 + 0.085 * fixed + chance.uniform(-0.03, 0.03))
    curve = [best - (best - 0.25) * (0.8**epoch) + chance.uniform(-0.012, 0.012) for epoch in range(1, 21)]
    curve = [round(min(0.99, max(0.2, value)), 4) for value in curve]
    reached = next((epoch for epoch, value in enumerate(curve, 1) if value > 0.85), None)
    lines = [
        f"epoch {epoch:2d}/20 | train loss {1.3 - 1.15 * value:.4f} acc {min(1, value + 0.02):.3f} | "
        f"val loss {1.32 - 1.1 * value:.4f} acc {value:.3f} | 0.{30 + epoch} s"
        for epoch, value in enumerate(curve, 1)
    ]
    bugs = tuple(
        BugVerdict(
            number=bug.number,
            id=bug.id,
            title=bug.title,
            verdict=verdict,
            evidence=Evidence(
                summary=f"{bug.location} {_WORDS[verdict][0]}{extra}",
                expected=f"{bug.location} as in the mended program",
                seen=f"{_WORDS[verdict][0]}, in all of 3 runs{extra}",
                kind=EvidenceKind.NONE if verdict is Verdict.INCONCLUSIVE else EvidenceKind.VALUE,
                source="single calls and the program's own run",
                plain=f"{_WORDS[verdict][1]} {bug.symptom}{extra}",
                notes=(f"one probe of three was slow{extra}",) if bug.number == 3 else (),
            ),
            wall_time_s=round(chance.uniform(0.1, 0.6), 2),
        )
        for bug, verdict in zip(manifest.bugs, verdicts, strict=True)
    )
    own_run_s = round(chance.uniform(5, 14), 2)
    bonus = (Finding(id="seed", title="Fixes the random seed", detail="Two runs gave the same numbers."),)
    return Report(
        challenge=challenge.slug,
        submission_name=name,
        submission_sha256=hashlib.sha256(source).hexdigest(),
        submission_bytes=len(source),
        outcome="graded",
        bugs=bugs,
        goal=GoalReport(
            description=manifest.goal.description,
            reached=reached is not None,
            epoch=reached,
            accuracy=curve[-1],
            accuracy_by_epoch=tuple(curve),
            threshold=manifest.goal.threshold,
            evidence="measured on held-out rows",
        ),
        rating=rate(manifest, tuple(verdicts)),
        regressions=(),
        bonus=bonus if fixed >= 7 else (),
        tampering_suspected=bool(tampering),
        tampering_reasons=tuple(tampering),
        run_status="ok",
        run_error=extra or None,
        output_tail="\n".join(["Training on cpu", *lines, extra]),
        timing=Timing(
            queue_s=1.2,
            sandbox_start_s=0.4,
            warm_up_s=1.1,
            warm_up_cpu_s=1.0,
            probes_s=3.2,
            probes_cpu_s=3.0,
            real_run_s=own_run_s,
            real_run_cpu_s=own_run_s,
            judge_s=0.05,
            total_s=own_run_s + 4.8,
            cpu_s=own_run_s + 4.2,
            peak_memory_bytes=chance.randrange(380, 620) << 20,
            steps=(
                StepTiming(name="probes", status="ok", wall_time_s=3.2, cpu_time_s=3.0, peak_memory_bytes=410 << 20),
                StepTiming(
                    name="real", status="ok", wall_time_s=own_run_s, cpu_time_s=own_run_s, peak_memory_bytes=520 << 20
                ),
            ),
        ),
        versions=Versions(
            assay="0.1.0",
            challenge_digest=challenge.digest(),
            grader_digest="5b" * 32,
            image_digest="sha256:" + "a1" * 32,
            python="3.11.7",
            torch="2.13.0",
            numpy="2.3.0",
        ),
        sandbox="docker",
        secret_seed="00ff",
        graded_at="2026-11-25T10:00:00Z",
    )


def program(challenge: Challenge, verdicts: Sequence[Verdict]) -> bytes:
    """The solution with the bugs that are not mended put back."""
    left = [b.id for b, v in zip(challenge.manifest.bugs, verdicts, strict=True) if v is not Verdict.FIXED]
    return build(left).encode()


def finish(store: Store, submission_id: str, report: Report) -> None:
    """What a worker does with a graded submission."""
    claim = store.claim(submission_id, "worker-1", 60)
    assert claim is not None
    assert store.finish(claim, report)


def kill(store: Store, submission_id: str) -> None:
    """Let the infrastructure fail on it until it is dead."""
    while (claim := store.claim(submission_id, "worker-1", 60)) is not None:
        if store.release(claim, "the Engine does not answer: connection refused", 0) == "dead":
            return


def people(store: Store) -> None:
    """One user in each role, all with the same password."""
    for role, name in (("recruiter", "Rita Recruiter"), ("interviewer", "Ian Interviewer"), ("admin", "Ada Admin")):
        store.create_user(f"{role}@example.org", name, role, PASSWORD)  # type: ignore[arg-type]


def cohort(store: Store, count: int = 40, *, seed: int = 7, settle: bool = True) -> Seeded:
    """A cohort with `count` candidates, of whom one is flagged, one dead, one not gradable and two unclear.

    With `settle` false the last four are left waiting.
    """
    chance = random.Random(seed)
    challenge = load_challenge("spiral")
    made = store.create_cohort("Spring 2026, ML engineers", "spiral", actor="seed")
    verdicts = [verdicts_of(chance, chance.betavariate(2.2, 1.8)) for _ in range(count)]
    verdicts[min(4, count - 1)] = [Verdict.FIXED] * 8
    if count > 12:
        verdicts[9][2] = verdicts[12][0] = Verdict.INCONCLUSIVE
    names = [_FIRST[n % len(_FIRST)] + (f" {n // len(_FIRST) + 1}" if n >= len(_FIRST) else "") for n in range(count)]
    new = []
    for number, name in enumerate(names):
        address = name.lower().replace(" ", ".")
        who: Candidate = {"external_id": f"C-{1000 + number}", "name": name, "email": f"{address}@example.org"}
        file = f"{address.replace('.', '_')}.py"
        new.append(NewSubmission("spiral", file, program(challenge, verdicts[number]), candidate=who))
    submissions = store.create_submissions(made.id, new, actor="seed")
    flagged, dead, invalid = (min(n, count - 1) for n in (6, 20, 27))
    last = count if settle else count - 4
    for number, (submission, one) in enumerate(zip(submissions[:last], verdicts[:last], strict=True)):
        source = new[number].source
        if number == dead and count > 20:
            kill(store, submission.id)
            continue
        reasons = ("the history that main() returned claims a far better accuracy than its models have",)
        report = made_report(
            challenge, submission.file_name, source, one, chance, tampering=reasons if number == flagged else ()
        )
        if number == invalid and count > 27:
            reason = "the file is no program: invalid syntax (line 12). Ask for the file again."
            changes = {"outcome": "invalid", "invalid_reason": reason, "bugs": (), "rating": None}
            report = report.model_copy(update=changes)
        finish(store, submission.id, report)
    ids = tuple(one.id for one in submissions)
    return Seeded(made.id, ids, ids[flagged], ids[dead], ids[invalid])


def opinions(store: Store, seeded: Seeded) -> None:
    """Some notes and decisions."""
    rita = store.user_by_email("recruiter@example.org")
    assert rita is not None
    best = seeded.submission_ids[4]
    store.decide(best, rita.name, "advance", "Every bug mended, and says why in comments.", actor=rita.id)
    store.decide(seeded.submission_ids[1], rita.name, "hold", "Ask about the memory leak first.", actor=rita.id)
    store.add_note(best, rita.name, "Speaks of autograd graphs in the comments.\nInvite this week.", actor=rita.id)


def tried(
    store: Store, invitation_id: str, verdicts: Sequence[Verdict], *, extra: str = "", name: str = "try.py"
) -> str:
    """A check that a worker has finished; its id."""
    challenge = load_challenge("spiral")
    made = store.create_check(invitation_id, name, program(challenge, verdicts))
    claim = store.claim(made.id, "worker-1", 60)
    assert claim is not None
    report = made_report(challenge, name, claim.source, verdicts, random.Random(len(name)), extra=extra)
    told = public_part(report, ("loads", "trains", "accuracy", "output"), 4000)
    assert store.finish_check(claim, "graded", told.model_dump(mode="json"))
    return made.id


def invited(store: Store) -> dict[str, str]:
    """A cohort of invited candidates in every state, and their tokens by it."""
    made = store.create_cohort("Autumn 2026, invited", "spiral", actor="seed")
    states = ("invited", "started", "checking", "handed_in", "late", "revoked")
    names: list[Candidate] = [{"name": name, "email": f"{name[:3].lower()}@example.org"} for name in _FIRST[:6]]
    new = NewInvitations("spiral", names, "Rita Recruiter", 7 * 86_400, 5, made.id, 2700)
    links = dict(zip(states, store.create_invitations(new, actor="seed"), strict=True))
    half = [Verdict.FIXED, Verdict.NOT_FIXED] * 4
    for state in ("started", "checking", "handed_in"):
        store.start_invitation(links[state][0].id)
    tried(store, links["started"][0].id, [Verdict.NOT_FIXED] * 8)
    tried(store, links["started"][0].id, half, name="second_try.py")
    tried(store, links["checking"][0].id, half)
    store.create_check(links["checking"][0].id, "third_try.py", b"print('still waiting')\n")
    tried(store, links["handed_in"][0].id, half)
    handed = store.hand_in(links["handed_in"][0].id, "mended.py", program(load_challenge("spiral"), half))
    finish(store, handed.id, made_report(load_challenge("spiral"), "mended.py", b"x", half, random.Random(2)))
    store.revoke_invitation(links["revoked"][0].id, actor="seed")
    short = NewInvitations("spiral", [names[4]], "Rita Recruiter", 7 * 86_400, 5, made.id, 1)
    links["late"] = store.create_invitations(short, actor="seed")[0]
    store.start_invitation(links["late"][0].id)
    return {state: token for state, (_, token) in links.items()}


def assessed(store: Store) -> dict[str, str]:
    """Assessments that a tracking system asked for, in every state, and their ids by it."""
    made = NewIntegration("careers", "greenhouse", credential="key of theirs")
    vendor = store.create_integration(made, actor="seed")
    ids: dict[str, str] = {}
    for number, state in enumerate(("waiting", "linked", "handed_in", "cancelled")):
        who: Candidate = {"name": _FIRST[number + 8], "email": f"{_FIRST[number + 8][:3].lower()}@example.org"}
        asked = NewAssessment(vendor.id, state, "spiral", who, {"url": "https://ats.example/1"})
        ids[state] = store.create_assessment(asked, actor=vendor.id)[0].id
        if state in ("linked", "handed_in"):
            new = NewInvitations("spiral", [who], "Rita Recruiter", 7 * 86_400, 5, assessment_id=ids[state])
            ((link, _),) = store.create_invitations(new, actor="seed")
        if state == "handed_in":
            store.hand_in(link.id, "mended.py", program(load_challenge("spiral"), [Verdict.FIXED] * 8))
    store.cancel_assessment(ids["cancelled"], actor=vendor.id)
    return ids


def everything(folder: Path, count: int = 40) -> tuple[Store, Seeded]:
    """A migrated store in `folder` with people, a settled cohort, a running one, a webhook and a key."""
    url = f"sqlite:///{folder / 'assay.db'}"
    Store.upgrade(url)
    store = Store.open(url)
    people(store)
    store.create_key("careers site", ["submit", "read"])
    receiver = store.create_endpoint("https://ats.example/assay", [], "whsec_" + "A" * 32)
    again = NewSubmission("spiral", "earlier_try.py", program(load_challenge("spiral"), [Verdict.NOT_FIXED] * 8))
    first = store.create_submission(again)
    untouched = [Verdict.NOT_FIXED] * 8
    earlier = made_report(load_challenge("spiral"), first.file_name, again.source, untouched, random.Random(1))
    finish(store, first.id, earlier)
    seeded = cohort(store, count)
    opinions(store, seeded)
    cohort(store, 12, seed=3, settle=False)
    store.disable_endpoint(receiver.id, "seed")
    store.enable_endpoint(receiver.id)
    return store, seeded


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(parents=True, exist_ok=True)
    opened, made = everything(where, int(sys.argv[2]) if len(sys.argv) > 2 else 40)
    for state, token in invited(opened).items():
        print(f"/take/{token}  {state}")
    print(f"recruiter@example.org, interviewer@example.org or admin@example.org, password {PASSWORD!r}")
    print(made)
