"""Errors of libraries that read damaged files name what was read; errors for users pass."""

from typing import Any

import pytest
import torch
from huggingface_hub.errors import HTTPError

from theworld.utils.errors import ArgumentError, TheWorldError
from theworld.utils.hub import damage_named
from theworld.utils.settings import Key


@pytest.mark.parametrize(
    "error",
    [
        TypeError("a\nb"),
        KeyError("a"),
        ValueError("owner/model: a\nb"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a"),
        Exception("a"),
    ],
)
def test_named(error: Exception) -> None:
    with (
        pytest.raises(
            ValueError, match=rf"owner/model \(vae\): cannot be loaded \({type(error).__name__}: .*a.*\); "
        ) as caught,
        damage_named("owner/model", "vae"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


def test_an_error_of_the_system_keeps_its_type() -> None:
    with pytest.raises(OSError, match=r"^owner/model: disk$"), damage_named("owner/model"):
        raise OSError("disk")


@pytest.mark.parametrize(
    "error",
    [
        *(
            TheWorldError("rank=0: expected 1"),
            ArgumentError("not an argument"),
            ImportError("a"),
            MemoryError(),
            HTTPError("a"),
            torch.OutOfMemoryError("a"),
        ),
        FileNotFoundError("owner/model: no such folder"),
    ],
)
def test_passed(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, damage_named("owner/model"):
        raise error
    assert caught.value is error


def test_a_number_that_python_refuses_is_named() -> None:
    with pytest.raises(ValueError, match=r"a: cannot be loaded \(ValueError: invalid literal"), damage_named("a"):
        exec("int('x')", {"__name__": "theworld.model.reader"})


@pytest.mark.parametrize("value", ["x" * 10_000, ["x" * 100] * 100])
def test_a_long_value_is_cut(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^size=") as caught:
        Key("size", int, 1, "Its size.").check(value)
    assert len(str(caught.value)) < 300
