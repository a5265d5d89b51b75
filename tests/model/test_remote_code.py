"""A checkpoint loads by `trust_remote_code=True` in a process that never imports theworld, and stays one that does."""

import json
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from theworld import TheWorld
from theworld.constants import NANO

AUTO_CLASSES = "AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer"
IMPORTS = f"""
import json, os, shutil, sys
from pathlib import Path
from PIL import Image
from transformers import {AUTO_CLASSES}

first, second = map(Path, sys.argv[1:])
assert "theworld" not in sys.modules
"""
LOAD = """
trusted = dict(trust_remote_code=True, local_files_only=True)
config = AutoConfig.from_pretrained(first, **trusted)
processor = AutoProcessor.from_pretrained(first, **trusted)
model = AutoModelForImageTextToText.from_pretrained(first, **trusted)
assert type(AutoModelForMultimodalLM.from_pretrained(first, **trusted)) is type(model)
assert AutoTokenizer.from_pretrained(first, **trusted).get_vocab() == processor.tokenizer.get_vocab()

from theworld import TheWorld, TheWorldConfig, TheWorldProcessor
assert [type(config), type(processor), type(model)] == [TheWorldConfig, TheWorldProcessor, TheWorld]
content = [dict(type="image", image=Image.new("RGB", (32, 32), "red")), dict(type="text", text="Hi?")]
inputs = processor.apply_chat_template(
    [dict(role="user", content=content)],
    tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
)
assert model(**inputs).num_world_tokens > 0

model.save_pretrained(second)  # transformers would copy the files of classes that it loaded as remote code
names = {path.name for path in second.iterdir()}
assert names == {path.name for path in first.iterdir()}, names
for name in ("config.json", "processor_config.json"):
    maps = [json.loads((folder / name).read_text())["auto_map"] for folder in (first, second)]
    assert maps[0] == maps[1], maps
processor.save_pretrained(second)
assert {path.name for path in second.iterdir()} == names
"""
PROCESSOR_FIRST = """
try:
    AutoProcessor.from_pretrained(first, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    raise AssertionError("something else was loaded in its place")
processor = AutoProcessor.from_pretrained(first, trust_remote_code=True)
assert type(processor).__name__ == "TheWorldProcessor", type(processor)
processor.save_pretrained(second)
assert not list(second.glob("*.py"))
# theworld is imported by now: its classes need no trust
assert type(AutoProcessor.from_pretrained(first, trust_remote_code=False)) is type(processor)
"""
# Two processes, of which the first forks from the second: transformers is imported once
BOTH = f"""{IMPORTS}
if os.fork() == 0:
{indent(PROCESSOR_FIRST, "    ")}
    sys.exit()
assert os.wait()[1] == 0, "processor first"
shutil.rmtree(second)
shutil.rmtree(os.environ["HF_HOME"])
assert "theworld" not in sys.modules
{LOAD}"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    TheWorld.from_pretrained(NANO).save_pretrained(folder)
    return folder


def test_loads_without_an_import(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # where transformers copies the module of a checkpoint
    command = [sys.executable, "-c", BOTH, str(saved), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr


def test_the_module_only_imports_the_package(saved: Path) -> None:
    maps = [
        json.loads((saved / name).read_text(encoding="utf-8"))["auto_map"]
        for name in ("config.json", "processor_config.json")
    ]
    classes = {key: value for auto_map in maps for key, value in auto_map.items()}
    assert classes.keys() >= {"AutoConfig", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoProcessor"}
    (module,) = {value.partition(".")[0] for value in classes.values()}
    code = [
        line
        for line in (saved / f"{module}.py").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert len(code) == 1
    assert code[0].startswith("from theworld import ")


def test_base_models_stay_stock(saved: Path, tmp_path: Path) -> None:
    TheWorld.from_pretrained(saved).save_pretrained(tmp_path, full=True)
    for name in ("config.json", "processor_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "gemma" / name).read_text(encoding="utf-8"))
    assert not list((tmp_path / "gemma").glob("*.py"))
