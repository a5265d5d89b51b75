"""Lanes in parallel processes: a failure ends all of them, and none outlives the process that started it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.processes import CONTEXT
from theworld.recipes.lanes import Lane, run_lanes
from theworld.utils.errors import TheWorldError


def write(path: Path) -> None:
    path.write_text(str(os.getpid()), encoding="utf-8")


def sleep_then_write(path: Path) -> None:
    write(path.with_suffix(".pid"))
    time.sleep(60)
    write(path)


def fail_after(path: Path, error: type[Exception]) -> None:
    while not path.is_file():
        time.sleep(0.05)
    raise error("this stage cannot run")


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lane(path: Path) -> Lane:
    return [(path, partial(write, path))]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")


def slow_lane(folder: Path) -> Lane:
    return [(folder / "slow", partial(sleep_then_write, folder / "slow"))]


@pytest.fixture(autouse=True)
def imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of lanes have imported torch; the last test starts new ones."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: CONTEXT)


@pytest.mark.parametrize("workers", [1, 2])
def test_unfinished_stages_run(workers: int, tmp_path: Path) -> None:
    (tmp_path / "0").write_text("kept", encoding="utf-8")
    run_lanes([lane(tmp_path / str(number)) for number in range(4)], workers)
    told = [(tmp_path / str(number)).read_text(encoding="utf-8") for number in range(4)]
    assert told[0] == "kept"
    assert (str(os.getpid()) in told) == (workers == 1)


@pytest.mark.parametrize(("error", "raised"), [(TheWorldError, TheWorldError), (AttributeError, RuntimeError)])
def test_a_failed_lane_ends_the_others_before_the_error_is_raised(
    error: type[Exception], raised: type[Exception], tmp_path: Path
) -> None:
    began = time.monotonic()
    failing: Lane = [(tmp_path / "fails", partial(fail_after, tmp_path / "slow.pid", error))]
    with pytest.raises(raised, match="this stage cannot run"):
        run_lanes([slow_lane(tmp_path), failing, lane(tmp_path / "never")], 2)
    assert not lives(int((tmp_path / "slow.pid").read_text(encoding="utf-8")))
    assert not [*tmp_path.glob("slow"), *tmp_path.glob("never")]
    assert time.monotonic() - began < 50


def test_a_killed_process_is_no_bug(tmp_path: Path) -> None:
    with pytest.raises(TheWorldError, match=r"ended with code -9, .* run the same command again"):
        run_lanes([[(tmp_path / "killed", kill_itself)], slow_lane(tmp_path)], 2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_lanes_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.recipes.test_lanes import lane, slow_lane; "
        "from theworld.recipes.lanes import run_lanes\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "if __name__ == '__main__': run_lanes([slow_lane(folder)] * 2, 2)"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": root})
    pid = tmp_path / "slow.pid"
    for _ in range(600):
        if pid.is_file() and pid.read_text(encoding="utf-8"):
            break
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    child = int(pid.read_text(encoding="utf-8"))
    for _ in range(100):
        if not lives(child):
            break
        time.sleep(0.1)
    assert not lives(child)
