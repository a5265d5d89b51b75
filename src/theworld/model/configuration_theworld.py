"""`TheWorldConfig`: Gemma 3's configuration plus how the world enters it.

Shape legend: `T` latent frames, `h, w` latent height and width, `p` pooling factor, `D` language-model width.
"""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import Gemma3Config

from theworld.constants import DEFAULT_COSMOS

WorldPosition = Literal["after_bos", "before_image"]
WorldAttention = Literal["causal", "bidirectional"]


@strict
class TheWorldConfig(Gemma3Config):
    """Everything that a fused model needs to know; validates itself when it is made.

    Args:
        enable_world: With `False` the model is Gemma 3, bit for bit.
        gemma_model_name: Hub id or folder of the base Gemma 3. A name that begins with `./` or `../` is relative to the
            checkpoint that holds this config.
        gemma_revision: Commit, tag or branch of the base Gemma 3.
        gemma_subfolder: Where in its repository the base Gemma 3 lies.
        cosmos_model_name: Hub id or folder of the base world model; relative names as above.
        cosmos_revision: Commit, tag or branch of the base world model.
        cosmos_subfolder: Where in its repository the base world model lies.
        world_encoder: Key of `theworld.model.world_encoders.WORLD_ENCODERS`.
        world_latent_channels: Channels `C` of a world latent (16 for the Wan VAE).
        world_spatial_compression: Pixels per latent position and side (8 for the Wan VAE).
        world_temporal_compression: Video frames per latent frame after the first (4 for the Wan VAE).
        world_image_size: Side in pixels of the square frame that the world encoder sees.
        num_world_steps: Future latent frames `K` that are rolled out when a call names none; `T = 1 + K`.
        max_world_steps: Largest `K` that a call may ask for; fixes the size of the time embedding.
        world_pooling: Pixel-unshuffle factor `p` of the projector: `(h / p) * (w / p)` tokens per latent frame.
        projector: Key of `theworld.model.projectors.PROJECTORS`.
        projector_hidden_size: Inner width of the projector; `None` means `D`.
        projector_layers: Layers of the `transformer` projector.
        projector_heads: Attention heads of the `transformer` projector.
        fusion: Key of `theworld.model.fusion.FUSIONS`.
        world_position: `after_bos` puts every block behind BOS, `before_image` each block directly before its image.
        world_attention: Whether world tokens of one block see each other in both directions, as image tokens do.
        start_of_world_token_id: Spare vocabulary slot that opens a block.
        end_of_world_token_id: Spare vocabulary slot that closes a block.
        world_token_id: Spare vocabulary slot that stands for one world token.
        world_seed: Seed of the rollout's noise; the same for every image, so that batches change nothing.
        world_inference_steps: Denoising steps of a rollout.
        world_guidance_scale: Classifier-free guidance of a rollout; above 1 each step costs two forwards.
        world_fps: Frames a second that the rollout is told.
        world_prompt: The fixed text that conditions a rollout. Its embedding is computed once and cached.
        freeze_gemma_vision: Freeze SigLIP and Gemma's own image projector.
        freeze_gemma_language: Freeze the language model.
        freeze_cosmos_vae: Freeze the VAE's encoder.
        lora: Low-rank adapters on the language model, which train while it is frozen: `r` (16), `alpha` (32), `dropout`
            (0) and `target_modules`, names of its linear layers, a regular expression over `layers.0.self_attn.q_proj`
            and the like, or `all-linear` (default: attention and feed-forward). `{}` takes the defaults.
        freeze_language_lora: Freeze the adapters.
        trained_components: Components that were ever trained (`theworld.model.freezing.COMPONENTS`): what a delta
            checkpoint holds, also after they were frozen again.

    Raises:
        ValueError: A field is out of range; names the field, the value and what was expected.
    """

    model_type = "theworld"

    enable_world: bool = True
    gemma_model_name: str | None = None
    gemma_revision: str | None = None
    gemma_subfolder: str = ""
    cosmos_model_name: str = DEFAULT_COSMOS
    cosmos_revision: str | None = None
    cosmos_subfolder: str = ""
    world_encoder: str = "cosmos"
    world_latent_channels: int = 16
    world_spatial_compression: int = 8
    world_temporal_compression: int = 4
    world_image_size: int = 224
    num_world_steps: int = 0
    max_world_steps: int = 16
    world_pooling: int = 1
    projector: str = "mlp"
    projector_hidden_size: int | None = None
    projector_layers: int = 2
    projector_heads: int = 4
    fusion: str = "tokens"
    world_position: str = "after_bos"
    world_attention: str = "causal"
    start_of_world_token_id: int = 6
    end_of_world_token_id: int = 7
    world_token_id: int = 8
    world_seed: int = 0
    world_inference_steps: int = 35
    world_guidance_scale: float = 7.0
    world_fps: int = 16
    world_prompt: str = ""
    freeze_gemma_vision: bool = True
    freeze_gemma_language: bool = True
    freeze_cosmos_vae: bool = True
    lora: dict[str, Any] | None = None
    freeze_language_lora: bool = False
    trained_components: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.trained_components is None:
            self.trained_components = ["projector"]
        super().__post_init__(**kwargs)
        self.check_world()
        if self.lora is not None:
            self.lora = check_lora(self.lora)
        elif "language_lora" in self.trained_components:
            raise ValueError(
                "lora=None, but adapters were trained: leave lora out, or call merge_lora() and save first"
            )

    def check_world(self) -> None:
        """Check the world's fields. A `validate_*` would have its ValueError wrapped by `strict` in another type."""
        choices = {"world_position": ("after_bos", "before_image"), "world_attention": ("causal", "bidirectional")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        for name in ("max_world_steps", "world_pooling", "world_inference_steps", "projector_layers", "world_fps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        check_world_steps(self.num_world_steps, self.max_world_steps)
        cell = self.world_spatial_compression * self.world_pooling
        if self.world_image_size < cell or self.world_image_size % cell:
            raise ValueError(
                f"world_image_size={self.world_image_size}: expected a multiple of {cell}, that is "
                f"world_spatial_compression {self.world_spatial_compression} x world_pooling {self.world_pooling}"
            )
        if not self.freeze_cosmos_vae and not self.enable_world:
            raise ValueError("freeze_cosmos_vae=False with enable_world=False: there is no VAE to train")

    @property
    def world_grid(self) -> tuple[int, int]:
        """Rows and columns of world tokens in one latent frame, after pooling."""
        side = self.world_image_size // (self.world_spatial_compression * self.world_pooling)
        return side, side

    @property
    def world_tokens_per_frame(self) -> int:
        """World tokens of one latent frame."""
        rows, columns = self.world_grid
        return rows * columns

    def world_tokens(self, num_world_steps: int) -> int:
        """World tokens `N` of one image rolled out for `num_world_steps` latent frames."""
        return (1 + num_world_steps) * self.world_tokens_per_frame


def check_world_steps(num_world_steps: int, max_world_steps: int) -> int:
    """Return `num_world_steps` if a rollout of that length is allowed.

    Raises:
        ValueError: It is no whole number, negative or above `max_world_steps`.
    """
    if type(num_world_steps) is not int or not 0 <= num_world_steps <= max_world_steps:
        raise ValueError(
            f"num_world_steps={num_world_steps!r}: expected 0 to max_world_steps={max_world_steps} future latent frames"
        )
    return num_world_steps


LORA: dict[str, Any] = {
    "r": 16,
    "alpha": 32,
    "dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def check_lora(lora: dict[str, Any]) -> dict[str, Any]:
    """Settings of adapters with every default filled in.

    Raises:
        ValueError: One is unknown or out of range; names it.
    """
    unknown = sorted(lora.keys() - LORA.keys())
    if unknown:
        raise ValueError(f"lora has {', '.join(unknown)}: expected {', '.join(LORA)}")
    settings = {**LORA, **lora}
    rank, alpha, dropout, targets = (settings[name] for name in LORA)
    if type(rank) is not int or rank < 1:
        raise ValueError(f"lora r={rank!r}: expected a whole number of at least 1")
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise ValueError(f"lora alpha={alpha!r}: expected a number above 0")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"lora dropout={dropout!r}: expected 0 to below 1")
    names: list[Any] = [targets] if isinstance(targets, str) else list(targets)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"lora target_modules={targets!r}: expected names of layers, or one regular expression")
    return {**settings, "target_modules": targets if isinstance(targets, str) else names}


__all__ = ["TheWorldConfig", "check_lora", "check_world_steps"]
