"""Names shared by every layer: marker tokens, the ignored label, default base models."""

IGNORE_INDEX = -100

# Spare slots of Gemma's vocabulary: using them leaves the embedding table at its size.
START_OF_WORLD_TOKEN = "<unused0>"
END_OF_WORLD_TOKEN = "<unused1>"
WORLD_TOKEN = "<unused2>"

DEFAULT_GEMMA = "google/gemma-3-4b-it"
DEFAULT_COSMOS = "nvidia/Cosmos-Predict2-2B-Video2World"

# Name of the model that ships inside the package; resolves to the folders in `theworld/nano/weights`.
NANO = "nano"
