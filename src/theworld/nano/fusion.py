"""The nano fusion: a projector between the frozen nano Gemma and the frozen nano Cosmos, aligned, then asked questions.

*Align* needs no labels: the projected tokens of latent frame t are regressed on Gemma's own image tokens of the true
video frame they stand for. *Questions* is the usual loss on answers, through the frozen language model. Both see the
same scenes, which no world or language training has seen.

Shapes: `n` clips, `C` latent channels, `T` latent frames, `h, w` latent pixels, `N` image tokens of a frame, `D` width.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld.constants import IGNORE_INDEX
from theworld.model import TheWorld
from theworld.model.world_block import Prompt, insert_world_blocks
from theworld.model.world_encoders import CosmosWorldEncoder

from .conversations import FIRST, LAST, ChatEncoder, Conversation
from .fit import Group, fit
from .questions import predictive_questions, static_questions
from .scenes import SceneSet, load
from .tokenizer import END_OF_TURN
from .vae import encode_clips
from .vision import IMAGE_SIZE, encode_images, to_pixels

logger = logging.getLogger(__name__)

WORLD_STEPS = 2
FRAMES_PER_LATENT = 4
TRUE_SHARE = 0.25  # of a rollout's training latents: the projector then reads true and predicted futures alike
STILL_SHARE = 0.15  # of question steps with the current frame's tokens alone: the same model answers at K = 0
TURNS = 6

# Delta from the library's defaults. The layout is what the validation scenes preferred; see benchmarks/nano_layouts.py.
FUSION_CONFIG: dict[str, Any] = {
    "world_image_size": IMAGE_SIZE,
    "num_world_steps": WORLD_STEPS,
    "max_world_steps": WORLD_STEPS,
    "projector": "transformer",
    "world_position": "before_image",
    "world_attention": "bidirectional",
    "world_inference_steps": 6,
    "world_guidance_scale": 1.0,
}


@dataclass(frozen=True)
class ClipFeatures:
    """What the fusion learns from, per clip.

    Args:
        true: (n, C, T, h, w) latents of the real clip.
        imagined: (n, C, T, h, w) latents that the world encoder gives for the first frame.
        image_tokens: (n, T, N, D) Gemma's tokens of the real frames 0, 4, 8.
    """

    true: Tensor
    imagined: Tensor
    image_tokens: Tensor

    def draw(self, count: int, rng: np.random.Generator, true_share: float) -> tuple[np.ndarray[Any, Any], Tensor]:
        """Clips, and for each its imagined latents or, in a share, its true ones."""
        clips = rng.integers(len(self.true), size=count)
        true = torch.from_numpy(rng.random(count) < true_share).view(-1, 1, 1, 1, 1)
        return clips, torch.where(true, self.true[clips], self.imagined[clips])


def assemble(gemma: Path, cosmos: Path, **config: Any) -> TheWorld:
    """A fresh nano fusion of two base folders."""
    settings = {**FUSION_CONFIG, **config}
    return TheWorld.from_pretrained(gemma, cosmos_model_name=str(cosmos), dtype=torch.float32, **settings)


@torch.no_grad()
def encode_features(model: TheWorld, scenes: SceneSet, *, batch_size: int = 200) -> ClipFeatures:
    """Run the frozen parts once over every clip."""
    encoder = model.model.world_encoder
    assert isinstance(encoder, CosmosWorldEncoder)
    frames = range(0, LAST + 1, FRAMES_PER_LATENT)
    imagined, tokens = [], []
    for start in range(0, len(scenes), batch_size):
        clips = range(start, min(start + batch_size, len(scenes)))
        first = to_pixels(scenes.frames[start : clips.stop, FIRST])
        imagined.append(encoder.encode(first, model.config.num_world_steps).latents)
        pairs = [(clip, frame) for clip in clips for frame in frames]
        tokens.append(encode_images(model, scenes, pairs).unflatten(0, (len(clips), len(frames))))
        logger.info("fusion: %d of %d clips encoded", clips.stop, len(scenes))
    return ClipFeatures(encode_clips(encoder.vae, scenes.frames), torch.cat(imagined), torch.cat(tokens))


def true_share(model: TheWorld) -> float:
    """The control, which will never see a future, is not made to learn from one: all its steps serve it."""
    return 0.0 if model.config.world_encoder == "still" else TRUE_SHARE


def load_features(model: TheWorld, scenes: SceneSet, cache: Path) -> ClipFeatures:
    """`encode_features`, kept in `cache`: an interrupted recipe goes on from there."""
    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in vars(encode_features(model, scenes)).items()}, cache)
    return ClipFeatures(**load_file(cache))


def align(
    model: TheWorld, features: ClipFeatures, *, steps: int, batch_size: int = 96, seed: int = 0
) -> dict[str, Any]:
    """Regress projected world tokens on Gemma's image tokens of the true frames; no labels."""
    rng = np.random.default_rng(seed)
    assert model.model.world_projector is not None
    projector = model.model.world_projector
    variance = features.image_tokens[:500].var()

    def step_function(_: int) -> tuple[Tensor, dict[str, float]]:
        clips, latents = features.draw(batch_size, rng, true_share(model))
        target = features.image_tokens[clips].flatten(1, 2)  # (B, T * N, D)
        error = (projector(latents) - target).square().mean((0, 2)) / variance
        per_frame = error.unflatten(0, (-1, features.image_tokens.shape[2])).mean(1)
        figures = {f"frame_{frame}": value.item() for frame, value in enumerate(per_frame)}
        return error.mean(), {**figures, "samples": batch_size}

    return fit("align", step_function, [Group(projector.parameters(), 2e-3)], steps=steps, warmup=50)


