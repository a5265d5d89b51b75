"""The options by which every command that answers names its model, and the loading of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from theworld.constants import NANO

if TYPE_CHECKING:
    from theworld.model import TheWorld


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and `--cosmos`."""
    parser.add_argument("--model", default=NANO, help="folder or Hub id of a TheWorld checkpoint or a Gemma 3")
    parser.add_argument("--cosmos", help="folder or Hub id of the base world model, in place of the checkpoint's own")


def load_model(args: argparse.Namespace, *, enable_world: bool = True, **overrides: object) -> TheWorld:
    """The model that `args` name, on the best device of this machine.

    Args:
        overrides: arguments of `TheWorld.from_pretrained` that a command adds or chooses otherwise.
    """
    from theworld.model import TheWorld
    from theworld.utils.devices import best_device

    device, dtype = best_device()
    options: dict[str, object] = {"cosmos_model_name": args.cosmos} if args.cosmos else {}
    options |= {"device_map": {"": device}, "dtype": dtype, "enable_world": enable_world}
    return TheWorld.from_pretrained(args.model, **options | overrides)
