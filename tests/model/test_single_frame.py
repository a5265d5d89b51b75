"""One frame through the VAE's encoder as an image: the latents of diffusers' `encode`, on the same weights."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests import tiny
from tests.model.test_world_encoder import build
from theworld.model.world_encoders.single_frame import posterior_mode, runs_as_image

WAN22 = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
FRAMES = torch.rand(2, 3, 1, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def frozen(**settings: Any) -> AutoencoderKLWan:
    """A tiny VAE whose gammas and biases are not at their starting values."""
    torch.manual_seed(0)
    vae = tiny.tiny_vae() if not settings else AutoencoderKLWan(base_dim=8, num_res_blocks=1, z_dim=16, **settings)
    for parameter in vae.encoder.parameters():
        parameter.data += torch.randn_like(parameter) * 0.02
    return vae.eval().requires_grad_(False)


def stock(vae: AutoencoderKLWan) -> torch.Tensor:
    return vae.encode(FRAMES.to(vae.dtype)).latent_dist.mode()


def ours(vae: AutoencoderKLWan) -> torch.Tensor:
    return posterior_mode(vae, FRAMES.to(vae.dtype))


@pytest.mark.parametrize("settings", [{}, WAN22], ids=["2.1", "2.2"])
def test_latents_are_those_of_diffusers(settings: dict[str, Any]) -> None:
    vae = frozen(**settings)
    assert runs_as_image(vae)
    torch.testing.assert_close(ours(vae), stock(vae), rtol=0, atol=1e-5)
    half = vae.to(torch.bfloat16)
    torch.testing.assert_close(ours(half), stock(half), rtol=0, atol=0.1)
    assert ours(half).dtype == torch.bfloat16


def test_weights_are_read_anew_and_kept_nowhere() -> None:
    vae = frozen()
    keys, first = vae.state_dict().keys(), ours(vae)
    for change in (lambda weight: weight.add_(0.1), lambda weight: weight.data.add_(0.1)):  # `.data` counts no version
        change(vae.encoder.conv_in.weight)
        assert not torch.allclose(ours(vae), first)
        torch.testing.assert_close(ours(vae), stock(vae), rtol=0, atol=1e-5)
    for made in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        assert torch.equal(ours(made), ours(vae))
    assert vae.state_dict().keys() == keys


def hook(vae: AutoencoderKLWan) -> None:
    vae.encoder.conv_in.register_forward_hook(lambda *_: None)


def offload(vae: AutoencoderKLWan) -> None:
    vae.encoder.conv_in.forward = vae.encoder.conv_in.forward  # as accelerate replaces it


@pytest.mark.parametrize(
    "prevent",
    [hook, offload, AutoencoderKLWan.enable_tiling, lambda vae: vae.encoder.requires_grad_(True)],
    ids=["hook", "offload", "tiling", "trains"],
)
def test_diffusers_encodes_where_more_than_the_weights_counts(prevent: Callable[[AutoencoderKLWan], object]) -> None:
    encoder = build().requires_grad_(False)
    fast, cached = encoder.encode(FRAMES[:, :, 0]), encoder.fingerprint()
    prevent(encoder.vae)
    assert not runs_as_image(encoder.vae)
    assert encoder.fingerprint() != cached  # so that no cache mixes the two
    mean, std = (torch.tensor(encoder.vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    assert torch.equal(encoder.encode(FRAMES[:, :, 0]), (stock(encoder.vae) - mean) / std)
    torch.testing.assert_close(encoder.encode(FRAMES[:, :, 0]), fast, rtol=0, atol=1e-5)
