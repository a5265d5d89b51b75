from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from theworld.nano.fit import Draws, Ema, Group, Progress, fit, schedule
from theworld.utils.errors import TheWorldError


def quadratic(parameter: nn.Parameter):
    return lambda step: ((parameter - 3).square().sum(), {"samples": 4, "distance": (parameter - 3).abs().max().item()})


def test_fit_reaches_the_minimum_and_reports_it():
    parameter = nn.Parameter(torch.zeros(5))
    figures = fit("quadratic", quadratic(parameter), [Group([parameter], 0.1)], steps=300, warmup=10, weight_decay=0)
    assert torch.allclose(parameter, torch.full((5,), 3.0), atol=1e-2)
    assert figures["steps"] == 300
    assert len(figures["curve"]) == 3
    assert figures["loss"] < 1e-3
    assert figures["distance"] < 0.05
    assert figures["samples_per_second"] > 0


def test_a_delayed_group_rests_until_its_time():
    early, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    at_step_ten = []

    def step(index: int):
        if index == 10:
            at_step_ten.extend([early.item(), late.item()])
        return (early - 1).square().sum() + (late - 1).square().sum(), {}

    fit("delayed", step, [Group([early], 0.1), Group([late], 0.1, delay=10)], steps=20, warmup=1)
    assert at_step_ten[0] > 0.1
    assert at_step_ten[1] == 0
    assert late.item() > 0.1


def test_schedule_rises_then_falls_to_the_floor():
    factors = [schedule(step, 100, 10, 0.02) for step in range(-1, 101)]
    assert factors[0] == 0
    assert factors[1] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1, abs=0.03)
    assert factors[-1] == pytest.approx(0.02)


def test_ema_lies_between_the_start_and_the_source():
    source = nn.Linear(2, 2)
    ema = Ema(source, decay=0.9)
    start = ema.module.weight.clone()
    with torch.no_grad():
        source.weight.add_(1)
    ema.update(step=1000)
    assert torch.allclose(ema.module.weight, start + 0.1)
    assert not ema.module.weight.requires_grad
    assert not ema.module.training


def test_an_infinite_loss_stops_the_run():
    parameter = nn.Parameter(torch.ones(1))
    with pytest.raises(TheWorldError, match=r"broken: the loss is nan at step 5; run it .* with a lower learning rate"):
        fit("broken", lambda _: (parameter.sum() * float("nan"), {}), [Group([parameter], 0.1)], steps=5)


def test_weights_are_saved_at_the_end():
    parameter, saved = nn.Parameter(torch.zeros(1)), []
    fit("saved", quadratic(parameter), [Group([parameter], 0.1)], steps=3, save=lambda: saved.append(parameter.item()))
    assert saved == [parameter.item()]


class Interrupted(Exception):
    """Stands for the end of the process."""


def train_small(folder: Path, *, stop_at: int | None = None, steps: int = 12) -> tuple[torch.Tensor, dict[str, Any]]:
    """A small network with dropout, its average, and batches of a stage's own draws; interrupted before a step."""
    torch.manual_seed(0)
    network, draws = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), Draws(seed=0)
    ema = Ema(network, decay=0.9)

    def step_function(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step == stop_at:
            raise Interrupted
        batch = torch.randn(8, 4, generator=draws.torch) + float(draws.numpy.normal())
        return (network(batch).sum(1) - batch.sum(1)).square().mean(), {"samples": 8}

    progress, groups = Progress(folder / "small.progress", draws), [Group(network.parameters(), 0.05)]
    figures = fit(
        "small", step_function, groups, steps=steps, warmup=3, ema=ema, log_every=3, save_minutes=0, progress=progress
    )
    both = [*network.parameters(), *ema.module.parameters()]
    return torch.cat([parameter.detach().flatten() for parameter in both]), figures


@pytest.mark.parametrize("stop_at", [2, 3, 7, 11])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    undisturbed, figures = train_small(tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        train_small(tmp_path / "resumed", stop_at=stop_at)
    resumed, other = train_small(tmp_path / "resumed")
    assert torch.equal(undisturbed, resumed)
    assert [(row["step"], row["loss"]) for row in other["curve"]] == [
        (row["step"], row["loss"]) for row in figures["curve"]
    ]
    # A training that has finished is not done again, as long as its progress is there
    assert torch.equal(train_small(tmp_path / "resumed", stop_at=0)[0], undisturbed)


def test_progress_of_another_training_is_refused(tmp_path: Path) -> None:
    train_small(tmp_path)
    with pytest.raises(ValueError, match=r"progress of small: 12 steps, 49 parameters, not of small: 15 steps"):
        train_small(tmp_path, steps=15)


@pytest.mark.parametrize("content", [b"", b"no progress", b"PK\x03\x04 cut"])
def test_damaged_progress_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "small.progress"
    path.write_bytes(content)
    with pytest.raises(TheWorldError, match=r"small.progress: damaged progress; remove the file to start this stage"):
        Progress(path, Draws(0)).load("plan", [], {})
