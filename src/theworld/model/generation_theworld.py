"""`generate` with the world arguments, and the short form `ask`.

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `N` world tokens of one image, `D` width.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld.constants import MARKERS
from theworld.utils.control_tokens import without_control
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError
from theworld.utils.images import open_image

from .answers import MeanOverFutures, choice_logprobs, margin, probabilities, repeated_groups, vote, with_futures
from .configuration_theworld import TheWorldConfig, check_world_seed, check_world_steps
from .fusion import FUSIONS
from .processing_theworld import TheWorldProcessor
from .world_block import Prompt
from .world_inputs import WorldInputs, WorldRequest, check_length, is_prefill, validate_world_inputs

# Arguments of transformers' `generate` after `inputs`, in their order
POSITIONAL = tuple(inspect.signature(cast(Any, GenerationMixin).generate).parameters)[2:]
UNTRAINED = (
    "the world tokens of this fusion were never trained: answering with the world off, as plain Gemma 3; train it, or "
    "pass use_world=True"
)


class WorldGenerationMixin(GenerationMixin):
    """Validates the world arguments once, encodes the world once, and repeats its tokens for beams."""

    if TYPE_CHECKING:
        training: bool
        config: TheWorldConfig
        model: Any
        processor: TheWorldProcessor
        world_is_trained: Any

    def has_world_input(
        self,
        input_ids: torch.Tensor | None,
        request: WorldRequest,
        cache: Cache | None,
        encoded: dict[str, BaseModelOutputWithPooling] | None,
    ) -> bool:
        """Whether this call has world arguments to validate.

        False if the call continues a prompt that is in the cache, or if its images are encoded already.
        """
        if request.given and encoded is not None and encoded.get("world") is not None:
            raise TheWorldError("world input was given twice: encoded in mm_encoder_outputs, and as images or settings")
        if input_ids is None:
            if request.given:
                raise TheWorldError("world input needs input_ids: inputs_embeds do not show where the block is")
            return False
        return request.given or (encoded is None and is_prefill(input_ids, cache))

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: torch.Tensor | None = None,
        *args: Any,
        images: Any = None,
        world_pixel_values: torch.Tensor | None = None,
        num_world_steps: int | torch.Tensor | None = None,
        use_world: bool | None = None,
        world_latents: torch.Tensor | None = None,
        num_futures: int = 1,
        futures: Literal["mean", "vote"] = "mean",
        **kwargs: Any,
    ) -> Any:
        """Transformers' `generate` with the world arguments of `forward`.

        The world encoder runs once per image, before the prefill. Returned sequences begin with the caller's own
        `input_ids`, also if blocks were inserted or removed.

        Args:
            num_futures: Number of rollouts of each image, with consecutive seeds from `world_seed`, in one batch. Above
                1, decoding is greedy.
            futures: How several rollouts give one answer: `mean` averages the next-token probabilities of every token,
                `vote` takes the most frequent answer.

        Raises:
            ValueError: The world arguments do not fit each other or the prompt, or `num_futures` is above 1 without a
                rollout or with decoding that is not greedy.
        """
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if not isinstance(input_ids, torch.Tensor | None) or any(isinstance(value, str) for value in args):
            raise TheWorldError("generate(image, text) is not supported: use model.ask(image, text)")
        kwargs |= dict(zip(POSITIONAL, args, strict=False))
        check_number(num_futures, futures)
        request = WorldRequest(world_pixel_values, images, num_world_steps, use_world, world_latents)
        run = partial(cast(Any, super()).generate, markers=use_world is False)
        # 1. Validate the call; insert or remove blocks
        cache, encoded = kwargs.get("cache", kwargs.get("past_key_values")), kwargs.get("mm_encoder_outputs")
        if not self.has_world_input(input_ids, request, cache, encoded):
            self.check_futures(num_futures, None, 0, kwargs)
            if input_ids is not None:
                check_length(self.config, input_ids)
            return run(input_ids, **kwargs)
        assert input_ids is not None
        prompt = Prompt(input_ids, kwargs.pop("attention_mask", None), kwargs.pop("token_type_ids", None))
        has_image = kwargs.get("pixel_values") is not None or bool(encoded)
        if self.config.enable_world and use_world is None and request.sources() and not self.world_is_trained:
            warnings.warn(UNTRAINED, stacklevel=3)  # 2 is torch.no_grad
            request = WorldRequest(use_world=False)
        validated = validate_world_inputs(self.config, prompt, request, has_image=has_image, strict=False)
        check_length(self.config, validated.prompt.input_ids)
        # 2. Generate from the final prompt
        self.check_futures(num_futures, validated.pixels, validated.num_world_steps, kwargs)
        if num_futures > 1:
            run = partial(self._generate_futures, run, num_futures, futures)
        if validated.pixels is not None:
            kwargs |= {"world_pixel_values": validated.pixels, "num_world_steps": validated.num_world_steps}
        if validated.latents is not None:
            kwargs["world_latents"] = validated.latents
        kwargs |= {name: value for name, value in vars(validated.prompt).items() if value is not None}
        if validated.rewritten is None:
            return run(**kwargs)
        if kwargs.get("position_ids") is not None:
            raise TheWorldError("position_ids with a prompt whose world blocks are inserted or removed: leave them out")
        length = validated.prompt.input_ids.shape[1]
        outputs = run(added_tokens=length - input_ids.shape[1], **kwargs)
        # 3. Return the caller's own prompt before the answer
        sequences = outputs if isinstance(outputs, torch.Tensor) else outputs.sequences
        repeats = len(sequences) // len(input_ids)
        own = input_ids.to(sequences.device).repeat_interleave(repeats, dim=0)
        sequences = torch.cat([own, sequences[:, length:]], dim=1)
        if isinstance(outputs, torch.Tensor):
            return sequences
        outputs.sequences = sequences
        return outputs

    def _generate_futures(
        self, run: Any, num_futures: int, futures: str, num_world_steps: int, **kwargs: Any
    ) -> torch.Tensor:
        """Run `run` on every prompt with each of its futures and return one sequence per prompt, (B, L)."""
        options = {name: kwargs.pop(name) for name in [*kwargs] if not isinstance(kwargs[name], torch.Tensor)}
        options |= {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}  # not the checkpoint's values
        if futures == "mean":
            options["logits_processor"] = [*(options.get("logits_processor") or ()), MeanOverFutures(num_futures)]
        seed = options.pop("world_seed", None)
        sequences = run(**self.futures_of(kwargs, num_world_steps, num_futures, seed), **options)
        return vote(sequences, num_futures)

    @torch.no_grad()
    def futures_of(
        self, inputs: Mapping[str, Any], num_world_steps: int, num_futures: int, seed: int | None = None
    ) -> dict[str, Any]:
        """Inputs of B prompts with several futures each, of consecutive seeds from `seed` (default: the config's)."""
        first = self.config.world_seed if seed is None else seed
        seeds = range(first, first + num_futures)
        for one in (seeds[0], seeds[-1]):
            check_world_seed(one)
        latents = self.model.world_encoder.encode_futures(inputs["world_pixel_values"], num_world_steps, seeds)
        ids, config = inputs["input_ids"], self.config
        images = (ids == config.boi_token_index).sum(-1).tolist()
        blocks = (ids == config.start_of_world_token_id).sum(-1).tolist()
        return with_futures(inputs, latents, blocks if FUSIONS[config.fusion].block else images, images)

    def check_futures(
        self, num_futures: int, pixels: torch.Tensor | None, num_world_steps: int, options: Mapping[str, Any]
    ) -> None:
        """Raise a ValueError for several futures without a rollout, or with decoding that is not greedy."""
        if num_futures == 1:
            return
        if pixels is None or not num_world_steps:
            needed = "give images and num_world_steps of at least 1, with the world on"
            raise TheWorldError(f"num_futures={num_futures} needs rollouts: {needed}")
        if not self.model.world_encoder.seeded:
            given = f"num_futures={num_futures}: world_encoder={self.config.world_encoder!r}"
            raise TheWorldError(f"{given} predicts one future: leave it out")
        others = ("do_sample", "return_dict_in_generate", "assistant_model", "prompt_lookup_num_tokens", "streamer")
        taken = [name for name in (*others, "generation_config", "mm_encoder_outputs") if options.get(name)]
        taken += [name for name in ("num_beams", "num_return_sequences") if (options.get(name) or 1) > 1]
        if taken:
            raise TheWorldError(f"num_futures={num_futures} decodes greedily: leave {', '.join(taken)} out")

    def _prepare_generation_config(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, generation_config: GenerationConfig | None, added_tokens: int = 0, markers: bool = False, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Transformers' settings, with the tokens of a block suppressed and lengths counted from the caller's prompt.

        Args:
            added_tokens: Tokens by which the prompt is longer than the caller's.
            markers: Whether the tokens of a block may be generated, as plain Gemma 3 may.
        """
        config, rest = cast(Any, super())._prepare_generation_config(generation_config, **kwargs)
        if self.config.enable_world and not markers:
            own = self.config
            block = own.start_of_world_token_id, own.end_of_world_token_id, own.world_token_id
            config.suppress_tokens = sorted({*(config.suppress_tokens or ()), *block})
        for name in ("max_length", "min_length"):
            stated = (getattr(given, name, None) for given in (generation_config, self.generation_config))
            if kwargs.get(name) or any(stated):  # otherwise transformers adds the length of the prompt itself
                setattr(config, name, getattr(config, name) + added_tokens)
        return config, rest

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: torch.Tensor, use_cache: bool = True, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Gemma 3's, also for assistant models: transformers calls their prefill a later iteration, without images."""
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if not is_first_iteration and kwargs.get("next_sequence_length") != 1 and cache is not None:
            is_first_iteration = int(cache.get_seq_length()) == 0
        return cast(Any, super()).prepare_inputs_for_generation(
            input_ids, use_cache=use_cache, is_first_iteration=is_first_iteration, **kwargs
        )

    def _prepare_multimodal_encoder_kwargs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Encode the world once, where transformers encodes images, so that decoding needs no pixels."""
        model_kwargs = super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)  # type: ignore[assignment]
        taken = ("world_pixel_values", "world_latents", "num_world_steps", "world_seed")
        pixels, latents, steps, seed = (model_kwargs.pop(name, None) for name in taken)
        if pixels is not None or latents is not None:
            inputs = WorldInputs(Prompt(torch.empty(0)), None, pixels, steps or 0, latents)
            world = self.model.encode_inputs(inputs, seed, strict=False)
            encoded = model_kwargs["mm_encoder_outputs"]
            if self.model.world_gate is None:
                encoded["world"] = world
            elif encoded.get("image") is not None:  # from here on, Gemma 3 takes image features only
                encoded["image"].pooler_output = self.model.gate_images(
                    encoded["image"].pooler_output, world.pooler_output
                )
        return model_kwargs

    def _expand_multimodal_outputs(
        self,
        input_ids: torch.Tensor,
        mm_encoder_output: dict[str, Any],
        expand_size: int = 1,
        inputs_embeds: Any = None,
    ) -> dict[str, Any]:
        """Repeat each prompt's group of world features for beams and several sequences."""
        expanded = super()._expand_multimodal_outputs(input_ids, mm_encoder_output, expand_size, inputs_embeds)  # type: ignore[arg-type]
        world = expanded.get("world")
        if world is not None:
            tokens = world.pooler_output  # (M, N, D)
            images = (input_ids == self.config.world_token_id).sum(-1) // tokens.shape[1]  # (B,)
            index = repeated_groups(images.tolist(), expand_size)
            expanded["world"] = BaseModelOutputWithPooling(pooler_output=tokens[index.to(tokens.device)])
        return expanded

    def as_text(self, question: str) -> str:
        """The question, with control tokens such as `<end_of_turn>` turned into plain text.

        Raises:
            ValueError: It is empty, or holds a token that is reserved for images and worlds.
        """
        if not question.strip():
            raise TheWorldError("the question is empty: ask something about the image")
        tokenizer = self.processor.tokenizer
        for token in (*MARKERS, tokenizer.boi_token, tokenizer.image_token):
            if token in question:
                raise TheWorldError(f"the question holds {token!r}, which is reserved for images and worlds: reword it")
        return without_control(question, tokenizer)

    def question_inputs(
        self, image: Any, question: str, *, num_world_steps: int | None = None, use_world: bool | None = None
    ) -> Any:
        """The inputs of `ask`, on the model's device; takes what `ask` takes, and raises as it does."""
        content = [{"type": "image", "image": open_image(image)}, {"type": "text", "text": self.as_text(question)}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            num_world_steps=num_world_steps,
            use_world=use_world,
        )
        check_length(self.config, inputs["input_ids"])
        return inputs.to(input_device(self))

    @overload
    def ask(self, image: Any, question: str, *, choices: None = None, **options: Any) -> str: ...

    @overload
    def ask(self, image: Any, question: str, *, choices: Sequence[str], **options: Any) -> dict[str, float]: ...

    def ask(
        self,
        image: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        num_world_steps: int | None = None,
        use_world: bool | Literal["auto"] | None = None,
        num_futures: int = 1,
        **generate_kwargs: Any,
    ) -> str | dict[str, float]:
        """Answer `question` about `image`, greedily unless told otherwise.

        Args:
            image: Any kind of image that `theworld.utils.images.open_image` opens.
            choices: Possible answers. `ask` then returns their probabilities, averaged over all futures.
            num_world_steps: Future latent frames to imagine; `None` takes the config's.
            use_world: `False` runs plain Gemma 3; `True` uses world tokens even if they were never trained. `"auto"`
                answers without the world first, and again with it if the margin of that answer is below the config's
                `auto_world_margin`. The margin is the probability of the likeliest choice minus that of the next one;
                without choices, the smallest such margin of any token of the answer.
            num_futures: Number of rollouts, each with its own seed; see `generate`.

        Returns:
            The answer; with `choices`, the probability of each, which sum to 1.

        Raises:
            ValueError: The question is empty, too long or holds a reserved token, the image cannot be read, or fewer
                than two different choices are given.
        """
        if use_world not in ("auto", None) and type(use_world) is not bool:
            raise TheWorldError(f"use_world={use_world!r}: expected True, False, None or 'auto'")
        check_number(num_futures, generate_kwargs.get("futures", "mean"))
        if choices is not None:
            choices = check_choices(choices, self.processor.tokenizer, generate_kwargs)
        how = (open_image(image), question, choices, generate_kwargs)  # `auto` may use it twice
        if use_world == "auto":
            steps = self.config.num_world_steps if num_world_steps is None else num_world_steps
            if self.config.enable_world and not check_world_steps(steps, self.config.max_world_steps):
                raise TheWorldError("use_world='auto' needs a rollout: pass num_world_steps of at least 1")
            answer, sure = self._answer(*how, use_world=False, margins=True)
            if not self.config.enable_world or sure >= self.config.auto_world_margin:
                return answer
            use_world = None
        return self._answer(*how, num_world_steps=num_world_steps, use_world=use_world, num_futures=num_futures)[0]

    def _answer(
        self,
        image: Any,
        question: str,
        choices: Sequence[str] | None,
        generate_kwargs: Mapping[str, Any],
        *,
        num_world_steps: int | None = None,
        use_world: bool | None,
        num_futures: int = 1,
        margins: bool = False,
    ) -> tuple[Any, float]:
        """The result of `ask`, and its margin; for text the margin is 1 unless `margins` is true."""
        # 1. Turn the world off if its tokens were never trained, as `generate` does
        if choices is not None and self.config.enable_world and use_world is None and not self.world_is_trained:
            warnings.warn(UNTRAINED, stacklevel=3)
            use_world = False
        inputs = self.question_inputs(image, question, num_world_steps=num_world_steps, use_world=use_world)
        # 2. With choices: their probabilities
        if choices is not None:
            steps = self.config.num_world_steps if num_world_steps is None else num_world_steps
            world = {**generate_kwargs, **({} if use_world is None else {"use_world": use_world})}
            self.check_futures(num_futures, inputs.get("world_pixel_values"), steps, {})
            if num_futures > 1:
                inputs = self.futures_of(inputs, steps, num_futures, world.pop("world_seed", None))
            shares = probabilities(choice_logprobs(self, inputs, [choices] * num_futures, **world))
            return shares, margin([*shares.values()])
        # 3. Otherwise: a generated answer
        options: dict[str, Any] = {} if "generation_config" in generate_kwargs else {"do_sample": False}
        if not generate_kwargs.keys() & {"generation_config", "max_length"}:
            options["max_new_tokens"] = 100
        options |= {"use_world": use_world, "num_futures": num_futures, **generate_kwargs}
        scored = {"output_logits": True, "return_dict_in_generate": True} if margins else {}
        output = cast(Any, self.generate)(**inputs, **{**options, **scored})
        sequences = output.sequences if scored else output
        if not isinstance(sequences, torch.Tensor) or len(sequences) > 1:
            raise TheWorldError("ask returns one answer as text: use model.generate for several, or for its outputs")
        if scored and any(len(step) > 1 for step in output.logits):
            raise TheWorldError("use_world='auto' takes the margins of one sequence, not of beams: leave num_beams out")
        sure = min((margin(step[0].float().softmax(-1)) for step in output.logits), default=1.0) if scored else 1.0
        answer = self.processor.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.strip(), sure


def check_number(num_futures: Any, futures: Any) -> None:
    """Raise a ValueError for an invalid `num_futures` or `futures`."""
    if type(num_futures) is not int or num_futures < 1 or futures not in ("mean", "vote"):
        raise TheWorldError(
            f"num_futures={num_futures!r}, futures={futures!r}: expected a whole number of at least 1, and mean or vote"
        )


def check_choices(choices: Any, tokenizer: Any, options: Mapping[str, Any]) -> list[str]:
    """The possible answers of `ask`; a ValueError if there are not two different ones, or for options of `generate`."""
    texts: list[Any] = [*choices] if isinstance(choices, Iterable) and not isinstance(choices, str) else []
    stripped = {text.strip() for text in texts if isinstance(text, str)} - {""}
    if len(stripped) < max(2, len(texts)):
        raise TheWorldError(f"choices={choices!r}: expected a list of at least two different answers")
    if reserved := [text for text in texts if without_control(text, tokenizer) != text]:
        raise TheWorldError(f"choices: {reserved[0]!r} holds a control token: reword it")
    if others := sorted(options.keys() - {"world_seed"}):
        raise TheWorldError(f"choices are scored, and no text is generated: leave {', '.join(others)} out")
    return texts
