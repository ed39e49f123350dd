"""Inviting candidates into a cohort: making many links at once, and what became of each."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from flask import Response, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response as AnyResponse

from services.api.exports import CSV, harmless
from services.api.models import CandidateGiven
from services.api.pages import gate
from services.api.pages.cohorts import find as find_cohort
from services.api.pages.cohorts import manifest_of
from services.api.pages.desk import RECRUITERS, Desk
from services.api.pages.invited import address
from services.api.pages.listing import next_link
from services.api.pages.text import code_name
from services.api.problems import ApiProblem
from services.api.service import here
from services.render import inert
from services.store import Candidate, Cohort, Invitation, NewInvitations
from services.store.events import iso

desk = Desk("invitation_pages", __name__)
_PER_PAGE = 50
_DAYS = 7
DAY_S = 86_400
_MOST_MINUTES = 100_000
_ADDRESS = re.compile(r"[^\s@<>,;\"]+@[^\s@<>,;\"]+")
_NAMED = re.compile(rf"(.*?)<\s*({_ADDRESS.pattern})\s*>\s*[,;]?")
_COLUMNS = {
    "name": "name",
    "email": "email",
    "e-mail": "email",
    "mail": "email",
    "id": "external_id",
    "external_id": "external_id",
}
_MOST_TOLD = 10
_LONGEST_LINE = 1000
STATES = {
    "invited": "Invited",
    "started": "Started",
    "handed_in": "Handed in",
    "expired": "Expired",
    "revoked": "Revoked",
    "erased": "Erased",
}


@desk.page("GET", "/cohorts/<cohort_id>/invitations", roles=RECRUITERS)
def index(cohort_id: str) -> str:
    """Who was invited, and the form that invites more."""
    return _page(find_cohort(cohort_id))


def _page(
    cohort: Cohort, wrong: Sequence[str] = (), made: Sequence[tuple[Invitation, str]] = (), given: str = ""
) -> str:
    manifest = manifest_of(cohort.challenge)
    page = here().store.list_invitations(cohort.id, request.args.get("cursor"), _PER_PAGE)
    base = here().base or request.host_url.rstrip("/")
    minutes = manifest.candidate.time_limit_minutes if manifest else None
    return render_template(
        "assay/invitations.html",
        cohort=cohort,
        manifest=manifest,
        rows=page.items,
        older_link=next_link(request.path, request.args, page.next_cursor),
        now_us=here().store.now_us(),
        name_of=name_of,
        states=STATES,
        wrong=wrong,
        made=[(invitation, token, address(token, base)) for invitation, token in made],
        given=given,
        days=request.form.get("days", default_days())[:6],
        most_days=most_days(),
        minutes=request.form.get("minutes", str(minutes or ""))[:6],
        most_at_once=here().settings.invitation_batch,
    )


def name_of(invitation: Invitation) -> str:
    """The name to show for whoever was invited."""
    return shown_name(invitation.candidate, invitation.submission_id or invitation.id)


def shown_name(known: Candidate | None, code: str) -> str:
    """A candidate's name, or in blind review and for one who is forgotten the code name for `code`."""
    candidate = known or {}
    if gate.blind() or not candidate:
        return code_name(code)
    return inert(candidate.get("name") or candidate.get("email") or candidate.get("external_id") or "", 80)


def default_days() -> str:
    """For how many days a link lives where nobody says."""
    return str(min(_DAYS, most_days()))


