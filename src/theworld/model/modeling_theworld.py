"""The fused model: Gemma 3, a world encoder, and a projector between them.

    image, question --processor--> input_ids, pixel_values, world_pixel_values
    world_pixel_values --encoder--> latents --projector--> world tokens --fusion--> inputs_embeds --Gemma 3--> text

Shape legend: `B` batch, `L` sequence, `M` images of all prompts, `C` latent channels, `T = 1 + K` latent frames, `N`
world tokens of one image, `D` language-model width, `S` world image size.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

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

from .configuration_theworld import TheWorldConfig
from .freezing import apply_freezing, component_sizes, parameter_table
from .fusion import FUSIONS
from .generation_theworld import WorldGenerationMixin
from .idle import zero_of_idle
from .lora import merge_lora
from .processing_theworld import TheWorldProcessor
from .projectors import WorldProjector, build_projector
from .supervision import select_supervised
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
    """Gemma 3's output, and the world tokens (M, N, D) that this call consumed."""

    world_hidden_states: torch.Tensor | None = None

    @property
    def num_world_tokens(self) -> int:
        """How many world tokens this call consumed; 0 means that the world was off."""
        tokens = self.world_hidden_states
        return 0 if tokens is None else tokens.shape[0] * tokens.shape[1]


class TheWorldModel(Gemma3Model):
    """Gemma 3 without its head, with the parts that bring the world in."""

    config: TheWorldConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: TheWorldConfig) -> None:
        super().__init__(config)
        self.world_encoder: WorldEncoder | None = None
        self.world_projector: WorldProjector | None = None
        self.world_markers: nn.Embedding | None = None
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
        self.world_projector = projector
        self.world_markers = nn.Embedding.from_pretrained(markers.clone(), freeze=False)
        for module in (*projector.modules(), self.world_markers):
            cast(Any, module)._is_hf_initialized = True  # keep transformers' own initialisation away

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
        world_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TheWorldModelOutputWithPast:
        """Gemma 3's forward; `mm_encoder_outputs["world"]` holds the world tokens of the prompt's blocks.

        `world_pixel_values` (M, 3, S, S) is for callers that run the head themselves: TRL hands a batch to this model.
        """
        image_features = world = None
        if world_pixel_values is not None:
            prompt, request = Prompt(cast(torch.Tensor, input_ids)), WorldRequest(world_pixel_values)
            steps = settle_world_inputs(self.config, prompt, request, has_image=True, strict=True).num_world_steps
            features = self.get_world_features(world_pixel_values, steps)
            mm_encoder_outputs = {**(mm_encoder_outputs or {}), "world": features}
        if self.config.enable_world and input_ids is not None:
            encoded = mm_encoder_outputs or {}
            image = encoded.get("image")
            if image is None and pixel_values is not None:
                image = cast(Any, self.get_image_features)(pixel_values, return_dict=True)
            image_features = None if image is None else image.pooler_output
            world = None if encoded.get("world") is None else encoded["world"].pooler_output
            fresh = past_key_values is None or int(past_key_values.get_seq_length()) == 0
            if world is None and input_ids.shape[1] > 1 and fresh:
                self.check_no_placeholders(input_ids)
            zero = zero_of_idle(self, image_features, world) if self.training else None
            inputs_embeds = self.fuse(input_ids, image_features, world)  # (B, L, D)
            if zero is not None:
                inputs_embeds = inputs_embeds + zero.to(inputs_embeds)
            input_ids = pixel_values = mm_encoder_outputs = None
        elif self.training and input_ids is not None and pixel_values is None and not mm_encoder_outputs:
            embeds = cast(torch.Tensor, self.get_input_embeddings()(input_ids))
            inputs_embeds, input_ids = embeds + zero_of_idle(self, None, None).to(embeds), None
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

    def check_no_placeholders(self, input_ids: torch.Tensor) -> None:
        """Refuse to run placeholders that nothing will fill: an answer from them would look like one with a world."""
        tokens = int((input_ids == self.config.world_token_id).sum())
        if tokens:
            raise ValueError(f"the prompt has {tokens} world tokens but no world features came with it")

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
        for marker_id, marker in zip(marker_ids, self.world_markers.weight, strict=True):
            embeds = torch.where((input_ids == marker_id).unsqueeze(-1), marker.to(embeds), embeds)
        if world is not None:
            embeds = FUSIONS[self.config.fusion](embeds, input_ids == self.config.world_token_id, world)
        return embeds


