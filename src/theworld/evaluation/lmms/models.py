"""The two model classes for lmms-eval: for chat tasks, and for plain-text tasks with log-probabilities.

lmms-eval 0.7.3 needs a separate environment; only there is this module imported.
"""
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from theworld.constants import NANO
from theworld.data.prompts import Turn
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError

from ..run import load
from ..settings import EvaluationSettings
from .answering import Answering, chat_prompt, text_prompt


class _TheWorld(lmms):
    """Base of both classes. Its arguments are those of `--model_args` (docs/lmms-eval.md).

    Raises:
        ValueError: An argument is invalid, or two contradict each other.
    """

    def __init__(
        self,
        pretrained: str = NANO,
        enable_world: bool = True,
        num_world_steps: int | None = None,
        cosmos_model_name: str | None = None,
        dtype: Literal["bfloat16", "float32"] | None = None,
        attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if enable_world not in (True, False):
            raise TheWorldError(f"enable_world={enable_world!r}: expected true or false")
        if not enable_world and num_world_steps is not None:
            raise TheWorldError(
                f"enable_world=false and num_world_steps={num_world_steps} contradict each other: drop one"
            )
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise TheWorldError(f"batch_size={batch_size!r}: expected a number of prompts")
        self.accelerator = Accelerator()
        settings = EvaluationSettings(dtype=dtype or "auto", device=device, attn_implementation=attn_implementation)
        world = {} if cosmos_model_name is None else {"cosmos_model_name": cosmos_model_name}
        self.model = load(pretrained, settings, enable_world=enable_world, **world)
        self.answering = Answering(self.model, num_world_steps, int(batch_size))

    @property
    def device(self) -> torch.device:
        """Device on which lmms-eval gathers its counts."""
        return input_device(self.model)

    def clean(self) -> None:
        """Free the model before lmms-eval loads a judge."""
        del self.answering
        super().clean()

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported: a model answers one turn."""
        raise NotImplementedError("TheWorld answers in one round: no tasks of output_type generate_until_multi_round")


class TheWorldChat(_TheWorld):
    """Model class for chat tasks."""

    is_simple = False

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers of requests (context, doc_to_messages, generation settings, document, task, split)."""
        prompts = [partial(self._turns, *request.args[1:2], *request.args[3:]) for request in requests]
        return self.answering.generate(prompts, [request.args[2] for request in requests])

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Not supported: lmms-eval computes log-probabilities only for plain-text tasks."""
        raise NotImplementedError("multiple_choice tasks need the simple class: add --force_simple")

    def _turns(self, doc_to_messages: Any, document: int, task: str, split: str) -> list[Turn]:
        return chat_prompt(doc_to_messages(self.task_dict[task][split][document]))


class TheWorldSimple(_TheWorld):
    """Model class for plain-text tasks, including multiple choice by log-probability."""

    is_simple = True

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers of requests (context, generation settings, doc_to_visual, document, task, split)."""
        prompts = [partial(self._turns, request.args[0], *request.args[2:]) for request in requests]
        return self.answering.generate(prompts, [request.args[1] for request in requests])

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """(loss, is most probable) of requests (context, answer, doc_to_visual, document, task, split).

        Returns losses, since lmms-eval chooses the smallest value (its issue 370), in a `GenerationResult`, since it
        calls `str` on a bare pair. The answers of one document share one prefill.
        """
        for request in requests:
            if len(request.args) != 6 or not isinstance(request.args[1], str):
                raise TheWorldError(
                    f"task {request.task_name!r}: expected multiple_choice with acc or acc_norm; output_type "
                    "loglikelihood and acc_mutual_info expect log-likelihoods where lmms-eval otherwise takes losses"
                )
        alike = groupby(requests, lambda request: (request.args[0], *request.args[3:]))
        by_prompt = [[request.args for request in group] for _, group in alike]
        prompts = [partial(self._turns, first[0], *first[2:]) for first, *_ in by_prompt]
        losses = self.answering.losses(prompts, [tuple(answer for _, answer, *_ in group) for group in by_prompt])
        return [
            GenerationResult(text=(found[answer], found[answer] == min(found.values())))
            for group, found in zip(by_prompt, losses, strict=True)
            for _, answer, *_ in group
        ]

    def _turns(self, context: str, doc_to_visual: Any, document: int, task: str, split: str) -> list[Turn]:
        images = doc_to_visual(self.task_dict[task][split][document]) or []
        return text_prompt(context, [image for image in images if image is not None])