def train_questions(
    model: TheWorld,
    scenes: SceneSet,
    features: ClipFeatures,
    *,
    steps: int,
    conversations: int = 12,
    learning_rate: float = 5e-4,
    seed: int = 0,
) -> dict[str, Any]:
    """Answer static and predictive questions about the first frame; only the projector and the markers learn."""
    rng = np.random.default_rng(seed)
    encoder = ChatEncoder(model.processor)
    end_of_turn = model.processor.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    image_token = model.config.image_token_index
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step_function(_: int) -> tuple[Tensor, dict[str, float]]:
        clips, latents = features.draw(conversations, rng, true_share(model))
        if rng.random() < STILL_SHARE:
            latents = latents[:, :, :1]
        batch = encoder.batch([draw_fusion_conversation(int(clip), scenes.records[clip], rng) for clip in clips])
        plain = Prompt(batch.ids, batch.mask, (batch.ids == image_token).long(), batch.labels)
        prompt = insert_world_blocks(model.config, plain, len(clips), latents.shape[2] - 1).prompt
        assert prompt.labels is not None
        images = BaseModelOutputWithPooling(pooler_output=features.image_tokens[clips, 0])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(
                input_ids=prompt.input_ids,
                attention_mask=prompt.attention_mask,
                token_type_ids=prompt.token_type_ids,
                mm_encoder_outputs={"image": images, "world": model.model.project_latents(latents)},
                use_cache=False,
            ).last_hidden_state
            targets = prompt.labels[:, 1:]
            supervised = targets != IGNORE_INDEX
            logits = model.lm_head(hidden[:, :-1][supervised]).float()
        targets = targets[supervised]
        words = targets != end_of_turn
        right = (logits.argmax(-1) == targets)[words].float().mean().item()
        return F.cross_entropy(logits, targets), {"right": right, "samples": conversations}

    return fit("questions", step_function, [Group(learned, learning_rate)], steps=steps, warmup=50)


def draw_fusion_conversation(clip: int, record: dict[str, Any], rng: np.random.Generator) -> Conversation:
    """Every predictive question of the scene and static ones about its first frame, in random order."""
    predictive = predictive_questions(record, rng)
    static = static_questions(record, FIRST, rng)
    kept = [static[i] for i in rng.permutation(len(static))[: TURNS - len(predictive)]]
    turns = [*predictive, *kept]
    return Conversation(clip, (FIRST,), tuple(turns[i] for i in rng.permutation(len(turns))))


def train_fusion(
    scenes_folder: Path,
    gemma: Path,
    cosmos: Path,
    out: Path,
    *,
    align_steps: int = 2000,
    question_steps: int = 1500,
    seed: int = 0,
    **config: Any,
) -> dict[str, Any]:
    """Train one fusion on `scenes_folder`/fusion and save its delta checkpoint to `out`.

    Args:
        config: Settings of `TheWorldConfig` beside `FUSION_CONFIG`; `world_encoder="still"` makes the matched control.

    Returns:
        The figures of both stages, also written to `out`/fusion.json.
    """
    torch.manual_seed(seed)
    scenes = load(scenes_folder / "fusion")
    model = assemble(gemma, cosmos, **config)
    features = load_features(model, scenes, out.with_name(f"{out.name}-features.safetensors"))
    aligned = out.with_name(f"{out.name}-aligned.safetensors")
    figures: dict[str, Any] = {}
    assert model.model.world_projector is not None
    if aligned.is_file():
        model.model.world_projector.load_state_dict(load_file(aligned))
    else:
        figures["align"] = align(model, features, steps=align_steps, seed=seed)
        save_file(model.model.world_projector.state_dict(), aligned)
    model.set_attn_implementation("eager")  # with a mask, faster than sdpa on a CPU under bf16 autocast
    figures["questions"] = train_questions(model, scenes, features, steps=question_steps, seed=seed)
    model.set_attn_implementation("sdpa")
    model.save_pretrained(out)
    (out / "fusion.json").write_text(json.dumps(figures, indent=1))
    return figures
