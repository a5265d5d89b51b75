"""What `generate` has to know about the world, and the short form for people.

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `N` world tokens of one image, `D` width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld.constants import END_OF_WORLD_TOKEN, START_OF_WORLD_TOKEN, WORLD_TOKEN
from theworld.utils.images import open_image

from .world_block import Prompt
from .world_inputs import WorldRequest, settle_world_inputs

if TYPE_CHECKING:
    from .configuration_theworld import TheWorldConfig
    from .modeling_theworld import TheWorldModel
    from .processing_theworld import TheWorldProcessor


class WorldGenerationMixin(GenerationMixin):
    """Settles the world's arguments once, encodes the world once, and repeats its tokens for beams."""

    if TYPE_CHECKING:
        training: bool
        config: TheWorldConfig
        model: TheWorldModel
        processor: TheWorldProcessor

    def _at_the_door(
        self,
        input_ids: torch.Tensor | None,
        request: WorldRequest,
        cache: Cache | None,
        encoded: dict[str, BaseModelOutputWithPooling] | None,
    ) -> bool:
        """Whether this call has world input to settle.

        Not so if it only continues a prompt that is in the cache, or brings modalities that are encoded already.
        """
        if request.given and encoded is not None and encoded.get("world") is not None:
            raise ValueError("world input was given twice: encoded in mm_encoder_outputs, and as images or settings")
        if input_ids is None:
            if request.given:
                raise ValueError("world input needs input_ids: inputs_embeds do not show where the block is")
            return False
        if request.given:
            return True
        return encoded is None and input_ids.shape[1] > 1 and (cache is None or int(cache.get_seq_length()) == 0)

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: torch.Tensor | None = None,
        *args: Any,
        images: Any = None,
        world_pixel_values: torch.Tensor | None = None,
        num_world_steps: int | None = None,
        use_world: bool | None = None,
        world_latents: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Transformers' `generate` with the world's arguments of `forward`.

        The world encoder runs once per image, before the prefill. Returned sequences begin with the caller's own
        `input_ids`, also if blocks were inserted or removed.
        """
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        request = WorldRequest(world_pixel_values, images, num_world_steps, use_world, world_latents)
        cache = kwargs.get("past_key_values")
        if not self._at_the_door(input_ids, request, cache, kwargs.get("mm_encoder_outputs")):
            return self._generate(input_ids, *args, **kwargs)
        assert input_ids is not None
        prompt = Prompt(input_ids, kwargs.pop("attention_mask", None), kwargs.pop("token_type_ids", None))
        has_image = kwargs.get("pixel_values") is not None
        settled = settle_world_inputs(self.config, prompt, request, has_image=has_image, strict=False)
        if settled.pixels is not None:
            kwargs |= {"world_pixel_values": settled.pixels, "num_world_steps": settled.num_world_steps}
        if settled.latents is not None:
            kwargs["world_latents"] = settled.latents
        if settled.rewritten is None:
            return self._generate(*args, **_prompt_kwargs(prompt), **kwargs)
        if kwargs.get("position_ids") is not None:
            raise ValueError("position_ids with a prompt whose world blocks are inserted or removed: leave them out")
        added = settled.prompt.input_ids.shape[1] - input_ids.shape[1]
        for limit in ("max_length", "min_length"):
            if kwargs.get(limit) is not None:
                kwargs[limit] += added
        outputs = self._generate(*args, **_prompt_kwargs(settled.prompt), **kwargs)
        sequences = outputs if isinstance(outputs, torch.Tensor) else outputs.sequences
        answers = sequences[:, settled.prompt.input_ids.shape[1] :]
        repeats = len(sequences) // len(input_ids)
        sequences = torch.cat([input_ids.to(answers.device).repeat_interleave(repeats, dim=0), answers], dim=1)
        if isinstance(outputs, torch.Tensor):
            return sequences
        outputs.sequences = sequences
        return outputs

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        return cast(Any, super()).generate(*args, **kwargs)

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: torch.Tensor, use_cache: bool = True, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Gemma 3's, for assistants too: transformers calls their prefill a later iteration and would blind them."""
        cache = kwargs.get("past_key_values")
        if not is_first_iteration and kwargs.get("next_sequence_length") != 1 and cache is not None:
            is_first_iteration = int(cache.get_seq_length()) == 0
        return cast(Any, super()).prepare_inputs_for_generation(
            input_ids, use_cache=use_cache, is_first_iteration=is_first_iteration, **kwargs
        )

    def _prepare_multimodal_encoder_kwargs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Encode the world once, where transformers encodes images, so that decoding never sees pixels."""
        model_kwargs = super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)  # type: ignore[assignment]
        pixels, latents = model_kwargs.pop("world_pixel_values", None), model_kwargs.pop("world_latents", None)
        steps, seed = model_kwargs.pop("num_world_steps", None), model_kwargs.pop("world_seed", None)
        if pixels is not None or latents is not None:
            world = self._world_features(pixels, latents, steps or 0, seed)
            model_kwargs["mm_encoder_outputs"]["world"] = world
        return model_kwargs

    def _world_features(
        self,
        pixels: torch.Tensor | None,
        latents: torch.Tensor | None,
        num_world_steps: int,
        seed: int | None,
        *,
        one_by_one: bool = False,
    ) -> BaseModelOutputWithPooling:
        """World tokens of frames (M, 3, S, S), or of their latents (M, C, T, h, w) if those are there already."""
        if latents is None:
            assert pixels is not None
            encoder = self.model.world_encoder if one_by_one and self.config.freeze_cosmos_vae else None
            if encoder is None:
                return self.model.get_world_features(pixels, num_world_steps, seed)
            return self.model.project_latents(encoder.encode_one_by_one(pixels, num_world_steps, seed).latents)
        if seed is not None:
            raise ValueError(f"world_seed={seed} with world_latents: they are rolled out already; leave it out")
        if self.training and not self.config.freeze_cosmos_vae:
            raise ValueError(
                "world_latents while the VAE trains: set freeze_cosmos_vae=True or give world_pixel_values"
            )
        return self.model.project_latents(latents)

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
            groups = torch.arange(len(tokens), device=tokens.device).split(images.tolist())
            index = torch.cat([group.repeat(expand_size) for group in groups])
            expanded["world"] = BaseModelOutputWithPooling(pooler_output=tokens[index])
        return expanded

    def check_question(self, question: str) -> None:
        """Raise `ValueError` if `question` is empty or holds a token that is reserved for images and worlds."""
        if not question.strip():
            raise ValueError("the question is empty: ask something about the image")
        tokenizer = self.processor.tokenizer
        reserved = (START_OF_WORLD_TOKEN, END_OF_WORLD_TOKEN, WORLD_TOKEN, tokenizer.boi_token, tokenizer.image_token)
        for token in reserved:
            if token in question:
                raise ValueError(f"the question contains {token!r}, which is reserved for images and worlds: reword it")

    def question_inputs(
        self, image: Any, question: str, *, num_world_steps: int | None = None, use_world: bool | None = None
    ) -> Any:
        """The inputs of `ask`, on the model's device; takes what `ask` takes, and raises as it does."""
        self.check_question(question)
        content = [{"type": "image", "image": open_image(image)}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            num_world_steps=num_world_steps,
            use_world=use_world,
        ).to(self.model.device)

    def ask(
        self,
        image: Any,
        question: str,
        *,
        num_world_steps: int | None = None,
        use_world: bool | None = None,
        **generate_kwargs: Any,
    ) -> str:
        """Answer `question` about `image`, greedily unless told otherwise.

        Args:
            image: Of any kind that `theworld.utils.images.open_image` opens.
            num_world_steps: Future latent frames to imagine; `None` takes the config's.
            use_world: `False` asks plain Gemma 3.

        Raises:
            ValueError: The question is empty or holds a reserved token, or the image cannot be read.
        """
        inputs = self.question_inputs(image, question, num_world_steps=num_world_steps, use_world=use_world)
        options = {"max_new_tokens": 100, "do_sample": False, "use_world": use_world, **generate_kwargs}
        output = cast(Any, self.generate)(**inputs, **options)
        return self.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def _prompt_kwargs(prompt: Prompt) -> dict[str, torch.Tensor]:
    values = {
        "input_ids": prompt.input_ids,
        "attention_mask": prompt.attention_mask,
        "token_type_ids": prompt.token_type_ids,
    }
    return {name: value for name, value in values.items() if value is not None}


__all__ = ["WorldGenerationMixin"]
