"""`theworld --print_completion SHELL`: a script with which a shell completes commands, options and files."""

import argparse
from typing import Any

from typing_extensions import override

SHELLS = ("bash", "zsh", "fish")


class PrintCompletion(argparse.Action):
    """Print the script for a shell, and exit. It takes seconds: some commands import torch to add their options."""

    @override
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Arguments without choices complete as file names."""
        import shtab

        for action in parser.all_actions():
            if action.choices is None and action.nargs != 0:
                action.complete = shtab.FILE
        print(shtab.complete(parser, values))
        parser.exit()
