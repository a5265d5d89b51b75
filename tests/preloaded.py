"""Imported once by the server of `tests.processes`, and excluded from garbage collection."""

import gc
import importlib

import torch

gc.disable()
for name in ("theworld.training.run", "theworld.training.precompute", "theworld.evaluation.run"):
    importlib.import_module(name)
gc.freeze()
gc.enable()
torch.set_num_threads(1)
