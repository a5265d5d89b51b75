"""Operating points: named world settings, and the sizes and clips that Cosmos-Predict2 was trained on."""

from __future__ import annotations

from typing import Any

from .errors import TheWorldError, brief

PROMPT = "A realistic video that continues from its first image. Objects keep their shape and move as physics says."

_NATIVE: dict[str, Any] = {
    "world_image_size": 480,
    "world_image_fit": "crop",
    "world_pooling": 4,  # 60 x 60 latent positions -> 15 x 15 world tokens per frame
    "num_world_steps": 4,
    "world_prompt": None,
    "world_guidance_scale": 1.0,
    "world_inference_steps": 35,
}

OPERATING_POINTS: dict[str, dict[str, Any]] = {
    "fast": {"world_image_size": 224, "world_image_fit": "crop", "world_pooling": 1, "num_world_steps": 0},
    "native": _NATIVE,
    # 54 x 96 latent positions -> 9 x 16 world tokens. 480 x 832 has 60 x 104, whose common divisors are 1, 2 and 4: its
    # smallest frame has 390 tokens
    "native_wide": {**_NATIVE, "world_image_size": [432, 768], "world_pooling": 6},
    "full": {**_NATIVE, "world_prompt": PROMPT, "world_guidance_scale": 7.0},
}
"""Fields of `TheWorldConfig` by operating point. Images of another aspect ratio are cropped, never squashed."""

TRAINED_SIZES = ((480, 480), (480, 640), (432, 768), (960, 960), (704, 1280))
"""Short and long side in pixels of the videos that Cosmos-Predict2 was trained on."""
TRAINED_CLIPS = {16: 24, 10: 16}
"""Frames per second -> latent frames of a clip that it was trained on."""


def operating_point(name: Any) -> dict[str, Any]:
    """The config fields that an operating point sets; none for `None`. A ValueError lists the names."""
    if name is None:
        return {}
    if not isinstance(name, str) or name not in OPERATING_POINTS:
        raise TheWorldError(f"operating_point={brief(repr(name))}: expected one of {', '.join(OPERATING_POINTS)}")
    return dict(OPERATING_POINTS[name])


def outside_training(height: int, width: int, latent_frames: int, fps: float) -> str:
    """One line on the properties of a rollout that Cosmos-Predict2 was not trained on; empty if there are none."""
    found: list[str] = []
    if (min(height, width), max(height, width)) not in TRAINED_SIZES:
        sizes = ", ".join(f"{short} x {long}" for short, long in TRAINED_SIZES)
        found.append(f"{height} x {width} pixels (trained: {sizes})")
    if TRAINED_CLIPS.get(round(fps)) != latent_frames:
        clips = ", ".join(f"{frames} at {rate} fps" for rate, frames in TRAINED_CLIPS.items())
        found.append(f"{latent_frames} latent frames at {fps:g} fps (trained: {clips})")
    return "; ".join(found)


__all__ = ["OPERATING_POINTS", "TRAINED_CLIPS", "TRAINED_SIZES", "operating_point", "outside_training"]
