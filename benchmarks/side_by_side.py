"""Timing for benchmarks: both sides in one process, in turn, medians; memory as the system counts it."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's queue included."""
    started = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], device: torch.device, pairs: int
) -> dict[str, float]:
    """Median milliseconds of both and the median of the paired ratios; the order alternates."""
    for run in (ours, theirs):
        run()
    return paired(lambda: seconds(ours, device), lambda: seconds(theirs, device), pairs)


def paired(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> dict[str, float]:
    """As `compare`, of what measures its own seconds, without a first call to warm up."""
    times = []
    for index in range(pairs):
        if index % 2:
            second = theirs()
            times.append((ours(), second))
        else:
            times.append((ours(), theirs()))
    return {
        "ours_ms": 1000 * statistics.median(ours for ours, _ in times),
        "stock_ms": 1000 * statistics.median(theirs for _, theirs in times),
        "ratio": statistics.median(ours / theirs for ours, theirs in times),
    }


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """How far one call raises the process's memory: the allocator's peak on a GPU, the kernel's on a CPU (Linux)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets the peak back to what is resident now
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024
