"""Read thousands of damaged inputs: each must give a right result or one clear line, in time and in memory.

    python -m tests.fuzz.run [--n images=500] [--seed 1] [--only rows:17]

Cases run in processes of their own, so that a crash or a hang is seen and costs one case. A case depends on the seed,
its kind and its number alone: `--only` repeats it, with its traceback.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

from tests.fuzz.kinds import KINDS
from theworld.utils.errors import TheWorldError, is_users

ALLOWED = 2 * 2**30  # bytes above what a process held before the case
RIGHT, REFUSED = "right", "refused"
START = 120.0  # seconds until a process has written its whole inputs
LONGEST = 1500  # characters of a message: it may list what does not fit


def main() -> int:
    """Run the cases; 1 if any fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--n", action="append", default=[], metavar="KIND=N", help="cases of a kind, in place of its own"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:NUMBER", help="repeat one case in this process")
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"), help="folder of the inputs that failed")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.only:
        return repeat(*args.only.split(":"), seed=args.seed)
    counts = {name: kind.share for name, kind in KINDS.items()}
    counts |= {name: int(number) for name, _, number in (given.partition("=") for given in args.n)}
    failed = 0
    for name in KINDS:
        outcomes: Counter[str] = Counter()
        start, peak = time.monotonic(), 0
        # 1. Every process takes each n-th number
        with ThreadPoolExecutor(args.processes) as pool:
            numbers = [range(first, counts[name], args.processes) for first in range(args.processes)]
            for found, highest in pool.map(partial(run_cases, name, args.seed, args.output), numbers):
                outcomes += found
                peak = max(peak, highest)
        # 2. One line a kind
        failed += sum(outcomes.values()) - outcomes[RIGHT] - outcomes[REFUSED]
        told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
        seconds = time.monotonic() - start
        print(
            f"{name:<12} {counts[name]:>6} cases in {seconds:.0f} s, peak +{peak / 2**20:.0f} MiB: {told}", flush=True
        )
    print(f"{failed} failed; their inputs are in {args.output}" if failed else "none failed")
    return int(failed > 0)


def run_cases(name: str, seed: int, output: Path, numbers: range) -> tuple[Counter[str], int]:
    """The outcomes of some cases of a kind, and the highest peak of memory; a dead or stuck process is replaced."""
    outcomes: Counter[str] = Counter()
    highest, waiting = 0, list(reversed(numbers))
    while waiting:
        with (
            tempfile.TemporaryDirectory(prefix="theworld-fuzz-") as folder,
            reader(name, seed, Path(folder)) as (ask, process),
        ):
            while waiting:
                number = waiting.pop()
                ask.send(number)
                outcome, detail, peak = answer_of(ask, process, KINDS[name].seconds)
                outcomes[outcome] += 1
                highest = max(highest, peak)
                if outcome not in (RIGHT, REFUSED):
                    keep(Path(folder, "case"), output / f"{name}-{number}", f"{outcome}\n{detail}\n")
                if not process.is_alive() or outcome == "hang":
                    break
    return outcomes, highest


@contextmanager
def reader(name: str, seed: int, folder: Path) -> Iterator[tuple[Connection, Any]]:
    """A process that waits for numbers of cases."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(name, seed, folder, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(START) or ours.recv() != "ready":
            raise RuntimeError(f"{name}: no process that reads: run --only {name}:0")
        yield ours, process
    finally:
        process.kill()
        process.join()


def answer_of(ask: Connection, process: Any, seconds: float) -> tuple[str, str, int]:
    """What a process says of the case that it was sent."""
    try:
        if ask.poll(seconds):
            return ask.recv()
    except EOFError:
        process.join()
        return "crash", f"the process ended with {process.exitcode}", 0
    return "hang", f"not read after {seconds:g} s", 0


def keep(case: Path, folder: Path, outcome: str) -> None:
    """Copy a failed input, with what happened beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(case, folder)
    (folder / "outcome.txt").write_text(outcome, encoding="utf-8", errors="replace")


def work(name: str, seed: int, folder: Path, asked: Connection) -> None:
    """Answer numbers of cases with (outcome, detail, peak) until there are no more."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    kind = KINDS[name](folder)
    # Twice what is allowed ends a case that would take the machine's memory; the peak itself is measured
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 2 * ALLOWED,) * 2)
    asked.send("ready")
    while True:
        number = asked.recv()  # until then the parent may copy the case before
        case = fresh(folder / "case")
        kind.write(random.Random(f"{seed} {name} {number}"), case)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
        before = memory("VmRSS")
        outcome, detail = read(kind, case)
        peak = memory("VmHWM") - before
        asked.send(
            (outcome, detail, peak) if peak < ALLOWED else ("memory", f"{peak:,} bytes; {outcome}, {detail}", peak)
        )


def read(kind: Any, case: Path) -> tuple[str, str]:
    """The outcome of one case, and what there is to say of it.

    An error is clear if it is a `TheWorldError`, or one of a library that names the file.
    """
    try:
        kind.check(case)
    except AssertionError:
        return "wrong", traceback.format_exc()
    except Exception as error:  # noqa: BLE001 - whatever else comes is what is looked for
        if not is_users(error):
            return "traceback", traceback.format_exc()
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if not message or len(message.splitlines()) > 1 or len(message) > LONGEST:
            return "not one line", traceback.format_exc()
        clear = isinstance(error, TheWorldError) or str(case) in message
        return (REFUSED, message) if clear else ("unclear", traceback.format_exc())
    return RIGHT, ""


def repeat(name: str, number: str, seed: int) -> int:
    """Run one case here and print what happens."""
    with tempfile.TemporaryDirectory() as folder:
        kind = KINDS[name](Path(folder))
        case = fresh(Path(folder, "case"))
        kind.write(random.Random(f"{seed} {name} {number}"), case)
        outcome, detail = read(kind, case)
    print(json.dumps({"case": f"{name}:{number}", "seed": seed, "outcome": outcome}), detail, sep="\n")
    return int(outcome not in (RIGHT, REFUSED))


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def memory(name: str) -> int:
    """Bytes of this process, by the name that Linux has for them."""
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