def most_days() -> int:
    """For how many days a link may live."""
    return max(1, int(here().settings.invitation_max_s // DAY_S))


@desk.page("POST", "/cohorts/<cohort_id>/invitations", roles=RECRUITERS)
def create(cohort_id: str) -> str | tuple[str, int]:
    """Make a link for each line; the links are shown once."""
    cohort, user, text = find_cohort(cohort_id), gate.person(), request.form.get("people", "")
    manifest = here().require_challenge(cohort.challenge).manifest
    candidates, wrong = people(text)
    most = here().settings.invitation_batch
    if not candidates and not wrong:
        wrong = ["Name at least one candidate."]
    if len(candidates) > most:
        wrong = [f"At most {most:,} candidates are invited at once."]
    valid_s = whole(request.form.get("days", ""), most_days()) * DAY_S
    minutes_given = request.form.get("minutes", "").strip()
    minutes = whole(minutes_given, _MOST_MINUTES)
    if not valid_s:
        wrong.append(f"A link lives for 1 to {most_days()} days.")
    if minutes_given and not minutes:
        wrong.append("The time limit is a whole number of minutes, or empty for none.")
    if wrong:
        return _page(cohort, wrong[:_MOST_TOLD], given=text), 422
    new = NewInvitations(
        challenge=cohort.challenge,
        candidates=candidates,
        author=user.name,
        valid_s=min(valid_s, here().settings.invitation_max_s),
        checks_max=manifest.candidate.checks,
        cohort_id=cohort.id,
        time_limit_s=minutes * 60 or None,
    )
    return _page(cohort, made=here().store.create_invitations(new, actor=user.id))


def whole(text: str, most: int) -> int:
    """The number from 1 to `most` that a field has; 0 where it has another, or none."""
    given = text.strip()
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 7 else 0
    return number if number <= most else 0


@desk.page("POST", "/cohorts/<cohort_id>/invitations/links.csv", roles=RECRUITERS)
def links(cohort_id: str) -> Response:
    """The links that were just made, as a file: whoever has the tokens has them from the page that showed them."""
    cohort = find_cohort(cohort_id)
    base = here().base or request.host_url.rstrip("/")
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["name", "email", "external_id", "link", "valid_until"])
    for token in request.form.getlist("token")[: here().settings.invitation_batch]:
        invitation = here().store.invitation_by_token(token)
        if invitation is None or invitation.cohort_id != cohort.id:
            raise ApiProblem(404, "One of these links is not of this cohort.")
        candidate = invitation.candidate or {}
        cells = [candidate.get("name"), candidate.get("email"), candidate.get("external_id")]
        cells += [address(token, base), iso(invitation.expires_us)]
        writer.writerow([harmless(cell) for cell in cells])
    headers = {"Content-Disposition": f'attachment; filename="invitations-{cohort.id}.csv"'}
    return Response(
        "\N{ZERO WIDTH NO-BREAK SPACE}" + file.getvalue(), content_type=f"{CSV}; charset=utf-8", headers=headers
    )


@desk.page("POST", "/cohorts/<cohort_id>/invitations/<invitation_id>", roles=RECRUITERS)
def change(cohort_id: str, invitation_id: str) -> AnyResponse:
    """Extend a link, end it, or forget its candidate."""
    store, act, actor = here().store, request.form.get("act", ""), gate.person().id
    invitation = store.invitation(invitation_id)
    if invitation is None or invitation.cohort_id != cohort_id:
        raise ApiProblem(404, "There is no such invitation in this cohort.")
    if act == "revoke":
        store.revoke_invitation(invitation.id, actor=actor)
        said = "unshared"
    elif act == "extend":
        days = whole(request.form.get("days", ""), most_days())
        if not days:
            raise ApiProblem(422, f"A link lives for 1 to {most_days()} days.")
        store.extend_invitation(invitation.id, min(days * DAY_S, here().settings.invitation_max_s), actor=actor)
        said = "extended"
    elif act == "erase":
        if request.form.get("sure", "").strip().casefold() != "erase":
            raise ApiProblem(422, "Type the word erase to show that you mean it; nothing was erased.")
        store.erase_invitation(invitation.id, actor=actor)
        said = "erased"
    else:
        raise ApiProblem(422, "There is nothing of that name to do.")
    return redirect(url_for("invitation_pages.index", cohort_id=cohort_id, said=said), 303)


# --- reading whom to invite ------------------------------------------------------------------


def people(text: str) -> tuple[list[Candidate], list[str]]:
    """Whom a text names, one a line, and what is wrong with it.

    A line is `Name <address>`, an address, or of a table: cells parted by comma, semicolon or tab, under a line
    of headings (name, email, id) or as name, address, id.
    """
    found: list[Candidate] = []
    wrong: list[str] = []
    seen: dict[str, int] = {}
    for number, fields in _lines(text):
        address_given = fields.get("email", "")
        if not _ADDRESS.fullmatch(address_given):
            wrong.append(f"Line {number} has no e-mail address.")
        elif address_given.casefold() in seen:
            wrong.append(f"Line {number} has the same address as line {seen[address_given.casefold()]}.")
        else:
            seen[address_given.casefold()] = number
            try:
                record = CandidateGiven.model_validate({key: value for key, value in fields.items() if value}).record()
            except ValidationError:
                wrong.append(f"Line {number} has more than 200 characters in one place, or ones that cannot be shown.")
            else:
                found += [record] if record else []
    return found, wrong


def _lines(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    columns: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if len(line) > _LONGEST_LINE:
            yield number, {}
            continue
        if named := _NAMED.fullmatch(line.strip()):
            yield number, {"name": named[1].strip(" \t\"'"), "email": named[2]}
            continue
        parted = next((mark for mark in "\t;," if mark in line), ",")
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=parted))]
        headings = [_COLUMNS.get(cell.casefold(), "") for cell in cells]
        if columns is None and "email" in headings:
            columns = headings
        elif columns is not None:
            yield number, {key: cell for key, cell in zip(columns, cells, strict=False) if key}
        else:
            yield number, _guessed(cells)


def _guessed(cells: list[str]) -> dict[str, str]:
    """Which cell is what, without headings: the address by its form, the others in their order."""
    email = next((cell for cell in cells if _ADDRESS.fullmatch(cell)), "")
    others = [cell for cell in cells if cell != email]
    return {"email": email, **dict(zip(("name", "external_id"), others, strict=False))}
