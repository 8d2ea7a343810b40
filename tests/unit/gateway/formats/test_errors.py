from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.failure import GatewayFailure
from runner.gateway.formats.anthropic_response import to_anthropic
from runner.gateway.formats.chat_response import to_chat_response
from runner.gateway.formats.errors import (
    Untranslatable,
    anthropic_body,
    openai_body,
    read_error,
)

from .strategies import properties


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (402, "billing_error", "billing_error"),
        (403, "permission_error", "permission_error"),
        (404, "not_found_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (422, "invalid_request_error", "invalid_request_error"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "api_error", "api_error"),
        (502, "api_error", "api_error"),
        (503, "overloaded_error", "overloaded_error"),
        (504, "timeout_error", "timeout_error"),
        (529, "overloaded_error", "overloaded_error"),
    ],
)
def test_each_status_has_the_type_of_the_called_api(
    status: int, openai: str, anthropic: str
) -> None:
    failure = GatewayFailure(status, "", "no")
    assert openai_body(failure)["error"]["type"] == openai
    assert anthropic_body(failure) == {
        "type": "error",
        "error": {"type": anthropic, "message": "no"},
    }


def test_kimis_types_are_kept_for_chat_and_translated_for_anthropic() -> None:
    failure = GatewayFailure(429, "engine_overloaded_error", "busy")
    assert openai_body(failure)["error"] == {
        "message": "busy",
        "type": "engine_overloaded_error",
        "param": None,
        "code": None,
    }
    assert anthropic_body(failure)["error"]["type"] == "overloaded_error"


def test_an_overflow_is_told_in_the_words_that_make_clients_compact() -> None:
    said = "Invalid request: Your request exceeded model token limit: 262144 (requested: 270000)"
    failure = GatewayFailure(400, "invalid_request_error", said)
    assert anthropic_body(failure)["error"]["message"] == f"prompt is too long: {said}"
    assert openai_body(failure)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ({"error": {"type": "t", "message": "m"}}, "t", "m"),
        ({"error": {"code": "c", "message": "m"}}, "c", "m"),
        ({"type": "error", "error": {"type": "busy", "message": "m"}}, "busy", "m"),
        ({"error": "m"}, "overloaded_error", "m"),
        ({"message": "m"}, "overloaded_error", "m"),
        ({"detail": "m"}, "overloaded_error", "m"),
        ("m", "overloaded_error", "m"),
        ([1], "overloaded_error", "the provider answered with HTTP 503"),
    ],
)
def test_a_providers_error_of_any_shape_is_read(body: Any, kind: str, message: str) -> None:
    got = read_error(503, json.dumps(body).encode(), 7.0)
    assert got == GatewayFailure(503, kind, message, 7.0)


def test_a_page_of_a_proxy_is_a_message() -> None:
    assert read_error(502, b"<html>Bad Gateway</html>").message == "<html>Bad Gateway</html>"
    assert len(read_error(502, b"x" * 100_000).message) <= 2000


@properties
@given(st.binary(max_size=60), st.integers(400, 599))
def test_garbage_is_still_a_failure_with_words(body: bytes, status: int) -> None:
    got = read_error(status, body)
    assert got.status == status
    assert got.type
    assert got.message


@pytest.mark.parametrize(
    ("response", "status", "kind"),
    [
        ({"error": {"type": "insufficient_quota"}}, 429, "insufficient_quota"),
        ({"choices": []}, 502, "api_error"),
        ({"choices": [{"finish_reason": "stop"}]}, 502, "api_error"),
        ({"choices": [{"message": {"content": "half"}}]}, 502, "stream_truncated"),
        ({"choices": [{"message": {"tool_calls": [{}]}, "finish_reason": "x"}]}, 502, "api_error"),
    ],
)
def test_a_chat_answer_that_is_none_is_a_failure(response: Any, status: int, kind: str) -> None:
    with pytest.raises(Untranslatable) as refusal:
        to_anthropic(response, model="m")
    assert (refusal.value.failure.status, refusal.value.failure.type) == (status, kind)


@pytest.mark.parametrize(
    ("response", "status", "kind"),
    [
        ({"type": "error", "error": {"type": "not_found_error"}}, 404, "not_found_error"),
        ({"stop_reason": "end_turn"}, 502, "api_error"),
        ({"content": []}, 502, "stream_truncated"),
        ({"content": [{"type": "text"}], "stop_reason": "end_turn"}, 502, "api_error"),
    ],
)
def test_a_message_that_is_none_is_a_failure(response: Any, status: int, kind: str) -> None:
    with pytest.raises(Untranslatable) as refusal:
        to_chat_response(response, model="m", created=0)
    assert (refusal.value.failure.status, refusal.value.failure.type) == (status, kind)
