"""Try a model in the browser: answers with and without the world, side by side."""

import argparse
import sys
import threading

from .loading import add_options, load_model

wait = threading.Event().wait  # until Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_options(parser, "model", "cosmos_model_name", "operating_point", "host")
    parser.add_argument("--port", type=int, default=7860, help="0 takes any free port (default: 7860)")
    embed = "origin whose pages may show this one in a frame, such as https://huggingface.co (default: none)"
    parser.add_argument("--embed_in", metavar="ORIGIN", help=embed)


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    from theworld.analysis.demo.answers import Scene
    from theworld.analysis.demo.page import build_page
    from theworld.analysis.demo.server import content_policy, private_uploads, serve
    from theworld.nano.examples import EXAMPLES, load_example
    from theworld.utils.listening import listen
    from theworld.utils.public_http import is_loopback

    policy = content_policy(args.embed_in)
    listen(args.host, args.port).close()  # before the model is loaded, to find a port in use early
    scenes = [Scene(name, **vars(load_example(name))) for name in EXAMPLES]
    model = load_model(args)
    with private_uploads():
        page = build_page(model, args.model, scenes)
        address = serve(page, args.host, args.port, policy)
        if not is_loopback(args.host):
            print(f"warning: {args.host} is open to other machines: anyone there can use the model", file=sys.stderr)
        print(f"{address}    (Ctrl-C ends it)", flush=True)
        try:
            wait()
        finally:
            page.close(verbose=False)
    return 0
