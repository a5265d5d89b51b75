"""The fused model: Gemma 3, a world encoder, and a projector between them.

    image, question --processor--> input_ids, pixel_values, world_pixel_values
    world_pixel_values --encoder--> latents --projector--> world tokens --fusion--> inputs_embeds --Gemma 3--> text

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `C` latent channels, `T = 1 + K` latent frames, `N`
world tokens of one image, `D` language-model width, `H, W` world image size.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Gemma3ForConditionalGeneration, Gemma3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3CausalLMOutputWithPast,
    Gemma3ModelOutputWithPast,
    Gemma3PreTrainedModel,
)
from transformers.utils.generic import can_return_tuple

from theworld.utils.auto_classes import Installed
from theworld.utils.errors import ArgumentError, TheWorldError

from .checkpoints.mixin import CheckpointMixin
from .components import ComponentsMixin, check_choices
from .configuration_theworld import TheWorldConfig, check_world_seed
from .fusion import gate_images, scatter_tokens
from .generation_theworld import WorldGenerationMixin
from .processing_theworld import TheWorldProcessor
from .projectors import WorldProjector, make_world_parts
from .training_hooks import select_supervised, trains, zero_of_idle
from .world_block import Prompt
from .world_encoders import WorldEncoder
from .world_inputs import CACHE, WorldInputs, WorldRequest, check_call, is_prefill, validate_world_inputs

# transformers 5.24 gives the vision encoder's whole output in place of `image_hidden_states`
IMAGE_OUTPUTS = "image_outputs" in {field.name for field in fields(Gemma3ModelOutputWithPast)}


@dataclass
class TheWorldModelOutputWithPast(Gemma3ModelOutputWithPast):
    """Gemma 3's output; the world tokens (M, N, D) that entered the prompt, and the gates (T,) of `gated` fusion."""

    world_hidden_states: torch.Tensor | None = None
    world_gate: torch.Tensor | None = None


@dataclass
class TheWorldCausalLMOutputWithPast(Gemma3CausalLMOutputWithPast):
    """Gemma 3's output; the world tokens (M, N, D) that this call consumed, and the gates (T,) of `gated` fusion."""

    world_hidden_states: torch.Tensor | None = None
    world_gate: torch.Tensor | None = None

    @property
    def num_world_tokens(self) -> int:
        """How many world tokens this call consumed; 0 means that the world was off."""
        tokens = self.world_hidden_states
        return 0 if tokens is None else tokens.shape[0] * tokens.shape[1]


