"""Signing in and out, one's own account, hiding names."""

from __future__ import annotations

from flask import g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from services.api.observe import log
from services.api.pages import gate
from services.api.pages.desk import READERS, Desk
from services.api.service import here
from services.store import User

desk = Desk("session", __name__)


@desk.page("GET", "/sign-in", roles=None)
def sign_in_page() -> str | Response:
    """Where people sign in."""
    if gate.signed_in() is not None:
        return redirect(gate.local_path(request.args.get("next")))
    return render_template(
        "assay/sign_in.html", next=gate.local_path(request.args.get("next")), refused=False, email=""
    )


@desk.page("POST", "/sign-in", roles=None)
def sign_in() -> str | Response | tuple[str, int]:
    """Check e-mail and password; a new session where they are right."""
    email, password = request.form.get("email", "")[:200], request.form.get("password", "")[:1000]
    back = gate.local_path(request.form.get("next"))
    user = _checked(email, password)
    if user is None:
        log.info("sign-in refused")
        return render_template("assay/sign_in.html", next=back, refused=True, email=email), 401
    response = redirect(back, 303)
    gate.begin_session(response, user)
    log.info("signed in", user=user.id)
    return response


def _checked(email: str, password: str) -> User | None:
    settings = here().settings
    return here().store.check_password(
        email, password, attempts=settings.sign_in_attempts, lock_s=settings.sign_in_lock_s
    )


@desk.page("POST", "/sign-out", roles=READERS)
def sign_out() -> Response:
    """End the session."""
    response = redirect(url_for("session.sign_in_page", said="out"), 303)
    gate.end_session(response)
    return response


@desk.page("POST", "/blind", roles=READERS)
def blind() -> Response:
    """Hide names in this session, or show them again."""
    session = gate.signed_in()
    assert session is not None
    here().store.set_blind(g.session_token, not session.blind)
    return redirect(gate.local_path(request.form.get("back")), 303)


@desk.page("GET", "/account", roles=READERS)
def account() -> str:
    """One's own account."""
    return render_template("assay/account.html", wrong="")


@desk.page("POST", "/account/password", roles=READERS)
def change_password() -> str | Response | tuple[str, int]:
    """Replace one's own password; all sessions end and a new one begins."""
    user = gate.person()
    known = _checked(user.email, request.form.get("old", "")[:1000])
    if known is None:
        return render_template("assay/account.html", wrong="The present password is not right."), 422
    try:
        here().store.set_password(user.id, request.form.get("new", "")[:1000], actor=user.id)
    except ValueError as error:
        return render_template("assay/account.html", wrong=f"{str(error).capitalize()}."), 422
    response = redirect(url_for("session.account", said="password"), 303)
    gate.begin_session(response, user)
    return response
