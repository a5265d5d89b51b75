"""Run the whole pipeline on two samples: train, save, push to a local Hub server, load from it, answer.

python -m scripts.smoke_test        # from the root of the repository, as `make smoke-test` does
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.hub_server import Hub

ROOT = Path(__file__).parents[1]
REPO = "tester/smoke-test"


def run(hub: Hub, home: Path, *arguments: str) -> None:
    """Run Python in a separate process that uses the local Hub server and an empty cache."""
    environment = {**os.environ, **hub.environment(home, hub.token)}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    began = time.monotonic()
    with Hub.running() as hub, tempfile.TemporaryDirectory() as folder:
        push = ["--output_dir", f"{folder}/run", "--push_to_hub", "--hub_model_id", REPO]
        train = ["-m", "theworld.cli.main", "train", "--config", "configs/smoke_test.json"]
        run(hub, Path(folder, "trainer"), *train, *push)
        run(hub, Path(folder, "reader"), "examples/load_from_hub.py", REPO)
    print(f"smoke test    passed in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
