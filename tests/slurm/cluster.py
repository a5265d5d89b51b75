"""A SLURM of one node on this machine, in a folder of its own, that leaves nothing behind."""

import getpass
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MinJobAge=36000
NodeName=localhost CPUs=2
PartitionName=test Nodes=localhost Default=YES State=UP
"""
FINISHED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Cluster:
    """Runs SLURM's commands against the cluster whose slurm.conf lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str | Path, **environment: str) -> str:
        done = subprocess.run(
            list(map(str, command)), env=self.environment | environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: str | Path, **environment: str) -> str:
        return self.run("sbatch", "--parsable", *arguments, **environment).strip()

    def job(self, number: str) -> dict[str, str]:
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", number)))

    def wait_for_end(self, number: str, seconds: float) -> dict[str, str]:
        wait_until(lambda: self.job(number)["JobState"] in FINISHED, seconds, f"the end of job {number}")
        return self.job(number)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(1)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start munged, slurmctld and slurmd as the current user; end them and every job afterwards."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key, config = folder / "munge.key", folder / "slurm.conf"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    config.write_text(CONFIG.format(folder=folder, user=getpass.getuser(), ports=free_ports(2)), encoding="utf-8")
    cluster = Cluster(folder)
    places = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    with ExitStack() as stack:
        for name, *arguments in (
            ("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *places),
            ("slurmctld", "-D"),
            ("slurmd", "-D", "-N", "localhost"),
        ):
            stack.enter_context(daemon([name, *arguments], cluster))
            if name == "munged":
                wait_until((folder / "munge.socket").exists, 30, "munged")
        wait_until(lambda: "idle" in cluster.run("sinfo", "--noheader", "--format=%T"), 60, "an idle node")
        try:
            yield cluster
        finally:
            cluster.run("scancel", "--state=PENDING", "--user", getpass.getuser())
            cluster.run("scancel", "--user", getpass.getuser())
            wait_until(lambda: not cluster.run("squeue", "--noheader"), 60, "an empty queue")


@contextmanager
def daemon(command: list[str], cluster: Cluster) -> Iterator[None]:
    with (cluster.folder / f"{command[0]}.out").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
