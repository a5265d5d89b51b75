"""Serve a model over HTTP with OpenAI's API."""

import argparse
import sys

from theworld.utils.imports import require

from .loading import add_options, load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_options(parser, "model", "cosmos_model_name", "operating_point", "num_world_steps", "host")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port (default: 8000)")
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: an accelerator if there is one)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16, on a CPU float32")
    parser.add_argument("--attn_implementation", help="sdpa, eager, flash_attention_2, ... (default: transformers')")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    for module in ("fastapi", "openai", "pydantic", "uvicorn"):  # needed by transformers' handlers
        require("serve", module)
    from theworld.serving.server import serve
    from theworld.utils.devices import check_device
    from theworld.utils.listening import listen
    from theworld.utils.public_http import is_loopback

    named = ("dtype", "attn_implementation", "num_world_steps")
    device = {"": args.device} if args.device else None
    if args.device:
        check_device(args.device)
    with listen(args.host, args.port) as listening:  # before the model is loaded, to find a port in use early
        model = load_model(args, device_map=device, **{name: getattr(args, name) for name in named})
        if not is_loopback(args.host):
            print(f"warning: {args.host} is open to other machines: anyone there can use the model", file=sys.stderr)
        host = f"[{args.host}]" if ":" in args.host else args.host
        address = f"http://{host}:{listening.getsockname()[1]}/v1"
        print(f"{args.model} at {address}    (Ctrl-C ends it)", flush=True)
        serve(model, args.model, listening)
    return 0
