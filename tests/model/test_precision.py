"""float16, in which Gemma 3 overflows, is refused wherever it can be asked for."""

import pytest
import torch
from PIL import Image

from tests.model.conftest import Load
from tests.model.helpers import encode, user


@pytest.mark.parametrize("dtype", [torch.float16, "float16"], ids=str)
@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
def test_when_loading(load: Load, keyword: str, dtype: object) -> None:
    with pytest.raises(ValueError, match=r"float16: Gemma 3 overflows .* use bfloat16"):
        load(**{keyword: dtype})


@pytest.mark.parametrize("enable_world", [True, False])
def test_after_a_cast(load: Load, images: list[Image.Image], enable_world: bool) -> None:
    model = load(enable_world=enable_world)
    inputs = encode(model.processor, [user("Hi?", images[0])])
    model.half()
    with pytest.raises(ValueError, match="float16: Gemma 3 overflows"):
        model(**inputs)
    with pytest.raises(ValueError, match="float16: Gemma 3 overflows"):
        model.generate(**inputs, max_new_tokens=1)


def test_under_autocast(load: Load, images: list[Image.Image]) -> None:
    model = load()
    inputs = encode(model.processor, [user("Hi?", images[0])])
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="float16: Gemma 3 overflows"):
        model(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(**inputs).logits).all()
