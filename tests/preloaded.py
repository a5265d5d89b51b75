"""What the processes of `tests.processes` import, once for all of them; no garbage collection goes through it again."""

import gc
import importlib

gc.disable()
for name in ("theworld.training.run", "theworld.training.precompute", "theworld.evaluation.run"):
    importlib.import_module(name)
gc.freeze()
gc.enable()
