"""Names shared by every layer: marker tokens, token ids of Gemma 3, the ignored label, default base models."""

IGNORE_INDEX = -100

# Ids in the tokenizer of the released Gemma 3 models; other tokenizers have their own, which models read from them
PAD_TOKEN_ID, EOS_TOKEN_ID, BOS_TOKEN_ID = 0, 1, 2
IMAGE_SOFT_TOKEN_ID = 262_144
CUSTOM_TOKEN_SLOT_SOW, CUSTOM_TOKEN_SLOT_EOW = 6, 7

# Spare slots of Gemma's vocabulary: using them leaves the embedding table at its size
CUSTOM_TOKEN_SOW = "<unused0>"  # start of world
CUSTOM_TOKEN_EOW = "<unused1>"  # end of world
WORLD_TOKEN = "<unused2>"
MARKERS = (CUSTOM_TOKEN_SOW, CUSTOM_TOKEN_EOW, WORLD_TOKEN)

# Around a turn of a conversation, and the line that opens the model's
START_OF_TURN, END_OF_TURN, MODEL_HEADER = "<start_of_turn>", "<end_of_turn>", "model\n"

DEFAULT_GEMMA_MODEL = "google/gemma-3-4b-it"
DEFAULT_COSMOS_MODEL = "nvidia/Cosmos-Predict2-2B-Video2World"

# The module in a checkpoint that lets transformers' Auto classes load it with `trust_remote_code=True`
AUTO_MODULE = "theworld_auto"

# Name of the model that ships inside the package; resolves to the folders in `theworld/nano/weights`.
NANO = "nano"

# float16 is refused when a model is loaded, when it runs, and when a run is configured
FP16_REFUSED = (
    "float16: Gemma 3 overflows in it and gives logits that are not finite, with the world off as well; use bfloat16 "
    "(mixed_precision=bf16 in training) or float32"
)
