"""Routes of those who run the service: API keys, integrations, the audit log."""

from __future__ import annotations

import secrets
from typing import Any

from services import webhooks
from services.api.models import (
    AssessmentQuery,
    AssessmentTold,
    AuditTold,
    IntegrationGiven,
    IntegrationPath,
    Integrations,
    IntegrationTold,
    IntegrationWithSecret,
    KeyGiven,
    KeyPath,
    Keys,
    KeyTold,
    KeyWithSecret,
    Listed,
    PageQuery,
    assessment_of,
    audit_of,
    integration_fields,
    key_fields,
    microseconds,
)
from services.api.paging import LINK, listed
from services.api.problems import ApiProblem
from services.api.routing import Answer, Result, Room, needs
from services.api.service import actor, here, key
from services.store import Integration, NewIntegration

room = Room("administration", "Administration")
_MANAGE = needs("manage")
_CREDENTIAL_BYTES = 32


class Assessments(Listed[AssessmentTold]):
    """One page of assessments, newest first."""


class Audit(Listed[AuditTold]):
    """One page of the audit log, newest first."""


@room.route_for(
    "POST",
    "/keys",
    access=_MANAGE,
    answers={201: Answer("Made; its secret is shown this once.", KeyWithSecret)},
    problems=(415,),
)
def create_key(body: KeyGiven) -> Result:
    """Make an API key."""
    if len(set(body.scopes)) != len(body.scopes):
        raise ApiProblem(422, "A scope is given twice.", "invalid-request", [("/scopes", "given twice")])
    store, expires_us = here().store, microseconds(body.expires_at)
    if expires_us is not None and expires_us <= store.now_us():
        raise ApiProblem(
            422, "The key would have expired already.", "invalid-request", [("/expires_at", "in the past")]
        )
    made, secret = store.create_key(body.name, body.scopes, expires_us, actor=actor())
    return KeyWithSecret.model_validate({**key_fields(made), "secret": secret}), 201


@room.route_for("GET", "/keys", access=_MANAGE, answers={200: Answer("All of them.", Keys)})
def list_keys() -> Result:
    """List the API keys, revoked ones too, without their secrets."""
    return Keys(data=[KeyTold.model_validate(key_fields(one)) for one in here().store.list_keys()])


@room.route_for(
    "DELETE", "/keys/<key_id>", access=_MANAGE, answers={200: Answer("Revoked.", KeyTold)}, problems=(404, 409)
)
def revoke_key(path: KeyPath) -> Result:
    """Revoke an API key, for good.

    409 for the key of this very request, so that nobody shuts the last door behind them.
    """
    if path.key_id == key().id:
        raise ApiProblem(409, "A key does not revoke itself; use another.", "conflict")
    return KeyTold.model_validate(key_fields(here().store.revoke_key(path.key_id, actor=actor())))


@room.route_for(
    "POST",
    "/integrations",
    access=_MANAGE,
    answers={201: Answer("Made; what it is let in with is shown this once.", IntegrationWithSecret)},
    problems=(409, 415),
)
def create_integration(body: IntegrationGiven) -> Result:
    """Connect an applicant tracking system.

    `standard` signs by Standard Webhooks with the secret in the answer; the other kinds show the credential as
    user name of Basic authentication or as a bearer token. 409 where the slug is taken.
    """
    for slug in body.challenges.values():
        here().require_challenge(slug)
    standard = body.kind == "standard"
    if standard and body.outbound_key:
        detail = "The standard kind signs; it has no outbound key."
        raise ApiProblem(422, detail, "invalid-request", [("/outbound_key", "not for this kind")])
    secret = webhooks.new_secret() if standard else None
    kept = secret or body.outbound_key
    credential = None if standard else f"assay_hook_{secrets.token_urlsafe(_CREDENTIAL_BYTES)}"
    new = NewIntegration(
        slug=body.slug,
        kind=body.kind,
        secrets=(kept,) if kept else (),
        credential=credential,
        challenge_map=dict(body.challenges),
        settings=dict(body.settings),
    )
    made = here().store.create_integration(new, actor=actor())
    return IntegrationWithSecret.model_validate({**_fields(made), "secret": secret, "credential": credential}), 201


def _fields(integration: Integration) -> dict[str, Any]:
    return integration_fields(integration, here().base)


@room.route_for("GET", "/integrations", access=_MANAGE, answers={200: Answer("All of them.", Integrations)})
def list_integrations() -> Result:
    """List the integrations, without their secrets."""
    return Integrations(data=[IntegrationTold.model_validate(_fields(one)) for one in here().store.list_integrations()])


@room.route_for(
    "GET",
    "/integrations/<integration>",
    access=_MANAGE,
    answers={200: Answer("The integration.", IntegrationTold)},
    problems=(404,),
)
def get_integration(path: IntegrationPath) -> Result:
    """Get an integration, without its secrets."""
    return IntegrationTold.model_validate(_fields(_find(path.integration)))


@room.route_for(
    "DELETE",
    "/integrations/<integration>",
    access=_MANAGE,
    answers={204: Answer("Gone.")},
    problems=(404,),
)
def delete_integration(path: IntegrationPath) -> Result:
    """Disconnect an applicant tracking system. Its submissions stay."""
    here().store.delete_integration(_find(path.integration).id, actor=actor())
    return None, 204


def _find(slug: str) -> Integration:
    integration = here().store.integration_by_slug(slug)
    if integration is None:
        raise ApiProblem(404, "There is no such integration.")
    return integration


@room.route_for(
    "GET",
    "/assessments",
    access=needs("read"),
    answers={200: Answer("A page.", Assessments, headers=LINK)},
    problems=(404,),
)
def list_assessments(query: AssessmentQuery) -> Result:
    """List whom applicant tracking systems want assessed, newest first.

    Whoever invites candidates reads it. Invite one by `POST /v1/assessments/{id}/invitation`, or hand in for them by
    `POST /v1/submissions` with the id.
    """
    integration = _find(query.integration).id if query.integration else None
    store = here().store
    page, now_us = store.list_assessments(integration, query.cursor, query.limit), store.now_us()
    links = store.invitations_to([one.id for one in page.items])
    return listed(Assessments, [assessment_of(one, links.get(one.id), now_us) for one in page.items], page)


@room.route_for("GET", "/audit", access=_MANAGE, answers={200: Answer("A page.", Audit, headers=LINK)})
def list_audit(query: PageQuery) -> Result:
    """Read the audit log, newest first.

    Each line's hash covers it and all lines before it.
    """
    page = here().store.audit_log(query.cursor, query.limit)
    return listed(Audit, [audit_of(entry) for entry in page.items], page)
