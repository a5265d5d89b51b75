"""A model is called back after the steps of its own parameters, whoever takes them."""

import gc
import weakref

import torch
from torch import nn

from theworld.utils.optimizer_steps import after_steps


def test_names_of_the_parameters_that_had_a_gradient() -> None:
    model, other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)
    called = list[tuple[nn.Module, list[str]]]()
    after_steps(model, lambda *given: called.append(given))
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not called
    model[1](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert called == [(model, ["1.weight", "1.bias"])]


def test_a_gradient_of_zeros_is_no_step() -> None:
    """So it is with modules that ran for the sake of other ranks; what is not finite is a step."""
    model, called = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), list[list[str]]()
    after_steps(model, lambda model, names: called.append(names))
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer = torch.optim.SGD(model[:2].parameters(), lr=0.1)
    optimizer.step()
    assert not called
    optimizer.add_param_group({"params": model[2].parameters()})
    model[0].bias.grad = torch.tensor([0.0, 1e-30])
    model[1].bias.grad = torch.tensor([0.0, torch.nan])
    optimizer.step()
    assert called == [["0.bias", "1.bias"]]


def test_a_model_is_not_kept_alive() -> None:
    model = nn.Linear(2, 2)
    after_steps(model, lambda model, names: None)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
