"""Signing and verifying, beside the reference package as an oracle."""

from __future__ import annotations

import base64
import string
from datetime import UTC, datetime
from typing import Any

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from services import webhooks
from services.webhooks import VerificationFailed

NOW = 1_800_000_000
IDS = st.text(st.sampled_from(string.ascii_letters + string.digits + "_-"), min_size=1, max_size=40)
KEYS = st.binary(min_size=24, max_size=64)
NASTY = st.one_of(st.text(max_size=60), st.text(st.sampled_from("v1,=. +-/_\x00é0123456789"), max_size=60))


def secret_of(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def check(secrets: list[str], received: dict[str, str], body: bytes, now_s: float = NOW) -> str:
    return webhooks.verify(secrets, received, body, now_s=now_s, tolerance_s=300)


@given(KEYS, IDS, st.binary(max_size=200))
def test_what_is_signed_verifies(key: bytes, message_id: str, body: bytes) -> None:
    secret = secret_of(key)
    assert check([secret], webhooks.headers([secret], message_id, NOW, body), body) == message_id


@given(KEYS, IDS, st.text(max_size=200).filter(lambda t: t.isprintable()))
def test_signatures_are_those_of_the_reference(key: bytes, message_id: str, body: str) -> None:
    reference = standardwebhooks.Webhook(secret_of(key))
    theirs = reference.sign(message_id, datetime.fromtimestamp(NOW, UTC), body)
    assert webhooks.sign(secret_of(key), message_id, NOW, body.encode()) == theirs


def test_the_reference_takes_our_headers() -> None:
    secret, body = webhooks.new_secret(), b'{"type":"x"}'
    now = int(datetime.now(UTC).timestamp())
    assert standardwebhooks.Webhook(secret).verify(body, webhooks.headers([secret], "msg_1", now, body)) == {
        "type": "x"
    }


@given(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), NASTY)
def test_a_changed_header_never_verifies_and_never_fails_otherwise(name: str, value: str) -> None:
    secret, body = secret_of(b"k" * 24), b"{}"
    received = webhooks.headers([secret], "msg_1", NOW, body)
    if value == received[name] or received["webhook-signature"] in value.split(" "):
        return
    with pytest.raises(VerificationFailed):
        check([secret], received | {name: value}, body)


@given(st.dictionaries(NASTY, NASTY, max_size=5), st.binary(max_size=50))
def test_arbitrary_headers_never_verify(received: dict[str, str], body: bytes) -> None:
    with pytest.raises(VerificationFailed):
        check([secret_of(b"k" * 24)], received, body)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_another_body_never_verifies(body: bytes, other: bytes) -> None:
    secret = secret_of(b"k" * 32)
    received = webhooks.headers([secret], "msg_1", NOW, body)
    if body != other:
        with pytest.raises(VerificationFailed):
            check([secret], received, other)


def test_a_body_that_is_no_text_verifies_by_its_bytes() -> None:
    """The reference raises UnicodeDecodeError here."""
    secret, body = webhooks.new_secret(), b"\xff\xfe\x00"
    assert check([secret], webhooks.headers([secret], "msg_1", NOW, body), body) == "msg_1"


def test_two_secrets_overlap_while_one_replaces_the_other() -> None:
    old, new, body = webhooks.new_secret(), webhooks.new_secret(), b"{}"
    both = webhooks.headers([new, old], "msg_1", NOW, body)
    for receiver_knows in ([old], [new], [old, new]):
        assert check(receiver_knows, both, body) == "msg_1"
    with pytest.raises(VerificationFailed):
        check([webhooks.new_secret()], both, body)
    with pytest.raises(VerificationFailed):
        check([], both, body)


def test_other_versions_and_broken_entries_are_passed_over() -> None:
    secret, body = webhooks.new_secret(), b"{}"
    received = webhooks.headers([secret], "msg_1", NOW, body)
    received["webhook-signature"] = f"v1a,zzz v1 , é v1,%%% {received['webhook-signature']}"
    assert check([secret], received, body) == "msg_1"


@pytest.mark.parametrize(("off_s", "taken"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_only_fresh_messages_are_taken(off_s: int, taken: bool) -> None:
    secret = webhooks.new_secret()
    received = webhooks.headers([secret], "msg_1", NOW + off_s, b"")
    if taken:
        assert check([secret], received, b"") == "msg_1"
    else:
        with pytest.raises(VerificationFailed, match="from now"):
            check([secret], received, b"")


def test_a_dot_cannot_move_the_border_between_id_time_and_body() -> None:
    """`a` at 1800000000 with the body `1800000000.x` signs the text of `a.1800000000` at 1800000000 with `x`."""
    secret = webhooks.new_secret()
    first = webhooks.headers([secret], "a", NOW, f"{NOW}.x".encode())
    forged = first | {"webhook-id": f"a.{NOW}"}
    assert webhooks.sign(secret, f"a.{NOW}", NOW, b"x") == first["webhook-signature"]
    with pytest.raises(VerificationFailed, match="dot"):
        check([secret], forged, b"x")


def test_headers_come_in_any_case() -> None:
    secret = webhooks.new_secret()
    received = {name.title(): value for name, value in webhooks.headers([secret], "msg_1", NOW, b"").items()}
    assert check([secret], received, b"") == "msg_1"


@pytest.mark.parametrize(
    "timestamp", ["", "x", "1.5", "-1", "1e9", " 1800000000", "1800000000 ", "١٨٠٠٠٠٠٠٠٠", "9" * 40, "nan", "inf"]
)
def test_only_whole_seconds_are_a_time(timestamp: str) -> None:
    secret = webhooks.new_secret()
    received = webhooks.headers([secret], "msg_1", NOW, b"") | {"webhook-timestamp": timestamp}
    with pytest.raises(VerificationFailed):
        check([secret], received, b"")


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_AAAA", "whsec_é" + "A" * 40, "A" * 44, secret_of(b"k" * 23), secret_of(b"k" * 65)]
)
def test_what_is_no_secret_is_refused_without_being_repeated(secret: str) -> None:
    with pytest.raises(webhooks.InvalidSecret) as caught:
        webhooks.key_of(secret)
    assert len(secret) < 7 or secret not in str(caught.value)


def test_secrets_are_fresh_and_well_formed() -> None:
    made = {webhooks.new_secret() for _ in range(50)}
    assert len(made) == 50
    assert {len(webhooks.key_of(secret)) for secret in made} == {32}


def test_a_failure_does_not_tell_the_signature_that_would_have_done() -> None:
    secret = webhooks.new_secret()
    received: dict[str, Any] = webhooks.headers([secret], "msg_1", NOW, b"{}")
    with pytest.raises(VerificationFailed) as caught:
        check([secret], received, b"{ }")
    assert "v1," not in str(caught.value) and "whsec" not in str(caught.value)
