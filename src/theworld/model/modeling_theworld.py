"""The fused model: Gemma 3, a world encoder, and a projector between them.

    image, question --processor--> input_ids, pixel_values, world_pixel_values
    world_pixel_values --encoder--> latents --projector--> world tokens --fusion--> inputs_embeds --Gemma 3--> text

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `C` latent channels, `T = 1 + K` latent frames, `N`
world tokens of one image, `D` language-model width, `S` world image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import nn
from transformers import Cache, Gemma3ForConditionalGeneration, Gemma3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3CausalLMOutputWithPast,
    Gemma3ModelOutputWithPast,
    Gemma3PreTrainedModel,
)
from transformers.utils.generic import can_return_tuple

from .configuration_theworld import TheWorldConfig
from .freezing import apply_freezing, component_sizes, parameter_table
from .fusion import FUSIONS
from .image_processing_world import to_pil
from .processing_theworld import TheWorldProcessor
from .projectors import WorldProjector, build_projector
from .world_block import Prompt
from .world_encoders import WorldEncoder
from .world_inputs import WorldInputs, WorldRequest, settle_world_inputs

# Tokens whose embeddings the projector's gain is measured on: a sample is enough for a root mean square.
EMBEDDING_SAMPLE = 4096


@dataclass
class TheWorldModelOutputWithPast(Gemma3ModelOutputWithPast):
    """Gemma 3's output, and the world tokens (M, N, D) that were scattered into the prompt."""

    world_hidden_states: torch.Tensor | None = None


@dataclass
class TheWorldCausalLMOutputWithPast(Gemma3CausalLMOutputWithPast):
    """Gemma 3's output, the world tokens (M, N, D), and how many of them this call consumed (0: the world was off)."""

    world_hidden_states: torch.Tensor | None = None
    num_world_tokens: int | None = None


