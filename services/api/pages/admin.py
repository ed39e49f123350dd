"""Pages of those who run the service: users, keys, webhooks, dead submissions, the audit log, the queue."""

from __future__ import annotations

import secrets
from typing import Any

from flask import redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response as AnyResponse

from services import webhooks
from services.api.models import EndpointGiven
from services.api.pages import gate
from services.api.pages.desk import ADMINS, Desk, Entry
from services.api.pages.listing import next_link
from services.api.pages.text import sentence, who
from services.api.problems import ApiProblem
from services.api.service import here
from services.store import (
    EVENT_TYPES,
    ROLES,
    SCOPES,
    MessageFilters,
    MessageState,
    SubmissionFilters,
    User,
)

desk = Desk("admin", __name__, navigation=[Entry("Administration", "admin.index", ADMINS, covers=("admin.",))])
_PER_PAGE = 50
_SILENT_AFTER = 4  # reports of a pool that did not come: then it is not shown
_DAY_US = 86_400_000_000
_MESSAGE_STATES: tuple[MessageState, ...] = ("pending", "delivered", "dead")


@desk.page("GET", "/admin", roles=ADMINS)
def index() -> str:
    """The queue, live, and the way to the rest."""
    return render_template("assay/admin/queue.html", part="queue", **_queue())


@desk.page("GET", "/admin/queue", roles=ADMINS)
def queue() -> str:
    """The part of that page that renews itself."""
    return render_template("assay/admin/queue_part.html", **_queue())


def _queue() -> dict[str, Any]:
    running = here().store.list_submissions(SubmissionFilters(states=("running",)), None, 20).items
    store, settings = here().store, here().settings
    return {
        "counts": here().metrics.counts(),
        "running": running,
        "pools": store.pools(_SILENT_AFTER * settings.pool_report_s),
        "who": who,
        "now_us": store.now_us(),
    }


# --- users -----------------------------------------------------------------------------------


@desk.page("GET", "/admin/users", roles=ADMINS)
def users() -> str:
    """Everybody who may sign in."""
    return _users()


def _users(wrong: str = "", made: User | None = None, password: str = "") -> str:
    return render_template(
        "assay/admin/users.html",
        part="users",
        users=here().store.list_users(),
        roles=ROLES,
        wrong=wrong,
        made=made,
        password=password,
        now_us=here().store.now_us(),
    )


@desk.page("POST", "/admin/users", roles=ADMINS)
def create_user() -> str | tuple[str, int]:
    """Make a user; the first password is shown once."""
    given, password = request.form, secrets.token_urlsafe(12)
    role = next((one for one in ROLES if one == given.get("role")), ROLES[0])
    email, name = given.get("email", "")[:300], given.get("name", "")[:200]
    try:
        made = here().store.create_user(email, name, role, password, actor=gate.person().id)
    except ValueError as error:
        return _users(wrong=sentence(error)), 422
    return _users(made=made, password=password)


@desk.page("POST", "/admin/users/<user_id>", roles=ADMINS)
def change_user(user_id: str) -> AnyResponse | str:
    """Another role; out and in again; a new password, shown once."""
    store, act, actor = here().store, request.form.get("act", ""), gate.person().id
    if user_id == actor and act in ("disable", "role"):
        raise ApiProblem(409, "Nobody takes their own rights away here; ask another administrator.")
    if act == "disable":
        store.disable_user(user_id, actor=actor)
    elif act == "enable":
        store.enable_user(user_id, actor=actor)
    elif act == "role":
        role = next((one for one in ROLES if one == request.form.get("role")), None)
        if role is None:
            raise ApiProblem(422, "There is no such role.")
        store.set_role(user_id, role, actor=actor)
    elif act == "password":
        password = secrets.token_urlsafe(12)
        return _users(made=store.set_password(user_id, password, actor=actor), password=password)
    else:
        raise ApiProblem(422, "There is nothing of that name to do.")
    return redirect(url_for("admin.users", said="saved"), 303)


# --- keys --------------------------------------------------------------------------------------


@desk.page("GET", "/admin/keys", roles=ADMINS)
def keys() -> str:
    """All API keys."""
    return _keys()


def _keys(wrong: str = "", secret: str = "") -> str:
    found = here().store.list_keys()[::-1]
    return render_template(
        "assay/admin/keys.html",
        part="keys",
        keys=found,
        scopes=SCOPES,
        wrong=wrong,
        secret=secret,
        now_us=here().store.now_us(),
    )


@desk.page("POST", "/admin/keys", roles=ADMINS)
def create_key() -> str | tuple[str, int]:
    """Make a key; its secret is shown once."""
    scopes = [one for one in SCOPES if one in request.form.getlist("scope")]
    name, days = request.form.get("name", "").strip()[:200], request.form.get("days", "")
    if not name or not scopes:
        return _keys(wrong="Give the key a name and tick what it may do."), 422
    lives = int(days) if days.isascii() and days.isdigit() and len(days) < 6 and int(days) else None
    expires_us = here().store.now_us() + lives * _DAY_US if lives else None
    _, secret = here().store.create_key(name, scopes, expires_us, actor=gate.person().id)
    return _keys(secret=secret)


