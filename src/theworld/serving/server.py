"""The handlers of `transformers serve`, restricted to one model.

Those handlers load any model that a request names, run a chat template in a request, and open local files as images.
Here a request sets the conversation, the sampling and the world steps, and nothing else.
"""

from __future__ import annotations

import asyncio
import copy
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, cast

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from jinja2 import TemplateError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Route
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerationState
from typing_extensions import override

from theworld.model import TheWorld
from theworld.model.configuration_theworld import check_world_steps
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError, one_line

from .requests import check_fields, check_unicode, read_messages, world_settings

ROUTES = {"/v1/chat/completions", "/v1/models", "/health"}
MAX_BODY = 2**26  # bytes of a request: a conversation with photos as base64


def build_app(model: TheWorld, name: str) -> FastAPI:
    """The server's application: `/v1/chat/completions`, `/v1/models` and `/health`.

    Args:
        name: What requests call the model.
    """
    chat, closed = WorldChat(model, name), cast(Any, None)
    app = build_server(
        chat.model_manager,
        chat,
        completion_handler=closed,
        response_handler=closed,
        transcription_handler=closed,
        systemone_handler=closed,
        generation_state=chat.generation_state,
    )
    app.router.routes[:] = [route for route in app.router.routes if isinstance(route, Route) and route.path in ROUTES]
    app.max_body_size = MAX_BODY
    for error in (AnyHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, _as_json)
    return app


def serve(model: TheWorld, name: str, listening: socket.socket) -> None:
    """Answer requests for `model` on a socket until interrupted."""
    config = uvicorn.Config(build_app(model, name), log_level="info", timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listening])


class _OneModel(ModelManager):
    """The one model that is served; loads nothing."""

    def __init__(self, model: TheWorld, name: str) -> None:
        super().__init__()
        self.model, self.force_model, self.created = model, name, int(time.time())

    @staticmethod
    @override
    def process_model_name(model_id: str) -> str:
        return model_id

    @override
    def load_model_and_processor(self, *args: Any, **kwargs: Any) -> Any:
        return self.model, self.model.processor

    def list_models(self) -> list[dict[str, Any]]:
        """What `/v1/models` shows; transformers 5.23 calls it `get_gen_models`."""
        return [{"id": self.force_model, "object": "model", "created": self.created, "owned_by": "theworld"}]

    get_gen_models = list_models  # pyright: ignore[reportAssignmentType]


class WorldChat(ChatCompletionHandler):
    """`/v1/chat/completions` with the world's settings in `chat_template_kwargs`."""

    def __init__(self, model: TheWorld, name: str) -> None:
        super().__init__(_OneModel(model, name), GenerationState())
        self.model = model
        # A tokenizer cannot be called in one thread while another decodes with it: prompts have one of their own
        self.processor, self.lock = copy.deepcopy(self.model.processor), threading.Lock()

    @override
    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        """Answer one request, as JSON or as a stream.

        Raises:
            HTTPException: 400 or 422; the detail says what is wrong with the request.
        """
        try:
            check_unicode(body)
            self._validate_request(body)
            name, model, processor = self._resolve_model(body)
            inputs, config = await asyncio.to_thread(self.prepare, body)
            # The tokenizer, not the processor: transformers looks for the texts of `stop` in its vocabulary
            arguments: Any = (request_id, model, processor.tokenizer, name, inputs, config)
            manager = self.generation_state.get_manager(name)
            if body.get("stream"):
                return self._streaming(*arguments, gen_manager=manager)
            return await self._non_streaming(*arguments, gen_manager=manager)
        except (ValueError, TemplateError) as error:
            raise HTTPException(400, one_line(error)) from error

    def prepare(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], GenerationConfig]:
        """The arguments of `generate` for a request.

        Raises:
            ValueError: A field, an image or the length of the prompt is not what the model takes.
        """
        # 1. Validate the fields, then open images, before the lock: a slow address must not hold up other requests
        check_fields(body)
        world = world_settings(body.get("chat_template_kwargs"))
        if world["num_world_steps"] is not None:  # the processor looks at it only if there is an image
            check_world_steps(world["num_world_steps"], self.model.config.max_world_steps)
        limit = self.model.config.get_text_config().max_position_embeddings
        messages = read_messages(body.get("messages"), self.model, max_images=limit // self.processor.image_seq_length)
        if world["use_world"] and not any(part["type"] == "image" for turn in messages for part in turn["content"]):
            raise TheWorldError(
                "use_world=True and the conversation has no image: add an image, or leave use_world out"
            )
        # 2. The prompt
        with self.lock:
            inputs = self.processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **world
            )
        length = inputs["input_ids"].shape[1]
        if length >= limit:
            raise TheWorldError(
                f"the prompt is {length} tokens long and the model reads at most {limit}, the answer included: shorten "
                "it, give fewer images, or lower num_world_steps"
            )
        # 3. The sampling; transformers does not turn it on where a temperature is given
        config = self._build_generation_config(dict(body), self.model.generation_config)
        if body.get("temperature") is not None or body.get("top_p") is not None:
            config.do_sample = body.get("temperature") != 0
        config.max_new_tokens = min(cast(int, config.max_new_tokens), limit - length)
        return {**inputs.to(input_device(self.model)), "use_world": world["use_world"]}, config


async def _as_json(_: Request, error: Exception) -> Response:
    """An error in OpenAI's form."""
    if isinstance(error, AnyHTTPException):
        status, message = error.status_code, str(error.detail)
    elif isinstance(error, RequestValidationError):
        status, message = 422, "the body is no JSON object: " + "; ".join(str(part["msg"]) for part in error.errors())
    else:
        status, message = 500, f"internal error ({type(error).__name__}): {one_line(error)}; see the server's log"
    kind = "server_error" if status >= 500 else "invalid_request_error"
    content = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(content, status_code=status)


__all__ = ["WorldChat", "build_app", "serve"]
