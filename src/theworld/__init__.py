"""TheWorld: Gemma 3 with the latents of a video world model as tokens in its input."""

__version__ = "0.1.0"