class TheWorld(WorldGenerationMixin, Gemma3ForConditionalGeneration):  # pyright: ignore[reportIncompatibleMethodOverride]
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
            language_model: With `False` the language model's weights are left on the disk: such a model can align its
                world tokens with its image tokens and be saved, not answer.
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

    def push_to_hub(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, repo_id: str, *, full: bool = False, **kwargs: Any
    ) -> None:
        """`save_pretrained` to a Hub repository; takes its `token`, `private`, `commit_message`, `create_pr`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, full=full, push_to_hub=True, repo_id=repo_id, **kwargs)

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
        world_latents: torch.Tensor | None = None,
        logits_at_labels: bool = False,
        **kwargs: Any,
    ) -> TheWorldCausalLMOutputWithPast:
        """Gemma 3's forward with a world.

        Args:
            world_pixel_values: (M, 3, S, S) in [-1, 1], from the processor, one frame per image in the prompt.
            world_latents: (M, C, T, h, w) of those frames, computed before: the encoder is not called.
            images: Images in place of `world_pixel_values`. If the prompt has no world block, one per image is inserted
                first; logits are given back at the caller's own positions.
            num_world_steps: Future latent frames of inserted blocks; must fit the block if the prompt has one.
            world_seed: Seed of the rollout instead of the config's.
            use_world: `False` runs plain Gemma 3: a block in the prompt is taken out.
            logits_at_labels: Compute logits only where `labels` supervise: `logits` are then (supervised tokens,
                vocabulary) in reading order, and the loss is the same. Without any supervised token it is exactly 0.

        Raises:
            ValueError: Blocks, frames and steps do not fit; or, in training, an image came without world input.
        """
        if logits_at_labels and (labels is None or not isinstance(logits_to_keep, int) or logits_to_keep):
            raise ValueError("logits_at_labels=True needs labels, and no logits_to_keep: the labels choose the logits")
        request = WorldRequest(world_pixel_values, images, num_world_steps, use_world, world_latents)
        prompt = Prompt(input_ids, attention_mask, token_type_ids, labels)  # type: ignore[arg-type]
        inputs = WorldInputs(prompt)
        strict = self.training or labels is not None
        if self._at_the_door(input_ids, request, past_key_values, mm_encoder_outputs):
            inputs = settle_world_inputs(
                self.config, prompt, request, has_image=pixel_values is not None, strict=strict
            )
        if inputs.rewritten is not None and position_ids is not None:
            raise ValueError("position_ids with a prompt whose world blocks are inserted or removed: leave them out")
        world = (mm_encoder_outputs or {}).get("world")
        if inputs.pixels is not None or inputs.latents is not None:
            frames = (inputs.pixels, inputs.latents, inputs.num_world_steps, world_seed)
            world = self._world_features(*frames, one_by_one=strict)
            mm_encoder_outputs = {**(mm_encoder_outputs or {}), "world": world}
        run = cast(Any, self._forward_at_labels if logits_at_labels else super().forward)
        outputs = run(
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
        if inputs.rewritten is not None and not logits_at_labels:  # (B, L, vocabulary), then what the caller keeps
            outputs.logits = slice_logits_to_keep(inputs.rewritten.restore(outputs.logits), logits_to_keep)
        return TheWorldCausalLMOutputWithPast(
            **outputs, world_hidden_states=None if world is None else world.pooler_output
        )

    def _forward_at_labels(
        self, labels: torch.Tensor, logits_to_keep: object, **inputs: Any
    ) -> Gemma3CausalLMOutputWithPast:
        """Gemma 3's forward with its head run on the supervised positions only."""
        outputs = self.model(labels=labels, **inputs)
        hidden, targets = select_supervised(outputs.last_hidden_state, labels)  # (S, D), (S,)
        logits = self.lm_head(hidden)  # (S, vocabulary)
        loss = logits.float().sum()  # of nothing: 0, and backward runs as ever
        if len(targets):
            loss = cast(Any, self.loss_function)(
                logits=logits,
                labels=labels,
                shift_labels=targets,
                vocab_size=self.config.get_text_config().vocab_size,
                num_items_in_batch=inputs.get("num_items_in_batch"),
            )
        return Gemma3CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def get_trainable_parameters(self) -> tuple[int, int, float]:
        """(trainable, total, percentage) of all parameters."""
        sizes = component_sizes(self).values()
        trainable, total = sum(size.trainable for size in sizes), sum(size.total for size in sizes)
        return trainable, total, 100 * trainable / total

    def parameter_table(self) -> str:
        """Trainable and total parameters per component, as text."""
        return parameter_table(self)

    def merge_lora(self) -> None:
        """Fold the adapters of the config's `lora` into the language model, which a checkpoint then holds instead."""
        merge_lora(self)

    def freeze(self) -> None:
        """Apply the config's `freeze_*` flags."""
        apply_freezing(self)


__all__ = ["TheWorld", "TheWorldModel"]
