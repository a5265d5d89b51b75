"""Foreign questions and images: those that do not belong to the nano world. A model learns to say so.

Most texts and images are for training. `HELD_OUT_QUESTIONS` and `held_out=True` give others, which training never uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOREIGN_ANSWER = "I only know the simulated world: balls, ramps, pegs, bumpers, bins and blocks."
"""The answer to every foreign question, and to every question about a foreign image."""

_SUBJECTS = (
    "the president of France", "the capital of Italy", "the king", "your name", "the weather", "the time", "a poem",
    "the price of gold", "the highest mountain", "the moon", "love", "the meaning of life", "my mother", "a computer",
    "the largest ocean", "the news", "a good book", "the next train", "football", "a recipe for soup", "the dog",
    "the cat", "the car", "the woman", "the man", "the tree", "the house", "the river", "this person", "the sky",
)  # fmt: skip
_ABOUT_SUBJECTS = (
    "Who is {}?",
    "What is {}?",
    "Tell me about {}.",
    "Where is {}?",
    "How old is {}?",
    "Can you explain {}?",
    "What do you think of {}?",
    "Why is {} important?",
)
_OTHERS = (
    "Hello", "How are you?", "Thank you", "Who are you?", "What can you do?", "Who made you?", "What day is it?",
    "What is two plus two?", "How much is seven times eight?", "Write a story.", "Translate this into French.",
    "Is it raining?", "Do you like music?", "Where do you live?", "How do I cook rice?", "Sing a song.", "Help me.",
    "What should I wear today?", "Is the woman smiling?", "How many people are there?", "What is the man holding?",
    "Is there a dog in the picture?", "What colour is the car?", "Which animal is this?", "What is written here?",
)  # fmt: skip
FOREIGN_QUESTIONS: tuple[str, ...] = (
    *(form.format(subject) for form in _ABOUT_SUBJECTS for subject in _SUBJECTS),
    *_OTHERS,
)

HELD_OUT_QUESTIONS: tuple[str, ...] = (
    "Who was the first person on Mars?",
    "What is the population of Brazil?",
    "Can you recommend a restaurant?",
    "Who wrote Hamlet?",
    "How far is the sun?",
    "What language do people speak in Spain?",
    "Is the boy wearing a hat?",
    "How many horses are there?",
    "When did the war end?",
    "Please summarise the article.",
    "What is the boiling point of water?",
    "Are you a human?",
)
"""Foreign questions that training never uses."""


def foreign_image(seed: int, size: int = 32, *, held_out: bool = False) -> NDArray[np.uint8]:
    """Return a foreign image, uint8 (size, size, 3). With `held_out`, it is of a kind that training never uses."""
    rng = np.random.default_rng((seed, int(held_out)))
    makers = _HELD_OUT if held_out else _MAKERS
    image = makers[int(rng.integers(len(makers)))](rng, size)
    return np.clip(image, 0, 255).round().astype(np.uint8)


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(0, 255, 3)


def _gradient(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    along = np.clip(x * np.cos(angle) + y * np.sin(angle) + 0.5, 0, 1)[..., None]
    return _colour(rng) * along + _colour(rng) * (1 - along)


def _noise(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Return noise whose power falls with frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) + 1 / size
    spectrum = np.fft.fft2(rng.standard_normal((3, size, size))) / frequency ** rng.uniform(0, 2)
    waves = np.fft.ifft2(spectrum).real
    mixed = np.tensordot(rng.uniform(0.2, 1, (3, 3)), waves, 1)
    return np.moveaxis(rng.uniform(60, 200) + rng.uniform(20, 70) * mixed / mixed.std(), 0, -1)


def _patches(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Return overlapping rectangles, as in images of rooms and buildings."""
    image = np.tile(_colour(rng), (size, size, 1))
    for _ in range(int(rng.integers(3, 12))):
        (x0, x1), (y0, y1) = np.sort(rng.integers(0, size + 1, (2, 2)))
        image[y0:y1, x0:x1] = _colour(rng)
    return image


def _discs(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    image = _gradient(rng, size)
    y, x = np.mgrid[0:size, 0:size]
    for _ in range(int(rng.integers(2, 9))):
        cx, cy, radius = *rng.uniform(0, size, 2), rng.uniform(2.5, size / 3)
        image[np.hypot(x - cx, y - cy) < radius] = _colour(rng)
    return image


def _landscape(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Return a bright sky above a textured ground."""
    image, horizon = _gradient(rng, size) * 0.3 + 150, int(rng.integers(size // 4, 3 * size // 4))
    image[horizon:] = _noise(rng, size)[horizon:] * rng.uniform(0.4, 1, 3)
    return image


def _stripes(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 14)
    y, x = np.mgrid[0:size, 0:size]
    wave = (np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period) > 0)[..., None]
    return np.where(wave, _colour(rng), _colour(rng))


def _checks(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    side = int(rng.integers(2, 9))
    y, x = np.mgrid[0:size, 0:size] // side
    return np.where(((x + y) % 2 == 0)[..., None], _colour(rng), _colour(rng)) + rng.normal(0, 8, (size, size, 3))


def _rings(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    cx, cy = rng.uniform(0, size, 2)
    y, x = np.mgrid[0:size, 0:size]
    wave = np.cos(np.hypot(x - cx, y - cy) * rng.uniform(0.3, 1.5))[..., None] / 2 + 0.5
    return _colour(rng) * wave + _colour(rng) * (1 - wave)


_MAKERS: tuple[Callable[[np.random.Generator, int], NDArray[np.float64]], ...] = (
    _gradient,
    _noise,
    _noise,
    _patches,
    _discs,
    _landscape,
    _landscape,
    _stripes,
)
_HELD_OUT: tuple[Callable[[np.random.Generator, int], NDArray[np.float64]], ...] = (_checks, _rings)
