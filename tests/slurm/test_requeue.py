"""The job scripts, on a real SLURM: cut by its time limit, a job goes on by itself and ends as if nothing had been."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import Cluster, running, wait_until
from tests.training.runs import history, tiny_run

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
STEPS = 100
LONG = 3600  # seconds: whatever a slow machine needs


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    before = daemons()
    with running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
    wait_until(lambda: daemons() <= before, 60, "the end of SLURM's own processes")


def daemons() -> set[int]:
    names = ("munged", "slurmctld", "slurmd", "slurmstepd", "srun")
    return {process.pid for process in psutil.process_iter() if process.name() in names}


def submit(cluster: Cluster, script: str, config: Path, output_dir: Path, log: Path) -> str:
    """The script as it is, on a node that has two CPUs and no GPU."""
    return cluster.submit(
        *("--nodes=1", "--gpus-per-node=0", "--cpus-per-task=1", "--time=60", f"--output={log}", f"--chdir={ROOT}"),
        *(ROOT / "configs" / "slurm" / script, "--config", config, "--output_dir", output_dir),
        ACCELERATE_CONFIG="tests/slurm/cpu.yaml",
        PYTHON=sys.executable,
        PYTHONPATH=f"{ROOT}/tests/slurm/slow",
        OMP_NUM_THREADS="1",
    )


def steps_logged(log: Path) -> list[int]:
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return [int(step) for step in re.findall(rf"step (\d+)/{STEPS} loss ", text)]


def test_a_job_that_its_time_limit_cuts_goes_on_and_ends_with_the_undisturbed_losses(
    cluster: Cluster, tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    sizes = {"max_steps": STEPS, "batch_size": 1, "gradient_accumulation_steps": 1, "save_steps": 1000}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny_run(tmp_path, gemma_folder, cosmos_folder, **sizes).to_dict()), encoding="utf-8")
    cut, undisturbed = tmp_path / "cut", tmp_path / "undisturbed"
    log = tmp_path / "cut.log"
    number = submit(cluster, "single_node.sh", config, cut, log)
    other = submit(cluster, "multi_node.sh", config, undisturbed, tmp_path / "undisturbed.log")

    wait_until(lambda: len(steps_logged(log)) >= 3, LONG, f"the third step: {log}")
    hours, minutes, _ = map(int, cluster.job(number)["RunTime"].split(":"))
    soon = 60 * hours + minutes + 4  # minutes after its start; the signal comes 10 before that, so now
    cluster.run("scontrol", "update", f"JobId={number}", f"TimeLimit={soon}")
    ends = [cluster.wait_for_end(one, LONG) for one in (number, other)]

    text = log.read_text(encoding="utf-8")
    assert [(end["JobState"], end["Restarts"]) for end in ends] == [("COMPLETED", "1"), ("COMPLETED", "0")], text
    (stopped,) = re.findall(r"signal to stop received: saving a checkpoint at step (\d+)", text)
    assert 3 <= int(stopped) < STEPS
    assert f"the run continues after step {stopped}" in text
    assert steps_logged(log) == list(range(1, STEPS + 1))  # none lost, none twice
    last = f"checkpoint-{STEPS}"
    assert history(cut / last) == history(undisturbed / last)


@pytest.mark.parametrize("script", ["single_node.sh", "multi_node.sh"])
def test_a_run_that_fails_is_not_requeued(cluster: Cluster, tmp_path: Path, script: str) -> None:
    log = tmp_path / "log"
    number = submit(cluster, script, tmp_path / "missing.json", tmp_path / "run", log)
    end = cluster.wait_for_end(number, LONG)
    assert (end["JobState"], end["Restarts"]) == ("FAILED", "0")
    assert "missing.json: no such config file" in log.read_text(encoding="utf-8")
