from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from torch import Tensor

from theworld.model.world_encoders.cosmos_sampler import sample_rollout
from theworld.nano import dynamics
from theworld.nano.dynamics import (
    CLEAN_TIME,
    FPS,
    LAST_TIME,
    build_transformer,
    draw_batch,
    encode_both_ways,
    flow_loss,
    inverse_covariance,
    moving_weight,
    prompt_embedding,
    sample_times,
    skip_cross_attention,
    train_dynamics,
)
from theworld.nano.scenes import generate
from theworld.nano.vae import build_vae, encode_clips


def roll_out(transformer: Any, scheduler: Any, latents: Tensor, *, prompt_embeds: Tensor, steps: int) -> Tensor:
    """Imagine the future of latents (n, C, L, h, w), of which only the first frame is read."""
    noise = torch.randn((1, *latents.shape[1:]), generator=torch.Generator().manual_seed(0)).expand_as(latents)
    options = {"prompt_embeds": prompt_embeds, "num_inference_steps": steps, "fps": FPS}
    return sample_rollout(transformer, scheduler, latents[:, :, :1], noise, **options)


def answer_with(transformer: CosmosTransformer3DModel, truth: Tensor, seen: list[dict[str, Any]]) -> None:
    """Replace the network's output by the exact velocity towards `truth`: (x_t - x_0) / t."""

    def hook(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> tuple[Tensor]:
        seen.append(kwargs)
        return ((kwargs["hidden_states"] - truth) / kwargs["timestep"],)

    transformer.register_forward_hook(hook, with_kwargs=True)


def test_training_and_the_sampler_mean_the_same_velocity():
    torch.manual_seed(0)
    truth, transformer, seen = torch.randn(2, 16, 3, 4, 4), build_transformer(), []
    answer_with(transformer, truth, seen)
    assert flow_loss(transformer, truth, torch.Generator().manual_seed(0)) == pytest.approx(0, abs=1e-6)
    rolled = roll_out(
        transformer,
        FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        truth,
        prompt_embeds=prompt_embedding(),
        steps=4,
    )
    assert torch.allclose(rolled, truth, atol=2e-2)  # the sampler stops at sigma 0.002
    for told in seen:
        assert told["fps"] == 16
        assert (told["encoder_hidden_states"] == 0).all()
        assert torch.equal(told["hidden_states"][:, :, 0], truth[:, :, 0])
        assert torch.allclose(told["timestep"][:, :, 0], torch.tensor(CLEAN_TIME))
        assert (told["condition_mask"][:, :, 0] == 1).all()
        assert (told["condition_mask"][:, :, 1:] == 0).all()


def test_skipping_cross_attention_changes_nothing_with_the_empty_prompt():
    torch.manual_seed(0)
    transformer, latents = build_transformer(), torch.randn(2, 16, 3, 4, 4)
    whole = flow_loss(transformer, latents, torch.Generator().manual_seed(0))
    skip_cross_attention(transformer)
    assert torch.equal(whole, flow_loss(transformer, latents, torch.Generator().manual_seed(0)))


def test_the_output_starts_small_and_every_position_has_its_embedding():
    transformer = build_transformer()
    assert 3.7e6 < sum(parameter.numel() for parameter in transformer.parameters()) < 3.9e6
    for name, parameter in transformer.named_parameters():
        assert "pos_emb" not in name or parameter.std() > 0.01


def test_times_end_where_sampling_starts():
    times = sample_times(10_000, torch.Generator().manual_seed(0))
    assert times.min() > 0
    assert times.max() == pytest.approx(LAST_TIME)
    assert (times > 0.8).float().mean() > 0.4


def test_only_what_changes_weighs_more():
    latents = torch.zeros(1, 1, 3, 2, 2)
    latents[:, :, 2, 0, 0] = 5
    weight = moving_weight(latents)
    assert weight[0, 0, 1, 0, 0] == 4
    assert weight.sum() == 7 + 4


def test_the_metric_lets_a_direction_of_little_variance_count():
    torch.manual_seed(0)
    latents = torch.randn(4000, 1, 2, 1, 2)
    latents[..., 1] *= 0.5
    metric = inverse_covariance(latents, ridge=0.0)
    assert metric.shape == (1, 2, 2)
    assert torch.allclose(metric[0], torch.tensor([[1.0, 0.0], [0.0, 4.0]]), atol=0.3)


def test_training_writes_what_the_world_encoder_loads(tmp_path: Path):
    scenes = generate(tmp_path / "train", "train", {"drop": 2, "race": 1, "stack": 1}, workers=1)
    torch.manual_seed(0)
    build_vae().save_pretrained(tmp_path / "cosmos" / "vae")
    cosmos = tmp_path / "cosmos"
    figures = train_dynamics(tmp_path, cosmos, cosmos, steps=2, batch_size=4, compiled=False)
    assert figures["steps"] == 2
    assert figures["loss"] > 0
    transformer = CosmosTransformer3DModel.from_pretrained(cosmos / "transformer").eval()
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(cosmos / "scheduler")
    prompt_embeds = load_file(cosmos / "prompt_embeds.safetensors")["prompt_embeds"]
    latents = encode_clips(build_vae().eval(), scenes.frames)
    rolled = roll_out(transformer, scheduler, latents, prompt_embeds=prompt_embeds, steps=2)
    assert rolled.shape == latents.shape
    assert rolled.isfinite().all()
    assert torch.equal(rolled[:, :, 0], latents[:, :, 0])


def test_an_interrupted_training_does_not_encode_its_clips_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1. Interrupted at the first step, after the clips have been encoded
    generate(tmp_path / "train", "train", {"drop": 2, "stack": 1}, workers=1)
    cosmos = tmp_path / "cosmos"
    build_vae().save_pretrained(cosmos / "vae")
    train = partial(train_dynamics, tmp_path, cosmos, cosmos, steps=1, batch_size=2, compiled=False)
    with monkeypatch.context() as patch:
        patch.setattr(dynamics, "flow_loss", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train()
    # 2. Goes on with the latents, and leaves what a pipeline reads
    with monkeypatch.context() as patch:
        patch.setattr(dynamics, "encode_both_ways", pytest.fail)
        train()
    made = {path.name for path in cosmos.iterdir()}
    assert made == {"vae", "transformer", "scheduler", "prompt_embeds.safetensors", "dynamics.json"}


def test_every_eighth_batch_is_shorter_and_some_clips_stand_still() -> None:
    latents, still = torch.zeros(6, 1, 4, 2, 2), torch.ones(3, 1, 4, 2, 2)
    drawn = [draw_batch(latents, still, 32, step, torch.Generator().manual_seed(step)) for step in range(32)]
    assert [length for _, length in drawn] == [*[*[4] * 7, 2], *[*[4] * 7, 3]] * 2
    assert all(batch.shape[2] == length for batch, length in drawn)
    assert all(batch[:2].eq(1).all() and batch[2:].eq(0).all() for batch, _ in drawn)
    one_ahead = draw_batch(latents[:, :, :2], still[:, :, :2], 4, 7, torch.Generator())
    assert one_ahead[1] == 2


@pytest.mark.parametrize(("step", "has_metric"), [(0, False), (6, False), (7, True), (9, True)])
def test_the_metric_joins_for_the_last_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, has_metric: bool
) -> None:
    generate(tmp_path / "train", "train", {"stack": 1}, workers=1)
    build_vae().save_pretrained(tmp_path / "cosmos" / "vae")
    metrics: list[Tensor | None] = []

    def fake_fit(_name: str, step_function: Any, *_: Any, **__: Any) -> None:
        step_function(step)
        raise InterruptedError

    def fake_loss(network: Any, batch: Tensor, generator: Any, metric: Tensor | None) -> Tensor:
        metrics.append(metric)
        return batch.sum()

    monkeypatch.setattr(dynamics, "fit", fake_fit)
    monkeypatch.setattr(dynamics, "flow_loss", fake_loss)
    cosmos = tmp_path / "cosmos"
    with pytest.raises(InterruptedError):
        train_dynamics(tmp_path, cosmos, cosmos, steps=10, batch_size=2, compiled=False)
    (metric,) = metrics
    assert (metric is not None) == has_metric
    # Of every future frame of the batch: step 7 is one of the shorter ones
    assert metric is None or len(metric) == (1 if step == 7 else 3)


@pytest.mark.parametrize(("mirrored", "count"), [(True, 4), (False, 2)])
def test_clips_are_mirrored_where_the_law_is_symmetric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrored: bool, count: int
) -> None:
    scenes = generate(tmp_path / "train", "train", {"stack": 2}, workers=1)
    (vae := build_vae().eval()).save_pretrained(tmp_path / "cosmos" / "vae")
    seen: list[Tensor] = []

    def draw(latents: Tensor, *_: Any) -> None:
        seen.append(latents)
        raise InterruptedError

    monkeypatch.setattr(dynamics, "draw_batch", draw)
    cosmos = tmp_path / "cosmos"
    with pytest.raises(InterruptedError):
        train_dynamics(tmp_path, cosmos, cosmos, steps=1, batch_size=2, compiled=False, mirrored=mirrored)
    assert len(seen[0]) == count
    assert torch.allclose(seen[0][:2], encode_clips(vae, scenes.frames), atol=1e-5)


def test_the_mirror_doubles_the_clips(tmp_path: Path):
    scenes = generate(tmp_path / "train", "train", {"stack": 2}, workers=1)
    vae = build_vae().eval()
    latents = encode_both_ways(vae, scenes.frames)
    assert torch.equal(latents[:2], encode_clips(vae, scenes.frames))
    assert torch.equal(latents[2:], encode_clips(vae, scenes.frames[:, :, :, ::-1]))
