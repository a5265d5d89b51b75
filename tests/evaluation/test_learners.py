"""Static learners: what can be learned from labelled images is learned, and settings are chosen on other images."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from theworld.evaluation import learners
from theworld.evaluation.learners import LEARNERS, Labelled, best_learner, build_cnn, build_mlp, networks

QUICK = (
    ("kernel ridge", "pixels", learners.kernel_ridge),
    ("CNN", "pixels", partial(networks, build_cnn, (60,), (0.01,))),
    ("MLP", "current latent", partial(networks, build_mlp, (60,), (0.05,))),
)


def place_of_a_dot(count: int, seed: int) -> Labelled:
    """A bright column of an 8 x 8 image says which of three thirds is right; the latents say nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    pixels = 0.1 * torch.rand(count, 3, 8, 8, generator=generator)
    for place, label in enumerate(labels.tolist()):
        pixels[place, :, :, 1 + 2 * label] += 0.8
    return Labelled({"pixels": pixels, "current latent": torch.randn(count, 2, 2, 2, generator=generator)}, labels)


def test_what_can_be_learned_is_learned_and_what_knows_nothing_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "LEARNERS", QUICK)
    test = place_of_a_dot(90, 2)
    predict, rows = best_learner("thirds", place_of_a_dot(120, 0), place_of_a_dot(60, 1))
    assert (predict(test.features) == test.labels).float().mean() > 0.95
    assert [row["learner"] for row in rows] == ["kernel ridge", "CNN", "MLP"]
    accuracies = [row["validation_accuracy"] for row in rows]
    assert accuracies[0] > 0.95
    assert accuracies[1] > 0.9
    assert accuracies[2] < 0.6
    assert [row["chosen"] for row in rows] == [place == accuracies.index(max(accuracies)) for place in range(3)]
    assert {row["family"] for row in rows} == {"thirds"}
    assert {row["labels"] for row in rows} == {120}


def test_settings_are_chosen_on_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(features: Tensor, labels: Tensor, seed: int):
        for answer in (0, 1, 2):
            yield f"always {answer}", lambda asked, answer=answer: torch.full((len(asked),), answer)

    monkeypatch.setattr(learners, "LEARNERS", (("constant", "pixels", fit),))
    train = Labelled({"pixels": torch.zeros(4, 3, 8, 8)}, torch.tensor([0, 0, 0, 1]))
    held_out = Labelled({"pixels": torch.zeros(3, 3, 8, 8)}, torch.tensor([1, 1, 0]))
    predict, (row,) = best_learner("made", train, held_out)
    assert row["setting"] == "always 1"
    assert row["validation_accuracy"] == pytest.approx(2 / 3)
    assert predict({"pixels": torch.zeros(2, 3, 8, 8)}).tolist() == [1, 1]


def test_the_same_seed_gives_the_same_network() -> None:
    data = place_of_a_dot(40, 0)
    train = partial(learners.train_network, build_mlp, data.features["pixels"], data.labels, steps=5, weight_decay=0.1)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = train(seed=0), train(seed=0), train(seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [
        torch.cat([value.flatten() for value in network.state_dict().values()]) for network in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_pixels_and_latents_are_both_learned_from() -> None:
    assert {features for _, features, _ in LEARNERS} == {"pixels", "brightness", "current latent"}
    assert {name for name, _, _ in LEARNERS} == {"kernel ridge", "CNN", "MLP"}
