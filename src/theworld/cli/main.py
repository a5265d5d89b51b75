"""`theworld <command>`: dispatch, one line for an error that a user can correct, one line for a bug."""

import argparse
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn

from typing_extensions import override

from theworld import __version__
from theworld.utils.errors import brief, is_users, one_line, without_tokens
from theworld.utils.settings import nearest

from . import (
    align,
    ask,
    audit,
    chat,
    compare,
    demo,
    env,
    evaluate,
    imagine,
    judge,
    nano,
    plan,
    precompute,
    serve,
    train,
)
from .completion import SHELLS, PrintCompletion

# Each module has a docstring whose first line is the help, `add_arguments(parser)` and `run(args) -> exit code`. Slow
# imports belong inside `run`, so that `theworld --help` does not import torch
MODULES = (ask, chat, imagine, align, demo, serve, plan, train, precompute, nano, evaluate, compare, judge, audit, env)
COMMANDS: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in MODULES}
RENAMED = {"--steps": "--num_world_steps", "--cosmos": "--cosmos_model_name", "--seed": "--world_seed"}


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations that suggests the nearest option, and adds a command's options when it parses."""

    fill: Callable[[argparse.ArgumentParser], None] | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
        help = "show the traceback of an error"
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=help)

    def add_own(self) -> None:
        """Add the command's options, once."""
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)

    def all_actions(self) -> Iterator[argparse.Action]:
        """Arguments of this parser, and of the parsers of all its commands."""
        self.add_own()
        for action in self._actions:
            yield action
            if isinstance(action.choices, dict):
                for command in action.choices.values():
                    yield from command.all_actions()

    @override
    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        """As argparse's. Ends with exit code 2 for an option that does not exist."""
        self.add_own()
        known, unknown = super().parse_known_args(*given, **named)
        if unknown and not unknown[0].startswith("-"):
            self.error(f"unexpected {brief(repr(unknown[0]))}: put quotes around spaces and JSON lists")
        if unknown:
            name = unknown[0].partition("=")[0]
            shown = (action for action in self._actions if action.help != argparse.SUPPRESS)
            options = [option for action in shown for option in action.option_strings]
            if RENAMED.get(name) in options:
                self.error(f"{name} is now {RENAMED[name]}")
            self.error(f"unknown option {brief(name)}: {nearest(name, options, initials=True)}".removesuffix(": "))
        return known, unknown

    @override
    def error(self, message: str) -> NoReturn:
        """One line, without the usage, and exit code 2."""
        self.exit(2, f"theworld: error: {without_tokens(message)}; {self.prog} --help lists the options\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all `COMMANDS`; the options of a command are added when it parses."""
    parser = Parser(prog="theworld", description="Gemma 3 with a video world model.")
    parser.add_argument("--version", action="version", version=f"theworld {__version__}")
    help = "print a script that completes commands and options in a shell"
    parser.add_argument("--print_completion", choices=SHELLS, action=PrintCompletion, help=help)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.fill = module.add_arguments
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The command's exit code; 1 for a bug, 2 for an error of the user, 130 if interrupted.
    """
    args = build_parser().parse_args(arguments)
    # PIL warns of large images, which the package refuses anyway with an error of one line
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    try:
        code = args.run(args)
        leave_group()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has stopped reading
        sys.stderr.close()
        return 0
    except Exception as error:
        if "debug" in args:
            shown = without_tokens("".join(traceback.format_exception(error)))
            sys.excepthook = lambda *_: sys.stderr.write(shown)
            raise
        if is_users(error):
            print(f"theworld: error: {one_line(error)}", file=sys.stderr)
            return 2
        bug = f"theworld: bug: {type(error).__name__}: {one_line(error)}"
        cure = "please report it with the output of `theworld env --report` and of the same command with --debug"
        print(f"{bug}; {cure}", file=sys.stderr)
        return 1


def leave_group() -> None:
    """Leave the process group that a command joined, because its threads can abort a process that ends before them."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
