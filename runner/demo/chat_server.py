"""The APIs of the demo provider below both of Kimi's bases: chat, models and caching."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner.demo import rules
from runner.demo.answer import Answer, body_answer, fault_answer, json_answer
from runner.demo.brain import next_step
from runner.demo.caching import KIND, ContextCaches, Hit
from runner.demo.catalog import KIMI_CODE, OPEN_PLATFORM, DemoModel
from runner.demo.completion import Completion, Counts, count_calls, limited, tokens_of
from runner.demo.faults import Fault, Faults
from runner.demo.oauth_state import OAuthState
from runner.demo.prefix_cache import PrefixCache
from runner.demo.rules import ApiError


class ChatServer:
    """Answers ``chat/completions``, ``models`` and ``caching`` below ``/coding/v1`` and ``/v1``.

    The first base takes access tokens and API keys of known coding agents, the second API keys of
    anybody. With ``require_auth=False`` any credential or none will do. Only the second
    offers caching, and without ``caches`` it does not either.
    """

    def __init__(
        self,
        oauth: OAuthState,
        faults: Faults,
        *,
        require_auth: bool,
        caches: ContextCaches | None,
    ) -> None:
        self._oauth = oauth
        self._faults = faults
        self._require_auth = require_auth
        self._keys: set[str] = set()
        self._cache = PrefixCache()
        self._caches = caches
        self._numbers = itertools.count(1)

    def add_api_key(self, key: str) -> None:
        self._keys.add(key)

    def routes(self) -> list[BaseRoute]:
        chats = [
            Route(f"{base}/{path}", handler, methods=[method])
            for base in ("/coding/v1", "/v1")
            for path, handler, method in (
                ("chat/completions", self._chat, "POST"),
                ("models", self._models, "GET"),
            )
        ]
        caching = [
            Route("/v1/caching", self._caching, methods=["GET", "POST"]),
            Route("/v1/caching/{id}", self._caching, methods=["GET", "PUT", "DELETE"]),
        ]
        return [*chats, *caching]

    async def _chat(self, request: Request) -> Response:
        fault = self._faults.take("chat")
        if refusal := self.refuse(request, fault):
            return refusal
        body = _parse(await request.body())
        if isinstance(body, ApiError):
            return _error(body)
        model = rules.find_model(_models_at(request), body.get("model"))
        if isinstance(model, ApiError):
            return _error(model)
        if problem := rules.check_request(body, model):
            return _error(problem)
        hit = self._hit(request, body)
        if isinstance(hit, ApiError):
            return _error(hit)
        answer = self._complete(body, model, _bearer(request), hit.tokens)
        if not body.get("stream"):
            return body_answer(answer.as_json(), headers=hit.headers, fault=fault)
        options = body.get("stream_options") or {}
        return Answer(
            answer.as_events(include_usage=bool(options.get("include_usage"))),
            content_type="text/event-stream",
            headers=hit.headers,
            pause=answer.step.pause,
            fault=fault,
        )

    def _hit(self, request: Request, body: Mapping[str, Any]) -> Hit | ApiError:
        if self._caches is None or _is_coding(request):
            return Hit()
        return self._caches.use(_bearer(request), request.headers, body)

    def _complete(
        self, body: Mapping[str, Any], model: DemoModel, credential: str, hit: int
    ) -> Completion:
        messages, tools = body["messages"], body.get("tools") or []
        prompt_tokens = rules.count_tokens(body)
        room = max(model.context - prompt_tokens, 1)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or room
        offered = [] if body.get("tool_choice") == "none" else tools
        step = limited(
            next_step(messages, offered, thinking=rules.thinking_enabled(body, model)),
            min(limit, room),
        )
        prompt = b"\n".join(
            json.dumps(part, ensure_ascii=False).encode() for part in (tools, *messages)
        )
        cached = self._cache.cached_tokens(credential, body.get("prompt_cache_key") or "", prompt)
        cached = max(cached, hit)
        reasoning = tokens_of(step.reasoning)
        said = step.text + "".join(call.name + call.arguments for call in step.calls)
        return Completion(
            id=f"chatcmpl-demo-{next(self._numbers)}",
            model=model.id,
            created=int(time.time()),
            step=step,
            counts=Counts(
                prompt=prompt_tokens,
                cached=min(cached, prompt_tokens),
                completion=reasoning + tokens_of(said),
                reasoning=reasoning,
            ),
            first_call=count_calls(messages),
        )

    async def _models(self, request: Request) -> Response:
        fault = self._faults.take("models")
        if refusal := self.refuse(request, fault):
            return refusal
        data = [
            {"id": m.id, "object": "model", "owned_by": "moonshot", "context_length": m.context}
            for m in _models_at(request).values()
        ]
        return json_answer({"object": "list", "data": data}, fault=fault)

    async def _caching(self, request: Request) -> Response:
        fault = self._faults.take("caching")
        if refusal := self.refuse(request, fault):
            return refusal
        if self._caches is None:
            return _error(ApiError(404, "resource_not_found_error", "Not found"))
        owner, id_ = _bearer(request), request.path_params.get("id", "")
        if request.method == "GET" and not id_:
            data = [cache.as_json() for cache in self._caches.of(owner)]
            return json_answer({"object": "list", "data": data}, fault=fault)
        body: dict[str, Any] | ApiError = {}
        if request.method in ("POST", "PUT"):
            body = _parse(await request.body())
        if isinstance(body, ApiError):
            return _error(body)
        match request.method:
            case "POST":
                found = self._caches.create(owner, body)
            case "PUT":
                found = self._caches.change(owner, id_, body)
            case "DELETE":
                found = self._caches.delete(owner, id_)
            case _:
                found = self._caches.look(owner, id_)
        if isinstance(found, ApiError):
            return _error(found)
        if request.method == "DELETE":
            return json_answer({"id": id_, "deleted": True, "object": KIND}, fault=fault)
        return json_answer(found.as_json(), fault=fault)

    def refuse(self, request: Request, fault: Fault | None) -> Response | None:
        """The answer to a request that must not be processed: by its fault, client, credential."""
        if fault is not None and fault.replaces:
            return fault_answer(fault)
        coding = _is_coding(request)
        if coding and (error := rules.check_client(request.headers.get("user-agent", ""))):
            return _error(error)
        if error := self._check_credential(_bearer(request), coding=coding):
            return _error(error)
        return None

    def _check_credential(self, token: str, *, coding: bool) -> ApiError | None:
        if not self._require_auth or token in self._keys:
            return None
        if coding and self._oauth.accepts(token):
            return None
        if token.startswith("sk-"):
            return ApiError(401, "incorrect_api_key_error", "Incorrect API key provided")
        return ApiError(401, "invalid_authentication_error", "Invalid Authentication")


def _models_at(request: Request) -> Mapping[str, DemoModel]:
    return KIMI_CODE if _is_coding(request) else OPEN_PLATFORM


def _is_coding(request: Request) -> bool:
    return request.url.path.startswith("/coding/")


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _parse(raw: bytes) -> dict[str, Any] | ApiError:
    """The body as an object; text that is not Unicode (lone surrogates) is refused too."""
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as e:
        return rules.invalid(f"the body is not valid JSON: {type(e).__name__}")
    return body if isinstance(body, dict) else rules.invalid("the body must be a JSON object")


def _error(error: ApiError) -> Response:
    return body_answer(error.body(), status=error.status)
