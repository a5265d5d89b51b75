"""Shared by commands: options, loading a model, and printing a result."""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from theworld.constants import NANO
from theworld.utils.errors import TheWorldError
from theworld.utils.operating_points import OPERATING_POINTS
from theworld.utils.settings import Key

if TYPE_CHECKING:
    from theworld.model import TheWorld

MODEL = "a TheWorld checkpoint, a run folder (its newest checkpoint), a Gemma 3, or nano (the default)"
OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"default": NANO, "help": MODEL},
    "cosmos_model_name": {"help": "folder or Hub id of the base world model (default: the checkpoint's)"},
    "num_world_steps": {"type": int, "help": "future latent frames to imagine (default: the checkpoint's)"},
    "operating_point": {"choices": list(OPERATING_POINTS), "help": "named world settings of a new fusion"},
    "no_world": {"action": "store_true", "help": "plain Gemma 3, without loading the world model"},
    "host": {"default": "127.0.0.1", "help": "address to listen on (default: 127.0.0.1, this machine only)"},
}


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add some of `OPTIONS`."""
    for name in names:
        parser.add_argument(f"--{name}", **OPTIONS[name])


def check_world_arguments(args: argparse.Namespace) -> None:
    """Refuse `--no_world` with an option of the world, before a model is loaded."""
    given = [
        name
        for name in ("num_world_steps", "use_world", "auto_world", "explain")
        if vars(args).get(name) not in (None, False)
    ] + ["num_futures"] * (vars(args).get("num_futures", 1) != 1)
    if args.no_world and given:
        raise TheWorldError(f"--no_world and --{given[0]} contradict each other: drop one")


def add_json(parser: Any, help: str = "print JSON") -> None:
    """Add `--json`, which `report` reads."""
    parser.add_argument("--json", action="store_true", help=help)


def report(args: argparse.Namespace, values: Any, *lines: str) -> int:
    """Print `values` with `--json`, otherwise the non-empty `lines`, on the first process only. Returns 0."""
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(values, ensure_ascii=False) if args.json else "\n".join(filter(None, lines)), flush=True)
    return 0


def add_key(group: Any, key: Key, *aliases: str, **settings: Any) -> None:
    """Add the option of a config key: the key parses its text, and it is absent if not given."""
    settings |= {"nargs": "?", "const": "true"} if key.kind is bool else {}
    default = "required" if key.unset == "required" else f"default: {key.shown_default}"
    help = f"{key.help} ({key.limits}; {default})".replace("%", "%%")
    settings |= {"dest": key.name, "metavar": "VALUE", "default": argparse.SUPPRESS, "help": help}
    group.add_argument(f"--{key.name}", *aliases, **settings)


def load_model(args: argparse.Namespace, **overrides: object) -> "TheWorld":
    """Load the model of `args` on the best device; `overrides` that are not None have priority."""
    from theworld.model import TheWorld
    from theworld.utils.devices import best_device

    device, dtype = best_device()
    overrides |= {"operating_point": args.operating_point, "cosmos_model_name": args.cosmos_model_name}
    overrides |= {"enable_world": not vars(args).get("no_world")}
    options: dict[str, object] = {"device_map": {"": device}, "dtype": dtype}
    options |= {name: value for name, value in overrides.items() if value is not None}
    return TheWorld.from_pretrained(args.model, **options)
