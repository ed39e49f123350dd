"""Whatever is sent, an integration answers; only the desk's own troubles come out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import ats

if TYPE_CHECKING:
    from tests.services.ats.conftest import Ats

ACTIONS = [(kind, method, action) for kind in ats.KINDS for action, method in ats.actions(kind).items()]
RECORDED = [
    "greenhouse/send_test.json",
    "greenhouse/response_error.json",
    "ashby/assessment.start.json",
    "ashby/assessment.cancel.json",
    "workable/assessments.json",
    "standard/submission.create.json",
]
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
ONE_DESK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def mutated(draw: st.DrawFn, body: Any) -> Any:
    """`body` with something in it replaced, removed or added."""
    if isinstance(body, dict) and body and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(body)))
        return body | {key: draw(mutated(body[key]))}
    if isinstance(body, dict) and body and draw(st.booleans()):
        return {key: value for key, value in body.items() if key != draw(st.sampled_from(sorted(body)))}
    return draw(JSON)


def require_answer(answer: ats.Answer) -> None:
    assert answer.status in (200, 201, 202, 401, 404, 405, 409, 413, 422)
    json.dumps(answer.body, allow_nan=False).encode()


@ONE_DESK
@given(st.sampled_from(ACTIONS), st.binary(max_size=200))
def test_any_bytes_are_answered(vendor: Ats, target: tuple[str, str, str], body: bytes) -> None:
    require_answer(vendor.ask(*target, body))


@ONE_DESK
@given(st.sampled_from(ACTIONS), st.sampled_from(RECORDED).flatmap(lambda name: st.tuples(st.just(name), st.data())))
def test_any_change_to_a_recorded_body_is_answered(
    vendor: Ats, target: tuple[str, str, str], drawn: tuple[str, st.DataObject]
) -> None:
    name, data = drawn
    require_answer(vendor.ask(*target, data.draw(mutated(vendor.recorded(name)))))


@ONE_DESK
@given(
    st.sampled_from(ats.KINDS),
    st.text(max_size=8),
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3),
    st.text(max_size=40),
    st.binary(max_size=40),
)
def test_any_call_without_the_key_is_refused(
    vendor: Ats, kind: str, method: str, action: str, query: dict[str, str], shown: str, body: bytes
) -> None:
    for header in (
        {},
        {"Authorization": shown},
        {"authorization": f"Basic {shown}"},
        {"AUTHORIZATION": f"Bearer {shown}"},
    ):
        answer = ats.handle(
            vendor.integration(kind), ats.Call(method, action, query, header, body), vendor.desk, vendor.terms
        )
        assert answer.status == 401


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_deep_nesting_is_answered(vendor: Ats, depth: int) -> None:
    for kind, method, action in ACTIONS:
        require_answer(vendor.ask(kind, method, action, b"[" * depth))
        require_answer(vendor.ask(kind, method, action, b'{"data":' * depth + b"1" + b"}" * depth))


@pytest.mark.parametrize("kind", ["greenhouse", "ashby", "workable"])
def test_a_key_opens_only_in_the_scheme_of_its_kind(vendor: Ats, kind: str) -> None:
    integration = vendor.integration(kind)
    method, action = next((m, a) for k, m, a in ACTIONS if k == kind)

    def status(header: str, known: ats.Integration = integration) -> int:
        return ats.handle(
            known, ats.Call(method, action, {}, {"Authorization": header}, b"{}"), vendor.desk, vendor.terms
        ).status

    right = vendor.authorization(kind)
    assert status(right) == 200
    assert status(right.upper() if kind == "workable" else right.lower()) == 401
    assert status(vendor.authorization(kind, "other")) == 401
    assert status(vendor.authorization("greenhouse" if kind == "workable" else "workable")) == 401
    assert status(vendor.authorization(kind, "")) == 401
    assert status(right, vendor.integration(kind, inbound_key_sha256=())) == 401


@pytest.mark.parametrize("kind", ["greenhouse", "ashby", "workable"])
def test_either_of_two_keys_opens(vendor: Ats, kind: str) -> None:
    method, action = next((m, a) for k, m, a in ACTIONS if k == kind)
    known = vendor.integration(kind)
    both = vendor.integration(kind, inbound_key_sha256=("0" * 64, *known.inbound_key_sha256))
    assert ats.handle(both, vendor.call(kind, method, action, {}), vendor.desk, vendor.terms).status == 200


def test_refusals_do_not_repeat_what_was_sent(vendor: Ats) -> None:
    """An error page or a log of ours is no place for a candidate's data."""
    body = vendor.recorded("greenhouse/send_test.json") | {"candidate": {"email": ["private@example.com"]}}
    answer = vendor.ask("greenhouse", "POST", "send_test", body)
    assert answer.status == 422 and "private" not in json.dumps(answer.body)
