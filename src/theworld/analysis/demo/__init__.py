"""A page to try a model on: one question, answered with the world and without it, and what the world model imagined.

Importing this turns Gradio's telemetry off, before Gradio is imported.

Raises:
    ImportError: The extra `demo` is not installed.
"""

import os

from theworld.utils.imports import require

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
require("demo", "gradio")
require("demo", "matplotlib")
