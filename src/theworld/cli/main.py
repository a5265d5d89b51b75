"""`theworld <command>`: dispatch, and one clear line for what a user can put right."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

from theworld import __version__
from theworld.utils.errors import one_line

from . import align, ask, audit, chat, compare, demo, env, evaluate, imagine, judge, nano, precompute, serve, train

# Each module has a docstring whose first line is the help, `add_arguments(parser)` and `run(args) -> exit code`.
# What is slow to import belongs inside `run`: `theworld --help` answers without torch.
COMMANDS: dict[str, ModuleType] = {
    "ask": ask,
    "chat": chat,
    "imagine": imagine,
    "align": align,
    "demo": demo,
    "serve": serve,
    "train": train,
    "precompute": precompute,
    "nano": nano,
    "evaluate": evaluate,
    "compare": compare,
    "judge": judge,
    "audit": audit,
    "env": env,
}

OLD_FLAGS = {"--steps": "--num_world_steps", "--no-world": "--no_world", "--max-new-tokens": "--max_new_tokens"}
USER_ERRORS = (ValueError, KeyError, ImportError, OSError)  # FileNotFoundError is an OSError


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command in `COMMANDS`, with the options they share."""
    parser = argparse.ArgumentParser(prog="theworld", description="Gemma 3 that sees what happens next.")
    parser.add_argument("--version", action="version", version=f"theworld {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The command's exit code; 2 for a mistake in what it was given, 130 when interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    for old in OLD_FLAGS.keys() & set(given):
        parser.error(f"{old} is now {OLD_FLAGS[old]}")
    args = parser.parse_args(given)
    # PIL warns of images that the package refuses anyway: an error stays one line
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        sys.stderr.close()
        return 0
    except USER_ERRORS as error:
        if args.debug:
            raise
        print(f"theworld: error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
