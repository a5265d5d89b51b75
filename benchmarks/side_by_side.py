"""Timing for benchmarks: both sides run alternately in one process; results are medians."""

import itertools
import os
import statistics
import time
from collections.abc import Callable

import torch


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call in seconds, until the device has finished."""
    started = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def own_seconds(run: Callable[[], object], device: torch.device) -> float:
    """As `seconds`, but CPU time on one core, which other programs do not affect."""
    if device.type != "cpu" or torch.get_num_threads() > 1:
        return seconds(run, device)
    started = time.process_time()
    run()
    return time.process_time() - started


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], device: torch.device, pairs: int
) -> dict[str, float]:
    """Median milliseconds of both sides and the median of paired ratios. The order alternates."""
    for run in (ours, theirs):
        run()
    return paired(lambda: seconds(ours, device), lambda: seconds(theirs, device), pairs)


def paired(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> dict[str, float]:
    """As `compare`, for functions that return their seconds, and without a warm-up call."""
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
    """Peak memory in bytes of the tensors of one call, by torch's allocator, on a GPU or the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it logs start and stop
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    recorded = profile.profiler.kineto_results.events()  # public events have only the net change of an operation
    changes = sorted((event.start_ns(), event.nbytes()) for event in recorded if event.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))