class TheWorldModel(Gemma3Model):
    """Gemma 3 without its head, with the parts that bring the world in."""

    config: TheWorldConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: TheWorldConfig) -> None:
        super().__init__(config)
        self.world_encoder: WorldEncoder | None = None
        self.world_projector: WorldProjector | None = None
        self.world_markers: nn.Parameter | None = None
        if config.enable_world:
            self.add_world_parts()

    def add_world_parts(self) -> None:
        """Fresh projector and block markers, on the device and in the dtype of the token embeddings.

        The markers start as the embeddings of Gemma's own image markers, the projector's gain at the RMS of the
        embeddings.
        """
        if self.config.fusion not in FUSIONS:
            raise ValueError(f"fusion={self.config.fusion!r}: expected one of {', '.join(FUSIONS)}")
        embed = cast(nn.Embedding, self.get_input_embeddings())
        table = embed.weight
        float_dtype = table.dtype if table.is_floating_point() else torch.get_default_dtype()
        projector = build_projector(self.config).to(table.device, float_dtype)
        ids = torch.tensor([self.config.boi_token_index, self.config.eoi_token_index], device=table.device)
        with torch.no_grad():
            sample = torch.arange(min(EMBEDDING_SAMPLE, table.shape[0]), device=table.device)
            rms = embed(sample).float().square().mean().sqrt()
            markers = embed(ids).to(float_dtype)  # (2, D)
            if table.device.type != "meta":
                projector.initialise(rms.item())
        for module in projector.modules():
            cast(Any, module)._is_hf_initialized = True  # keep transformers' own initialisation away
        self.world_projector = projector
        self.world_markers = nn.Parameter(markers.clone())

    def project_latents(self, latents: torch.Tensor) -> BaseModelOutputWithPooling:
        """World tokens `pooler_output` (M, N, D) of normalised latents (M, C, T, h, w)."""
        assert self.world_projector is not None
        latents = latents.to(self.world_projector.time_embedding.device)
        return BaseModelOutputWithPooling(last_hidden_state=latents, pooler_output=self.world_projector(latents))

    def get_world_features(
        self, world_pixel_values: torch.Tensor, num_world_steps: int = 0, world_seed: int | None = None
    ) -> BaseModelOutputWithPooling:
        """Encode frames (M, 3, S, S) in [-1, 1], roll out `num_world_steps` latent frames, project.

        Returns:
            `last_hidden_state` the latents (M, C, T, h, w), `pooler_output` the world tokens (M, N, D).
        """
        if self.world_encoder is None:
            raise ValueError("this model has no world encoder: load it with TheWorld.from_pretrained")
        return self.project_latents(self.world_encoder.encode(world_pixel_values, num_world_steps, world_seed).latents)

    @can_return_tuple
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> TheWorldModelOutputWithPast:
        """Gemma 3's forward; `mm_encoder_outputs["world"]` holds the world tokens of the prompt's blocks."""
        image_features = world = None
        if self.config.enable_world and input_ids is not None:
            encoded = mm_encoder_outputs or {}
            image = encoded.get("image")
            if image is None and pixel_values is not None:
                image = cast(Any, self.get_image_features)(pixel_values, return_dict=True)
            image_features = None if image is None else image.pooler_output
            world = None if encoded.get("world") is None else encoded["world"].pooler_output
            inputs_embeds = self.fuse(input_ids, image_features, world)  # (B, L, D)
            input_ids = pixel_values = mm_encoder_outputs = None
        outputs = cast(Any, super().forward)(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        if image_features is not None:
            outputs.image_hidden_states = image_features
        return TheWorldModelOutputWithPast(**outputs, world_hidden_states=world)

    def fuse(
        self, input_ids: torch.Tensor, image_features: torch.Tensor | None, world: torch.Tensor | None
    ) -> torch.Tensor:
        """Token embeddings (B, L, D) with image features, block markers and world tokens in their places."""
        assert self.world_markers is not None
        # A checkpoint may keep the image placeholder outside of the embedding table
        known = input_ids.masked_fill(input_ids == self.config.image_token_index, 0)
        known = known if self.config.image_token_index >= self.vocab_size else input_ids
        embeds = self.get_input_embeddings()(known)
        if image_features is not None:
            image_features = image_features.to(embeds.device, embeds.dtype)
            embeds = embeds.masked_scatter(
                self.get_placeholder_mask(
                    cast(torch.LongTensor, input_ids), inputs_embeds=embeds, image_features=image_features
                ),
                image_features,
            )
        marker_ids = (self.config.start_of_world_token_id, self.config.end_of_world_token_id)
        for marker_id, marker in zip(marker_ids, self.world_markers, strict=True):
            embeds = torch.where((input_ids == marker_id).unsqueeze(-1), marker.to(embeds), embeds)
        if world is not None:
            embeds = FUSIONS[self.config.fusion](embeds, input_ids == self.config.world_token_id, world)
        return embeds


class TheWorld(Gemma3ForConditionalGeneration):
    """Gemma 3 that can look ahead. Load it with `from_pretrained`; with the world off it is Gemma 3, bit for bit."""

    config_class = TheWorldConfig
    config: TheWorldConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    model: TheWorldModel
    processor: TheWorldProcessor

    def __init__(self, config: TheWorldConfig) -> None:
        if isinstance(config, str | Path):
            raise ValueError(f"TheWorld({str(config)!r}): load a model with TheWorld.from_pretrained({str(config)!r})")
        Gemma3PreTrainedModel.__init__(self, config)
        self.model = TheWorldModel(config)
        text = config.get_text_config()
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A base Gemma 3 (new fusion), a TheWorld checkpoint, or `nano`, the model inside the package.

        Args:
            pretrained_model_name_or_path: Hub id, folder, or `nano`.
            kwargs: Any field of `TheWorldConfig` (`enable_world`, `cosmos_model_name`, `num_world_steps`,
                `freeze_gemma_language`, ...), which overrides what a checkpoint saved, and everything that
                `Gemma3ForConditionalGeneration.from_pretrained` takes.

        Raises:
            ValueError: It is no Gemma 3, the world folder lacks a component, or checkpoint keys do not fit.
        """
        from .assembly import load_theworld

        return load_theworld(cls, pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def from_checkpoint_hub(cls, repo_id: str, checkpoint_name: str | None = None, **kwargs: Any) -> Self:
        """Load a Hub repository, or the sub-folder (or a file inside one) of it that `checkpoint_name` names."""
        from .assembly import checkpoint_subfolder

        return cls.from_pretrained(repo_id, subfolder=checkpoint_subfolder(checkpoint_name), **kwargs)

    def save_pretrained(self, save_directory: str | Path, *, full: bool = False, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write what differs from the base models; with `full`, the base models too (a standalone folder)."""
        from .assembly import save_theworld

        save_theworld(self, save_directory, full=full, **kwargs)

    def save_checkpoint(
        self, path: str | Path, optimizer: torch.optim.Optimizer | None = None, epoch: int | None = None
    ) -> None:
        """`save_pretrained`, and the optimiser's tensors and the epoch beside it."""
        from .assembly import save_checkpoint

        save_checkpoint(self, path, optimizer, epoch)

    def load_checkpoint(self, path: str | Path, optimizer: torch.optim.Optimizer | None = None) -> int | None:
        """Read what `save_checkpoint` wrote into this model and `optimizer`; returns the epoch."""
        from .assembly import load_checkpoint

        return load_checkpoint(self, path, optimizer)

    @can_return_tuple
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        world_pixel_values: torch.Tensor | None = None,
        images: Any = None,
        num_world_steps: int | None = None,
        world_seed: int | None = None,
        use_world: bool | None = None,
        **kwargs: Any,
    ) -> TheWorldCausalLMOutputWithPast:
        """Gemma 3's forward with a world.

        Args:
            world_pixel_values: (M, 3, S, S) in [-1, 1], from the processor, one frame per image in the prompt.
            images: Images in place of `world_pixel_values`. If the prompt has no world block, one per image is inserted
                first; logits are given back at the caller's own positions.
            num_world_steps: Future latent frames of inserted blocks; must fit the block if the prompt has one.
            world_seed: Seed of the rollout instead of the config's.
            use_world: `False` runs plain Gemma 3: a block in the prompt is taken out.

        Raises:
            ValueError: Blocks, frames and steps do not fit; or, in training, an image came without world input.
        """
        request = WorldRequest(world_pixel_values, images, num_world_steps, use_world)
        prompt = Prompt(input_ids, attention_mask, token_type_ids, labels)  # type: ignore[arg-type]
        inputs = WorldInputs(prompt)
        if mm_encoder_outputs is None and self._at_the_door(input_ids, request, past_key_values):
            strict = self.training or labels is not None
            inputs = settle_world_inputs(
                self.config, prompt, request, has_image=pixel_values is not None, strict=strict
            )
        world = (mm_encoder_outputs or {}).get("world")
        if inputs.pixels is not None:
            world = self.model.get_world_features(inputs.pixels, inputs.num_world_steps, world_seed)
            mm_encoder_outputs = {"world": world}
        outputs = cast(Any, super().forward)(
            input_ids=inputs.prompt.input_ids,
            pixel_values=pixel_values,
            attention_mask=inputs.prompt.attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            token_type_ids=inputs.prompt.token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=inputs.prompt.labels,
            use_cache=use_cache,
            logits_to_keep=0 if inputs.rewritten is not None else logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        if inputs.rewritten is not None:  # (B, L, vocabulary), then the positions that the caller keeps
            outputs.logits = slice_logits_to_keep(inputs.rewritten.restore(outputs.logits), logits_to_keep)
        tokens = None if world is None else world.pooler_output
        return TheWorldCausalLMOutputWithPast(
            **outputs,
            world_hidden_states=tokens,
            num_world_tokens=0 if tokens is None else tokens.shape[0] * tokens.shape[1],
        )

    def _at_the_door(self, input_ids: torch.Tensor | None, request: WorldRequest, cache: Cache | None) -> bool:
        """Whether this call can bring world input: not so if it only continues a prompt that is in the cache."""
        if input_ids is None:
            if request.given:
                raise ValueError("world input needs input_ids: inputs_embeds do not show where the block is")
            return False
        if request.given:
            return True
        return input_ids.shape[1] > 1 and (cache is None or int(cache.get_seq_length()) == 0)

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: torch.Tensor | None = None,
        *args: Any,
        images: Any = None,
        world_pixel_values: torch.Tensor | None = None,
        num_world_steps: int | None = None,
        use_world: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Transformers' `generate` with the world's arguments of `forward`.

        The world encoder runs once per image, before the prefill. Returned sequences begin with the caller's own
        `input_ids`, also if blocks were inserted or removed.
        """
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        request = WorldRequest(world_pixel_values, images, num_world_steps, use_world)
        cache = kwargs.get("past_key_values")
        if "mm_encoder_outputs" in kwargs or not self._at_the_door(input_ids, request, cache):
            return self._generate(input_ids, *args, **kwargs)
        assert input_ids is not None
        prompt = Prompt(input_ids, kwargs.pop("attention_mask", None), kwargs.pop("token_type_ids", None))
        has_image = kwargs.get("pixel_values") is not None
        settled = settle_world_inputs(self.config, prompt, request, has_image=has_image, strict=False)
        if settled.pixels is not None:
            kwargs |= {"world_pixel_values": settled.pixels, "num_world_steps": settled.num_world_steps}
        if settled.rewritten is None:
            return self._generate(*args, **_prompt_kwargs(prompt), **kwargs)
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

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, use_cache: bool = True, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Gemma 3's, for assistants too: transformers calls their prefill a later iteration and would blind them."""
        cache = kwargs.get("past_key_values")
        if not is_first_iteration and kwargs.get("next_sequence_length") != 1 and cache is not None:
            is_first_iteration = int(cache.get_seq_length()) == 0
        return super().prepare_inputs_for_generation(
            input_ids, use_cache=use_cache, is_first_iteration=is_first_iteration, **kwargs
        )

    def _prepare_multimodal_encoder_kwargs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Encode the world once, where transformers encodes images, so that decoding never sees pixels."""
        model_kwargs = super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)  # type: ignore[assignment]
        pixels = model_kwargs.pop("world_pixel_values", None)
        steps, seed = model_kwargs.pop("num_world_steps", None), model_kwargs.pop("world_seed", None)
        if pixels is not None:
            world = self.model.get_world_features(pixels, steps or 0, seed)
            model_kwargs["mm_encoder_outputs"]["world"] = world
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
            groups = torch.arange(len(tokens), device=tokens.device).split(images.tolist())
            index = torch.cat([group.repeat(expand_size) for group in groups])
            expanded["world"] = BaseModelOutputWithPooling(pooler_output=tokens[index])
        return expanded

    def ask(
        self,
        image: Any,
        question: str,
        *,
        num_world_steps: int | None = None,
        use_world: bool | None = None,
        **generate_kwargs: Any,
    ) -> str:
        """Answer `question` about `image`.

        Args:
            image: PIL image, path, URL, uint8 array (H, W, 3) or tensor (3, H, W).
            num_world_steps: Future latent frames to imagine; `None` takes the config's.
            use_world: `False` asks plain Gemma 3.

        Raises:
            ValueError: The question is empty, or the image cannot be read.
        """
        if not question.strip():
            raise ValueError("the question is empty: ask something about the image")
        content = [{"type": "image", "image": to_pil(image)}, {"type": "text", "text": question}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            num_world_steps=num_world_steps,
            use_world=use_world,
        ).to(self.device)
        generate_kwargs = {"max_new_tokens": 100, "use_world": use_world, **generate_kwargs}
        output = self.generate(**inputs, **generate_kwargs)
        return self.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def get_trainable_parameters(self) -> tuple[int, int, float]:
        """(trainable, total, percentage) of all parameters."""
        sizes = component_sizes(self).values()
        trainable, total = sum(size.trainable for size in sizes), sum(size.total for size in sizes)
        return trainable, total, 100 * trainable / total

    def parameter_table(self) -> str:
        """Trainable and total parameters per component, as text."""
        return parameter_table(self)

    def freeze(self) -> None:
        """Apply the config's `freeze_*` flags."""
        apply_freezing(self)


def _prompt_kwargs(prompt: Prompt) -> dict[str, torch.Tensor]:
    values = {
        "input_ids": prompt.input_ids,
        "attention_mask": prompt.attention_mask,
        "token_type_ids": prompt.token_type_ids,
    }
    return {name: value for name, value in values.items() if value is not None}


__all__ = ["TheWorld", "TheWorldModel"]
