"""Talk with a model in the terminal, about images."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from theworld.utils.errors import TheWorldError, one_line

from .loading import add_options, check_world_arguments, load_model

if TYPE_CHECKING:
    from theworld.analysis.conversation import Conversation

HELP = """\
/image PATH     show an image (path or URL) with your next question
/world on|off   turn the world on or off; off is plain Gemma 3
/steps K        imagine K future latent frames; 0: the current frame only
/clear          forget the conversation
/help           this list
/quit           end, as Ctrl-D does
Anything else is a question."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--image", help="path or URL of an image for the first question")
    add_options(parser, "model", "cosmos_model_name", "operating_point", "num_world_steps", "no_world")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="longest answer, in tokens")


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends."""
    from theworld.analysis.conversation import Conversation

    check_world_arguments(args)
    conversation = Conversation(load_model(args))
    if args.num_world_steps is not None:
        conversation.set_steps(args.num_world_steps)
    if args.image:
        conversation.add_image(args.image)
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"{args.model}, {_state(conversation)}. Ask something; /help lists the commands, Ctrl-D ends.")
    talk(conversation, _typed() if interactive else sys.stdin, args.max_new_tokens)
    return 0


def talk(conversation: "Conversation", lines: Iterable[str], max_new_tokens: int) -> None:
    """Answer questions and run commands in `lines` until the end or `/quit`; an error is one line on stderr."""
    import torch

    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if not text:
            continue
        try:
            if text.startswith("/"):
                print(obey(conversation, text), flush=True)
            else:
                conversation.ask(text, lambda part: print(part, end="", flush=True), max_new_tokens)
                print(flush=True)
        except BrokenPipeError:  # the reader of stdout has gone
            raise
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)


def obey(conversation: "Conversation", text: str) -> str:
    """Run the command `text`, which begins with a slash; returns the reply."""
    name, argument = [*text.split(maxsplit=1), ""][:2]
    match name:
        case "/image":
            source = argument.strip("'\"")
            if not source:
                raise TheWorldError("/image: expected a path or URL, as in /image photo.jpg")
            image = conversation.add_image(Path(source).expanduser() if source.startswith("~") else source)
            others = f", one of {len(conversation.images)} images" if len(conversation.images) > 1 else ""
            return f"{source}, {image.width} x {image.height} px{others}"
        case "/world":
            if argument not in ("on", "off", ""):
                raise TheWorldError(f"{text}: expected /world on or /world off")
            if argument:
                conversation.set_world(argument == "on")
            return _state(conversation)
        case "/steps":
            if argument and not argument.isdecimal():
                raise TheWorldError(f"{text}: expected a whole number of future latent frames, as in /steps 1")
            if argument:
                conversation.set_steps(int(argument))
            return _state(conversation)
        case "/clear":
            conversation.clear()
            return "forgotten"
        case "/help":
            return HELP
        case _:
            raise TheWorldError(f"{name}: no such command; /help lists them")


def _state(conversation: "Conversation") -> str:
    return f"world on, steps {conversation.num_world_steps}" if conversation.use_world else "world off"


def _typed() -> Iterator[str]:
    """Lines typed at a prompt, until Ctrl-D."""
    with suppress(ImportError):  # adds line editing and a history to `input`
        import_module("readline")
    with suppress(EOFError):
        while True:
            yield input("> ")
    print()
