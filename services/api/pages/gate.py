"""Who is signed in, and whether a form came from a page of ours.

A session is a random token in a cookie that no script reads; the store keeps its hash. Each form carries
a token derived from it, so that no other site can post in a reader's name; before signing in a cookie of
its own stands in. Signing in always makes a new session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from flask import Response, current_app, g, redirect, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from services.api.pages.desk import roles_of
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import SignedIn, User

SESSION, VISIT = "assay_session", "assay_visit"
_FIELD = "csrf"
_TOKEN_BYTES = 32


def identify() -> None:
    """Note who sends this request; before anything is decided about it."""
    token = request.cookies.get(_name(SESSION), "")
    g.session = here().store.signed_in(token, here().settings.session_idle_s) if token else None
    g.session_token = token if g.session else ""


def signed_in() -> SignedIn | None:
    """The session of this request."""
    found: SignedIn | None = g.get("session")
    return found


def person() -> User:
    """Who is signed in, on pages that need somebody."""
    session = signed_in()
    assert session is not None, "the gate lets nobody else through"
    return session.user


def blind() -> bool:
    """Whether names are hidden."""
    session = signed_in()
    return bool(g.get("force_blind")) or (session is not None and session.blind)


def admit() -> AnyResponse | None:
    """Before every page: somebody in the right role, and forms of ours only. Raises ApiProblem."""
    roles = roles_of(current_app, request.endpoint)
    session = signed_in()
    if roles is not None and session is None:
        if request.method not in ("GET", "HEAD"):
            raise ApiProblem(401, "You are not signed in any more. Sign in and do it again; nothing was changed.")
        back = request.full_path.rstrip("?")
        if request.headers.get("HX-Request"):
            return Response(status=401, headers={"HX-Redirect": url_for("session.sign_in_page")})
        return redirect(url_for("session.sign_in_page", next=back if back != "/" else None))
    if roles is not None and session is not None and session.user.role not in roles:
        raise ApiProblem(403, f"This page is not for the role {session.user.role}.")
    if request.method == "POST":
        _require_our_form()
    return None


def _require_our_form() -> None:
    origin = request.headers.get("Sec-Fetch-Site", "same-origin")
    given = request.form.get(_FIELD, "")
    if origin not in ("same-origin", "none") or not hmac.compare_digest(given.encode(), form_token().encode()):
        raise ApiProblem(403, "This form is out of date. Go back, reload the page and send it again.")


def form_token() -> str:
    """What every form carries."""
    root = g.get("session_token") or visit()
    return hmac.new(root.encode(), b"form", hashlib.sha256).hexdigest()


def form_field() -> Markup:
    """The same as a hidden field."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(_FIELD, form_token())


def visit() -> str:
    """The token of a browser that is not signed in; `remember_visit` gives it its cookie."""
    if "visit" not in g:
        given = request.cookies.get(_name(VISIT), "")
        g.visit = given if 20 <= len(given) <= 100 else secrets.token_urlsafe(_TOKEN_BYTES)
        g.visit_is_new = g.visit != given
    token: str = g.visit
    return token


def remember_visit(response: AnyResponse) -> AnyResponse:
    """Set that cookie where a page used it."""
    if g.get("visit_is_new"):
        _set(response, VISIT, g.visit, None)
    return response


def begin_session(response: AnyResponse, user: User) -> None:
    """Sign `user` in with a new session; the one before ends."""
    settings = here().settings
    token = here().store.open_session(user.id, settings.session_max_s, replaces=g.get("session_token") or None)
    _set(response, SESSION, token, int(settings.session_max_s))
    response.delete_cookie(_name(VISIT), path="/", secure=_is_secure(), httponly=True, samesite="Lax")
    g.visit_is_new = False


def end_session(response: AnyResponse) -> None:
    """Sign out."""
    if token := g.get("session_token"):
        here().store.close_session(token)
    response.delete_cookie(_name(SESSION), path="/", secure=_is_secure(), httponly=True, samesite="Lax")


def local_path(given: str | None) -> str:
    """`given` if it is a path on this site, else the first page: nobody is sent elsewhere."""
    if not given or not given.startswith("/") or given.startswith(("//", "/\\")) or not given.isprintable():
        return "/"
    parts = urlsplit(given)
    return "/" if parts.scheme or parts.netloc else given


def _is_secure() -> bool:
    return request.is_secure or here().settings.public_url.startswith("https://")


def _name(cookie: str) -> str:
    # With this prefix a browser takes the cookie from nobody but this very host.
    return f"__Host-{cookie}" if _is_secure() else cookie


def _set(response: AnyResponse, cookie: str, value: str, max_age_s: int | None) -> None:
    response.set_cookie(
        _name(cookie), value, max_age=max_age_s, path="/", secure=_is_secure(), httponly=True, samesite="Lax"
    )