@desk.page("POST", "/admin/keys/<key_id>/revoke", roles=ADMINS)
def revoke_key(key_id: str) -> AnyResponse:
    """End a key for good."""
    here().store.revoke_key(key_id, actor=gate.person().id)
    return redirect(url_for("admin.keys", said="saved"), 303)


# --- webhooks ------------------------------------------------------------------------------------


@desk.page("GET", "/admin/webhooks", roles=ADMINS)
def receivers() -> str:
    """Endpoints, and what was sent to them."""
    return _receivers()


def _receivers(wrong: str = "", secret: str = "") -> str:
    state = next((one for one in _MESSAGE_STATES if one == request.args.get("state")), None)
    endpoint = request.args.get("endpoint") or None
    page = here().store.list_messages(
        MessageFilters(state=state, endpoint_id=endpoint), request.args.get("cursor"), _PER_PAGE
    )
    return render_template(
        "assay/admin/webhooks.html",
        part="receivers",
        endpoints=here().store.list_endpoints(),
        messages=page.items,
        states=_MESSAGE_STATES,
        chosen=state,
        chosen_endpoint=endpoint,
        event_types=EVENT_TYPES,
        older_link=next_link(request.path, request.args, page.next_cursor),
        wrong=wrong,
        secret=secret,
    )


@desk.page("POST", "/admin/webhooks", roles=ADMINS)
def create_receiver() -> str | tuple[str, int]:
    """Add an endpoint; the secret that it checks signatures with is shown once."""
    types = [one for one in EVENT_TYPES if one in request.form.getlist("type")]
    try:
        given = EndpointGiven.model_validate({"url": request.form.get("url", "").strip(), "event_types": types})
        webhooks.target(given.url, here().settings.webhook_allow_private)
    except ValidationError:
        return _receivers(wrong="That is no address of a web page: https://… without blanks."), 422
    except ValueError as error:
        return _receivers(wrong=sentence(error)), 422
    secret = webhooks.new_secret()
    here().store.create_endpoint(given.url, types, secret, actor=gate.person().id)
    return _receivers(secret=secret)


@desk.page("POST", "/admin/webhooks/<endpoint_id>", roles=ADMINS)
def change_receiver(endpoint_id: str) -> AnyResponse | str:
    """Ping, switch off or on, give a new secret, remove."""
    store, act, actor = here().store, request.form.get("act", ""), gate.person().id
    if act == "ping":
        store.ping_endpoint(endpoint_id, actor=actor)
    elif act == "disable":
        store.disable_endpoint(endpoint_id, "switched off by an administrator", actor=actor)
    elif act == "enable":
        store.enable_endpoint(endpoint_id, actor=actor)
    elif act == "delete":
        store.delete_endpoint(endpoint_id, actor=actor)
    elif act == "rotate":
        secret = webhooks.new_secret()
        store.rotate_secret(endpoint_id, secret, actor=actor)
        return _receivers(secret=secret)
    else:
        raise ApiProblem(422, "There is nothing of that name to do.")
    return redirect(url_for("admin.receivers", said="saved"), 303)


@desk.page("GET", "/admin/messages/<message_id>", roles=ADMINS)
def message(message_id: str) -> str:
    """One message and its delivery log."""
    found = here().store.message(message_id)
    if found is None:
        raise ApiProblem(404, "There is no such message.")
    attempts = here().store.attempts(message_id)
    return render_template("assay/admin/message.html", part="receivers", message=found, attempts=attempts)


@desk.page("POST", "/admin/messages/<message_id>/replay", roles=ADMINS)
def replay(message_id: str) -> AnyResponse:
    """Send it again."""
    here().store.replay(message_id, actor=gate.person().id)
    return redirect(url_for("admin.message", message_id=message_id, said="saved"), 303)


# --- the rest --------------------------------------------------------------------------------------


@desk.page("GET", "/admin/dead", roles=ADMINS)
def dead() -> str:
    """Submissions that our infrastructure failed on."""
    page = here().store.list_submissions(SubmissionFilters(states=("dead",)), request.args.get("cursor"), _PER_PAGE)
    older = next_link(request.path, request.args, page.next_cursor)
    return render_template("assay/admin/dead.html", part="dead", rows=page.items, older_link=older, who=who)


@desk.page("POST", "/admin/dead", roles=ADMINS)
def requeue_dead() -> AnyResponse:
    """Put those that were ticked back into the queue."""
    for submission_id in request.form.getlist("id")[:_PER_PAGE]:
        here().store.requeue(submission_id, actor=gate.person().id)
    return redirect(url_for("admin.dead", said="requeued"), 303)


@desk.page("GET", "/admin/audit", roles=ADMINS)
def audit() -> str:
    """Who did what."""
    page = here().store.audit_log(request.args.get("cursor"), _PER_PAGE)
    names = {user.id: user.name for user in here().store.list_users()}
    names |= {key.id: f"key {key.name}" for key in here().store.list_keys()}
    older = next_link(request.path, request.args, page.next_cursor)
    return render_template("assay/admin/audit.html", part="audit", entries=page.items, names=names, older_link=older)
