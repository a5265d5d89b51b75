"""The demo as a Space of the Hub: `theworld demo` with the model that the variable MODEL names (default: nano)."""

import os
import sys

from theworld.cli.main import main

if __name__ == "__main__":
    model = os.environ.get("MODEL", "nano")
    # A Space shows the page in a frame of huggingface.co
    sys.exit(main(["demo", "--model", model, "--host", "0.0.0.0", "--embed_in", "https://huggingface.co"]))
