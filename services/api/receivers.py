"""Routes of webhook endpoints: who is told, with which secrets, and what came of it."""

from __future__ import annotations

from services import webhooks
from services.api.models import (
    DeliveryInFull,
    DeliveryPath,
    DeliveryQuery,
    DeliveryTold,
    EndpointGiven,
    EndpointPath,
    Endpoints,
    EndpointTold,
    EndpointWithSecret,
    Listed,
    attempt_of,
    delivery_fields,
    endpoint_fields,
)
from services.api.paging import LINK, listed
from services.api.problems import ApiProblem
from services.api.routing import Answer, Result, Room, needs
from services.api.service import actor, here
from services.store import Endpoint, MessageFilters

room = Room("receivers", "Webhook endpoints")
_MANAGE = needs("manage")


class Deliveries(Listed[DeliveryTold]):
    """One page of the delivery log, newest first."""


@room.route_for(
    "POST",
    "/webhook-endpoints",
    access=_MANAGE,
    answers={201: Answer("Made; the secret is shown this once.", EndpointWithSecret)},
    problems=(415,),
)
def create_endpoint(body: EndpointGiven) -> Result:
    """Make a webhook endpoint.

    Events are posted to it as Standard Webhooks has it, signed with the secret in the answer. Addresses that
    are not on the public Internet are refused when something is sent, unless a development setting allows them.
    """
    settings = here().settings
    try:
        webhooks.target(body.url, settings.webhook_allow_private)
    except webhooks.UnsafeUrl as error:
        raise ApiProblem(422, f"Not an address for webhooks: {error}.", "unsafe-url", [("/url", str(error))]) from None
    secret = webhooks.new_secret()
    endpoint = here().store.create_endpoint(body.url, tuple(dict.fromkeys(body.event_types)), secret, actor=actor())
    return EndpointWithSecret.model_validate({**endpoint_fields(endpoint), "secret": secret}), 201


@room.route_for("GET", "/webhook-endpoints", access=_MANAGE, answers={200: Answer("All of them.", Endpoints)})
def list_endpoints() -> Result:
    """List the webhook endpoints."""
    return Endpoints(data=[_told(endpoint) for endpoint in here().store.list_endpoints()])


@room.route_for(
    "GET",
    "/webhook-endpoints/<endpoint_id>",
    access=_MANAGE,
    answers={200: Answer("The endpoint.", EndpointTold)},
    problems=(404,),
)
def get_endpoint(path: EndpointPath) -> Result:
    """Get a webhook endpoint, without its secrets."""
    return _told(_find(path.endpoint_id))


def _find(endpoint_id: str) -> Endpoint:
    endpoint = here().store.endpoint(endpoint_id)
    if endpoint is None:
        raise ApiProblem(404, "There is no such webhook endpoint.")
    return endpoint


def _told(endpoint: Endpoint) -> EndpointTold:
    return EndpointTold.model_validate(endpoint_fields(endpoint))


@room.route_for(
    "POST",
    "/webhook-endpoints/<endpoint_id>/rotate",
    access=_MANAGE,
    answers={200: Answer("The new secret, shown this once.", EndpointWithSecret)},
    problems=(404,),
)
def rotate_endpoint_secret(path: EndpointPath) -> Result:
    """Give an endpoint a new secret.

    The one before it stays live for a day: messages are signed with both.
    """
    secret = webhooks.new_secret()
    endpoint = here().store.rotate_secret(path.endpoint_id, secret, actor=actor())
    return EndpointWithSecret.model_validate({**endpoint_fields(endpoint), "secret": secret})


@room.route_for(
    "POST",
    "/webhook-endpoints/<endpoint_id>/enable",
    access=_MANAGE,
    answers={200: Answer("It is sent what waited.", EndpointTold)},
    problems=(404,),
)
def enable_endpoint(path: EndpointPath) -> Result:
    """Send to an endpoint again."""
    return _told(here().store.enable_endpoint(path.endpoint_id, actor=actor()))


@room.route_for(
    "POST",
    "/webhook-endpoints/<endpoint_id>/disable",
    access=_MANAGE,
    answers={200: Answer("What is for it waits.", EndpointTold)},
    problems=(404,),
)
def disable_endpoint(path: EndpointPath) -> Result:
    """Send nothing to an endpoint for a while."""
    return _told(here().store.disable_endpoint(path.endpoint_id, "disabled on request", actor=actor()))


@room.route_for(
    "POST",
    "/webhook-endpoints/<endpoint_id>/ping",
    access=_MANAGE,
    answers={202: Answer("The message that is sent.", DeliveryTold)},
    problems=(404, 409),
)
def ping_endpoint(path: EndpointPath) -> Result:
    """Send a test message. 409 where the endpoint is disabled."""
    message = here().store.ping_endpoint(path.endpoint_id, actor=actor())
    return DeliveryTold.model_validate(delivery_fields(message)), 202


@room.route_for(
    "DELETE",
    "/webhook-endpoints/<endpoint_id>",
    access=_MANAGE,
    answers={204: Answer("Gone.")},
    problems=(404,),
)
def delete_endpoint(path: EndpointPath) -> Result:
    """Remove an endpoint. Its delivery log stays."""
    here().store.delete_endpoint(path.endpoint_id, actor=actor())
    return None, 204


@room.route_for(
    "GET",
    "/webhook-endpoints/<endpoint_id>/deliveries",
    access=_MANAGE,
    answers={200: Answer("A page.", Deliveries, headers=LINK)},
    problems=(404,),
)
def list_deliveries(path: EndpointPath, query: DeliveryQuery) -> Result:
    """List what was sent to an endpoint or waits for it, newest first."""
    _find(path.endpoint_id)
    filters = MessageFilters(
        endpoint_id=path.endpoint_id,
        event_type=query.event_type,
        state=query.state,
        submission_id=query.submission_id,
        cohort_id=query.cohort_id,
    )
    page = here().store.list_messages(filters, query.cursor, query.limit)
    return listed(Deliveries, [DeliveryTold.model_validate(delivery_fields(one)) for one in page.items], page)


@room.route_for(
    "GET",
    "/deliveries/<message_id>",
    access=_MANAGE,
    answers={200: Answer("The message.", DeliveryInFull)},
    problems=(404,),
)
def get_delivery(path: DeliveryPath) -> Result:
    """Get a message with its body and all attempts."""
    message = here().store.message(path.message_id)
    if message is None:
        raise ApiProblem(404, "There is no such message.")
    log = [attempt_of(attempt) for attempt in here().store.attempts(message.id)]
    return DeliveryInFull.model_validate({**delivery_fields(message), "body": message.body, "attempt_log": log})


@room.route_for(
    "POST",
    "/deliveries/<message_id>/replay",
    access=_MANAGE,
    answers={202: Answer("It is sent again, under the same id.", DeliveryTold)},
    problems=(404, 409),
)
def replay_delivery(path: DeliveryPath) -> Result:
    """Send a delivered or dead message again.

    409 where it is pending, was erased, or its endpoint is gone.
    """
    message = here().store.replay(path.message_id, actor=actor())
    return DeliveryTold.model_validate(delivery_fields(message)), 202