class TheWorldModel(Gemma3Model):
    """Gemma 3 without its head, with a world encoder, a projector, and block markers or a gate."""

    config: TheWorldConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: TheWorldConfig) -> None:
        super().__init__(config)
        check_choices(config)
        self.world_encoder: WorldEncoder | None = None
        self.world_projector: WorldProjector | None = None
        self.world_markers: nn.Embedding | None = None
        self.world_gate: nn.Parameter | None = None
        if config.enable_world:
            self.add_world_parts()

    def add_world_parts(self) -> None:
        """Fresh projector, and block markers or gate."""
        parts = make_world_parts(self.config, cast(nn.Embedding, self.get_input_embeddings()))
        self.world_projector, self.world_markers = parts.world_projector, parts.world_markers
        self.world_gate = parts.world_gate

    def fusion_parameters(self) -> list[torch.Tensor]:
        """Parameters of the fusion: the two markers of a block, or the gate."""
        return [self.world_markers.weight] if self.world_markers is not None else [cast(torch.Tensor, self.world_gate)]

    def project_latents(self, latents: torch.Tensor) -> BaseModelOutputWithPooling:
        """World tokens `pooler_output` (M, N, D) of normalised latents (M, C, T, h, w).

        Raises:
            ValueError: The latents have another shape than the encoder's `feature_dim` and grid give.
        """
        assert self.world_projector is not None
        side = self.config.world_spatial_compression
        height, width = (pixels // side for pixels in self.config.world_image_shape)
        channels = self.config.world_latent_channels
        if latents.ndim != 5 or (latents.shape[1], *latents.shape[3:]) != (channels, height, width):
            raise TheWorldError(
                f"world latents of shape {[*latents.shape]}: expected [images, {channels}, frames, {height}, {width}], "
                "as the encoder's feature_dim and grid say: check what its encode returns"
            )
        latents = latents.to(self.world_projector.time_embedding.device)
        return BaseModelOutputWithPooling(last_hidden_state=latents, pooler_output=self.world_projector(latents))

    def get_world_features(
        self,
        world_pixel_values: torch.Tensor,
        num_world_steps: int = 0,
        world_seed: int | None = None,
        *,
        one_by_one: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Encode frames (M, 3, H, W) in [-1, 1], predict `num_world_steps` latent frames, project.

        Args:
            one_by_one: Encode every frame alone, so that its latents are the same bits in every batch.

        Returns:
            `last_hidden_state` the latents (M, C, T, h, w), `pooler_output` the world tokens (M, N, D).
        """
        if self.world_encoder is None:
            raise TheWorldError("this model has no world encoder: load it with TheWorld.from_pretrained")
        check_world_seed(world_seed)
        encode = self.world_encoder.encode_one_by_one if one_by_one else self.world_encoder.encode
        return self.project_latents(encode(world_pixel_values, num_world_steps, world_seed))

    def encode_inputs(self, inputs: WorldInputs, world_seed: int | None, *, strict: bool) -> Any:
        """World features of a validated call: from its frames, or from latents that were computed before."""
        if inputs.pixels is not None:
            one_by_one = strict and not trains(self.world_encoder)
            return self.get_world_features(inputs.pixels, inputs.num_world_steps, world_seed, one_by_one=one_by_one)
        if world_seed is not None:
            raise TheWorldError(
                f"world_seed={world_seed} with world_latents, which are rolled out already; leave it out"
            )
        if self.training and trains(self.world_encoder):
            raise TheWorldError("world_latents while the VAE trains: freeze it, or give world_pixel_values")
        return self.project_latents(cast(torch.Tensor, inputs.latents))

    @can_return_tuple
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        world_pixel_values: torch.Tensor | None = None,
        world_latents: torch.Tensor | None = None,
        num_world_steps: int | torch.Tensor | None = None,
        world_seed: int | None = None,
        use_world: bool | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> TheWorldModelOutputWithPast:
        """Gemma 3's forward; `mm_encoder_outputs["world"]` holds the world tokens of the prompt.

        The world arguments are those of `TheWorld.forward`, for callers that run the head themselves, as TRL does.
        """
        encoded, strict = dict(mm_encoder_outputs or {}), self.training or labels is not None
        cache = past_key_values if cache is None else cache
        prefill = is_prefill(input_ids, cache)
        image = world = image_outputs = None
        # 1. Validate the world arguments of callers that run the head themselves
        hidden = input_ids is None and pixel_values is not None and strict and use_world is None
        check_call(self.config, input_ids, self.get_input_embeddings().weight, prefill=prefill, hidden=hidden)
        request = WorldRequest(world_pixel_values, None, num_world_steps, use_world, world_latents)
        given = encoded.get("world") is None and request.given
        if prefill and (given or not encoded) and use_world is not False:
            prompt, has_image = Prompt(cast(torch.Tensor, input_ids)), pixel_values is not None
            inputs = validate_world_inputs(self.config, prompt, request, has_image=has_image, strict=strict)
            if inputs.pixels is not None or inputs.latents is not None:
                encoded["world"] = self.encode_inputs(inputs, world_seed, strict=strict)
        if self.config.enable_world and input_ids is not None:
            # 2. Image features and world tokens; in training, run unused modules on a blank image
            if encoded.get("image") is None and pixel_values is not None:
                encoded["image"] = cast(Any, self.get_image_features)(pixel_values, return_dict=True)
            image_outputs = encoded.get("image")
            image, world = (None if (e := encoded.get(k)) is None else e.pooler_output for k in ("image", "world"))
            train_all = self.training and prefill and torch.is_grad_enabled()
            zero = zero_of_idle(self.config, self, image, world) if train_all else None
            # 3. Put them into the prompt's embeddings
            inputs_embeds = self.fuse(input_ids, image, world, check=prefill)  # (B, L, D)
            inputs_embeds = inputs_embeds if zero is None else inputs_embeds + zero.to(inputs_embeds)
            input_ids = pixel_values = None
            encoded = {}
        elif self.training and input_ids is not None and pixel_values is None and not encoded:
            embeds = cast(torch.Tensor, self.get_input_embeddings()(input_ids))
            inputs_embeds, input_ids = embeds + zero_of_idle(self.config, self, None, None).to(embeds), None
        # 4. Run Gemma 3
        kwargs |= {"inputs_embeds": inputs_embeds, "labels": labels, CACHE: cache, "return_dict": True}
        kwargs["mm_encoder_outputs"] = encoded or None
        outputs = cast(Any, super().forward)(input_ids=input_ids, pixel_values=pixel_values, **kwargs)
        if image is not None:
            name, value = ("image_outputs", image_outputs) if IMAGE_OUTPUTS else ("image_hidden_states", image)
            outputs[name] = value
        return extended(TheWorldModelOutputWithPast, outputs, world, self.gate_of(world))

    def gate_images(self, image: torch.Tensor, world: Any) -> torch.Tensor:
        """Image features (M, I, D) with world tokens (M, N, D) added through the gate."""
        assert self.world_gate is not None
        return gate_images(image, world, self.world_gate, self.config.world_grid)

    def gate_of(self, world: torch.Tensor | None) -> torch.Tensor | None:
        """The gates (T_max,) in (-1, 1) that scaled the world tokens; `None` without gate or world."""
        return None if world is None or self.world_gate is None else torch.tanh(self.world_gate)

    def fuse(
        self, input_ids: torch.Tensor, image: torch.Tensor | None, world: torch.Tensor | None, *, check: bool
    ) -> torch.Tensor:
        """Token embeddings (B, L, D) with image features, block markers and world tokens in their places."""
        # The id of the image placeholder may lie outside of the embedding table
        known = input_ids.masked_fill(input_ids == self.config.image_token_index, 0)
        known = known if self.config.image_token_index >= self.vocab_size else input_ids
        embeds = self.get_input_embeddings()(known)
        if self.world_gate is not None and image is not None and world is not None:
            image = self.gate_images(image, world)
        if image is not None:
            image = image.to(embeds.device, embeds.dtype)
            mask = self.get_placeholder_mask(
                cast(torch.LongTensor, input_ids), inputs_embeds=embeds, image_features=image
            )
            embeds = embeds.masked_scatter(mask, image)
        if self.world_markers is None:
            return embeds
        marker_ids = (self.config.start_of_world_token_id, self.config.end_of_world_token_id)
        for marker_id, marker in zip(marker_ids, self.world_markers.weight, strict=True):
            embeds = torch.where((input_ids == marker_id).unsqueeze(-1), marker.to(embeds), embeds)
        placeholders = input_ids == self.config.world_token_id
        if world is not None:
            return scatter_tokens(embeds, placeholders, world)
        if check and not torch.compiler.is_compiling() and (tokens := int(placeholders.sum())):
            # Placeholders without features would give an answer that looks as if it used the world
            raise TheWorldError(f"the prompt has {tokens} world tokens but no world features were given")
        return embeds


class TheWorld(Installed, CheckpointMixin, ComponentsMixin, WorldGenerationMixin, Gemma3ForConditionalGeneration):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    """Gemma 3 with world tokens. Load it with `from_pretrained`; with the world off it is Gemma 3, bit for bit."""

    config_class = TheWorldConfig
    config: TheWorldConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    model: TheWorldModel
    processor: TheWorldProcessor

    def __init__(self, config: TheWorldConfig, *_: Any, **old: Any) -> None:
        if isinstance(config, str | Path):
            raise TheWorldError(
                f"TheWorld({str(config)!r}): load a model with TheWorld.from_pretrained({str(config)!r})"
            )
        if old:
            raise ArgumentError(f"TheWorld got {', '.join(old)}: not an argument of it, nor a field of TheWorldConfig")
        Gemma3PreTrainedModel.__init__(self, config)
        self.base_tensors, self.fresh_tensors = {}, {}
        self.model = TheWorldModel(config)
        text = config.get_text_config()
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

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
        num_world_steps: int | torch.Tensor | None = None,
        world_seed: int | None = None,
        use_world: bool | None = None,
        world_latents: torch.Tensor | None = None,
        supervised_logits_only: bool = False,
        cache: Any = None,
        **kwargs: Any,
    ) -> TheWorldCausalLMOutputWithPast:
        """Gemma 3's forward with a world.

        Args:
            world_pixel_values: (M, 3, H, W) in [-1, 1], from the processor, one frame per image in the prompt.
            world_latents: (M, C, T, h, w) of those frames, computed before: the encoder is not called.
            images: Images in place of `world_pixel_values`. If the prompt has no world block, one per image is inserted
                first; logits are returned for the caller's own positions.
            num_world_steps: Future latent frames of inserted blocks; must fit the block if the prompt has one.
            world_seed: Seed of the rollout instead of the config's.
            use_world: `False` runs plain Gemma 3: a block in the prompt is removed.
            supervised_logits_only: Compute logits only at positions that `labels` supervise: `logits` are then
                (supervised tokens, vocabulary) in reading order, and the loss is the same. Without any supervised token
                it is exactly 0.

        Raises:
            ValueError: Blocks, frames and steps do not fit; the prompt is too long; or, in training, an image has no
                world input.
        """
        if supervised_logits_only and (labels is None or not isinstance(logits_to_keep, int) or logits_to_keep):
            raise TheWorldError("supervised_logits_only=True needs labels, and no logits_to_keep")
        cache = past_key_values if cache is None else cache
        # 1. Validate the world arguments; insert or remove blocks
        request = WorldRequest(world_pixel_values, images, num_world_steps, use_world, world_latents)
        inputs = WorldInputs(Prompt(input_ids, attention_mask, token_type_ids, labels))  # type: ignore[arg-type]
        strict, validated = self.training or labels is not None, False
        if self.has_world_input(input_ids, request, cache, mm_encoder_outputs):
            has_image, validated = pixel_values is not None or bool(mm_encoder_outputs), True
            inputs = validate_world_inputs(self.config, inputs.prompt, request, has_image=has_image, strict=strict)
        if inputs.rewritten is not None and position_ids is not None:
            raise TheWorldError("position_ids with a prompt whose world blocks are inserted or removed: leave them out")
        # 2. Encode the world
        if inputs.pixels is not None or inputs.latents is not None:
            world = self.model.encode_inputs(inputs, world_seed, strict=strict)
            mm_encoder_outputs = {**(mm_encoder_outputs or {}), "world": world}
        elif validated:
            kwargs["use_world"] = False
        # 3. Run the model and its head
        kwargs |= {"input_ids": inputs.prompt.input_ids, "attention_mask": inputs.prompt.attention_mask}
        kwargs |= {"token_type_ids": inputs.prompt.token_type_ids, "labels": inputs.prompt.labels}
        kwargs |= {"pixel_values": pixel_values, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        kwargs |= {CACHE: cache, "use_cache": use_cache, "mm_encoder_outputs": mm_encoder_outputs}
        run = cast(Any, self._forward_supervised if supervised_logits_only else super().forward)
        kept = 0 if inputs.rewritten is not None else logits_to_keep
        outputs = run(logits_to_keep=kept, return_dict=True, **kwargs)
        # 4. Return logits for the caller's own positions
        if inputs.rewritten is not None and not supervised_logits_only:  # (B, L, vocabulary)
            outputs.logits = slice_logits_to_keep(inputs.rewritten.restore(outputs.logits), logits_to_keep)
        world = (mm_encoder_outputs or {}).get("world")
        tokens = None if world is None else world.pooler_output
        return extended(TheWorldCausalLMOutputWithPast, outputs, tokens, self.model.gate_of(tokens))

    def _forward_supervised(self, labels: torch.Tensor, logits_to_keep: object, **inputs: Any) -> Any:
        """Gemma 3's forward with its head run on the supervised positions only."""
        outputs = self.model(labels=labels, **inputs)
        hidden, targets = select_supervised(outputs.last_hidden_state, labels)  # (S, D), (S,)
        logits = self.lm_head(hidden)  # (S, vocabulary)
        loss = logits.float().sum()  # 0 without supervised tokens, and backward still runs
        if len(targets):
            vocabulary, items = self.config.get_text_config().vocab_size, inputs.get("num_items_in_batch")
            loss = cast(Any, self.loss_function)(logits, labels, vocabulary, items, shift_labels=targets)
        output = Gemma3CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: outputs.get(CACHE)})
        output.hidden_states, output.attentions = outputs.hidden_states, outputs.attentions
        return output


def extended(cls: Any, outputs: Any, tokens: torch.Tensor | None, gate: torch.Tensor | None) -> Any:
    """Gemma 3's output with the world tokens and gates of a call."""
    kept = {name: value for name, value in outputs.items() if name not in ("world_hidden_states", "world_gate")}
    return cls(**kept, world_hidden_states=tokens, world_gate=gate)


__all__ = ["TheWorld", "TheWorldModel"]
