"""The kinds of input: each makes damaged ones in a folder, and reads them as the package's users do.

What is read must be right, or be refused by an error of the package; `check` raises AssertionError for what is not.
"""

import csv
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from tests import tiny
from tests.fuzz.mutate import changed, damaged, png_with_checksums
from theworld import TheWorld, TrainingConfig
from theworld.data.images import open_image as open_data_image
from theworld.data.latent_cache import LatentCache
from theworld.data.open_source import open_source
from theworld.data.schema import BadSample, Example, Skipped, SourceSettings
from theworld.evaluation.store.predictions import Prediction, PredictionFile, read_predictions
from theworld.utils.image_decoding import MAX_PIXELS
from theworld.utils.images import open_image


class Kind:
    """One kind of input; `prepare` writes whole ones into `self.folder` once in a process."""

    share: int  # of 10,000 cases
    seconds = 20.0  # for one case

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, draw: random.Random, case: Path) -> None:
        """Write a damaged input into the empty folder `case`."""
        raise NotImplementedError

    def check(self, case: Path) -> None:
        """Read it."""
        raise NotImplementedError


class Images(Kind):
    """Files of all formats that are read, and of some that are not."""

    share = 4000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole = whole_images()

    def write(self, draw: random.Random, case: Path) -> None:
        name, data = draw.choice(self.whole)
        data = damaged(draw, data, draw.choice(self.whole)[1])
        if data.startswith(b"\x89PNG") and draw.random() < 0.7:
            data = png_with_checksums(data)
        (case / f"a.{name}").write_bytes(data)

    def check(self, case: Path) -> None:
        (path,) = case.iterdir()
        given: tuple[Any, ...] = (path, path.read_bytes(), {"bytes": path.read_bytes(), "path": None})
        found = open_image(given[path.stat().st_size % len(given)])
        assert found.mode == "RGB"
        assert 0 < found.width * found.height <= MAX_PIXELS


def whole_images() -> list[tuple[str, bytes]]:
    """Small images of every format and mode."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    more: dict[str, Any] = {"save_all": True}
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((image, kind, {}) for image in (rgb, grey) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")),
        *((image, "PNG", {}) for image in (rgba, grey.convert("1"), rgba.convert("LA"), deep)),
        *(
            (rgb.quantize(16), "PNG", {"transparency": 3}),
            (rgb, "PNG", {"exif": exif, "dpi": (72, 72)}),
            (rgb, "PNG", more),
        ),
        *((rgb, "JPEG", {"exif": exif}), (rgb, "JPEG", {"progressive": True}), (rgb.convert("CMYK"), "JPEG", {})),
        *(
            (rgb, "MPO", more),
            (rgba, "GIF", {}),
            (rgb, "GIF", more),
            (rgba, "WEBP", {"lossless": True}),
            (rgb, "WEBP", more),
        ),
        *((rgb, "TIFF", {"compression": f"tiff_{name}"}) for name in ("lzw", "jpeg", "deflate", "adobe_deflate")),
        *((grey.convert("1"), "TIFF", {"compression": name}) for name in ("group3", "group4", "packbits")),
        *((image, "TIFF", {"exif": exif}) for image in (rgba, deep, rgb.convert("CMYK"), rgb.convert("LAB"))),
        *((rgb, "TIFF", more), (rgba, "JPEG2000", {}), (grey, "JPEG2000", {}), (rgb, "AVIF", {}), (rgba, "AVIF", {})),
        *((grey.convert("1"), "PPM", {}), (deep, "PPM", {}), (grey.convert("F"), "TIFF", {}), (rgb, "EPS", {})),
        *((rgb, "ICNS", {}), (rgb, "ICO", {}), (rgb, "PDF", {}), (rgb, "TGA", {}), (rgb, "PCX", {})),
    ]
    found: list[tuple[str, bytes]] = []
    for image, kind, options in made:
        file = BytesIO()
        options = {**options, "append_images": [image.rotate(90)]} if options is more else options
        image.copy().save(file, kind, **options)  # copies, as JPEG leaves its settings on an image
        found.append((kind.lower(), file.getvalue()))
    return found


class Rows(Kind):
    """Files of rows: damaged as bytes, or whole files of strange rows."""

    share = 3000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import datasets

        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        datasets.disable_caching()
        self.images = folder / "images"
        self.images.mkdir()
        Image.new("RGB", (20, 20), "red").save(self.images / "a.png")

    def write(self, draw: random.Random, case: Path) -> None:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        rows: Any = draw.choice(WHOLE_ROWS)
        form = draw.choice(sorted(ROW_WRITERS))
        for _ in range(draw.choice((0, 1, 1, 2, 5))):
            rows = changed(draw, rows)
        try:
            data = ROW_WRITERS[form](rows)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, AttributeError, LookupError):
            data = ROW_WRITERS[form](draw.choice(WHOLE_ROWS[:2]))  # this form cannot hold them
        if draw.random() < 0.5:
            data = damaged(draw, data, b'{"question": "\xff"}\r\n\t,"')
        (case / f"rows.{form}").write_bytes(data)

    def check(self, case: Path) -> None:
        (path,) = case.iterdir()
        streaming = bool(path.stat().st_size % 2)
        settings = SourceSettings(path=str(path), image_folder=self.images, streaming=streaming)
        source: Any = open_source("custom", settings)
        for row in source if streaming else map(source.__getitem__, range(len(source))):
            if isinstance(row, Skipped):
                assert len(row.detail.splitlines()) == 1, f"a bad reason: {row}"
                continue
            assert isinstance(row, Example)
            assert all(isinstance(message.content, str) for message in row.messages)
            assert all(isinstance(choice, str) for choice in row.choices)
            for image in row.images:
                open_or_skip(open_data_image, image, self.images)


def open_or_skip(open_it: Callable[..., Image.Image], *given: Any) -> None:
    """An image of a row is one that can be opened, or one that the run skips with a reason of one line."""
    reason = "none"
    try:
        open_it(*given).load()
    except BadSample as bad:
        reason = bad.detail
    assert len(reason.splitlines()) == 1, f"a bad reason: {reason!r}"


CHAT: list[Any] = [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "A ball."}]
PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
WHOLE_ROWS: tuple[list[dict[str, Any]], ...] = (
    [{"id": str(n), "image": "a.png", "question": f"What {n}?", "answer": "A ball."} for n in range(3)],
    [{"image": "a.png", "question": "Which?", "answer": "red", "choices": ["red", "blue"]} for _ in range(3)],
    [{"images": ["a.png"], "messages": CHAT}] * 2,
    [
        {
            "images": ["a.png"],
            "messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": PARTS[1:]}],
        }
    ],
    [
        {
            "id": 7,
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A"}],
        }
    ],
)


def delimited(separator: str) -> Callable[[Any], bytes]:
    def write(rows: Any) -> bytes:
        file = StringIO(newline="")
        names = list(dict.fromkeys(key for row in rows for key in row))
        table = csv.DictWriter(file, names, delimiter=separator)
        table.writeheader()
        table.writerows(
            [{key: json.dumps(v) if isinstance(v, list | dict) else v for key, v in row.items()} for row in rows]
        )
        return file.getvalue().encode("utf-8", "replace")

    return write


def parquet(rows: Any) -> bytes:
    file = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


ROW_WRITERS: dict[str, Callable[[Any], bytes]] = {
    "json": lambda rows: json.dumps(rows).encode(),
    "jsonl": lambda rows: b"".join(json.dumps(row).encode() + b"\n" for row in rows),
    "csv": delimited(","),
    "tsv": delimited("\t"),
    "parquet": parquet,
}


class Configs(Kind):
    """Files of training settings."""

    share = 1500

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        shipped = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path("configs").glob("*.json"))]
        self.whole = [config for config in shipped if "train_dataset_path" in config]
        self.every = json.loads(json.dumps(asdict(TrainingConfig.from_dict(self.whole[0]))))
        assert len(self.whole) > 2

    def write(self, draw: random.Random, case: Path) -> None:
        config = draw.choice((self.every, draw.choice(self.whole)))
        for _ in range(draw.choice((1, 1, 2, 4))):
            config = changed(draw, config)
        data = json.dumps(config).encode()
        (case / "config.json").write_bytes(damaged(draw, data, b'"a": [{') if draw.random() < 0.2 else data)

    def check(self, case: Path) -> None:
        config = TrainingConfig.from_file(case / "config.json")
        assert TrainingConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


class Checkpoints(Kind):
    """Folders of a saved model, one file of which is damaged."""

    share = 800
    seconds = 60.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        gemma = tiny.write_tiny_gemma(folder / "gemma")
        cosmos = tiny.write_tiny_cosmos(folder / "cosmos", with_text_encoder=True)
        options: dict[str, Any] = {"world_image_size": 32, "world_inference_steps": 2, "world_guidance_scale": 1.0}
        model = TheWorld.from_pretrained(gemma, cosmos_model_name=str(cosmos), **options)
        model.save_pretrained(folder / "delta")
        model.save_pretrained(folder / "full", full=True)
        self.image = Image.new("RGB", (40, 30), "red")

    def write(self, draw: random.Random, case: Path) -> None:
        saved = self.folder / draw.choice(("delta", "delta", "full"))
        shutil.copytree(saved, case, dirs_exist_ok=True)
        files = [path for path in sorted(case.rglob("*")) if path.is_file() and path.suffix != ".py"]
        config = case / "config.json"
        path = config if draw.random() < 0.4 else draw.choice(files)
        data = path.read_bytes()
        if path.suffix == ".json" and draw.random() < 0.7:
            path.write_text(json.dumps(changed(draw, json.loads(data))), encoding="utf-8")
        elif path.suffix == ".safetensors" and draw.random() < 0.5:
            size = int.from_bytes(data[:8], "little")
            header = json.dumps(changed(draw, json.loads(data[8 : 8 + size]))).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
        else:
            path.write_bytes(damaged(draw, data))

    def check(self, case: Path) -> None:
        model = TheWorld.from_pretrained(case, dtype=torch.float32)
        assert isinstance(model.ask(self.image, "What?", max_new_tokens=2), str)


class Latents(Kind):
    """Caches of latents, one file of which is damaged; what comes back is what was written, bit for bit."""

    share = 400

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fingerprint = {"encoder": "a", "steps": 1}
        self.latents = {bytes([n]) * 32: torch.randn(4, 2, 3, 3) for n in range(1, 6)}
        for name, keys in (("one", list(self.latents)), ("two", list(self.latents)[:2])):
            cache = LatentCache(folder / name, self.fingerprint, writable=True)
            for key in keys:
                cache.add(key, self.latents[key])
            cache.flush()

    def write(self, draw: random.Random, case: Path) -> None:
        shutil.copytree(self.folder / draw.choice(("one", "two")), case, dirs_exist_ok=True)
        path = draw.choice([path for path in sorted(case.rglob("*")) if path.is_file()])
        path.write_bytes(damaged(draw, path.read_bytes()))

    def check(self, case: Path) -> None:
        cache = LatentCache(case, self.fingerprint)
        for key, latents in self.latents.items():
            if key in cache:
                assert torch.equal(cache.get([key])[0], latents)


class Predictions(Kind):
    """Folders of an evaluation's answers: a digest covers the evidence of a row, so that a change is refused."""

    share = 300

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows = [Prediction(str(n), "<bos>What?", "red", "blue", choice_logprobs={"red": -1.0}) for n in range(4)]
        PredictionFile(folder / "whole", {"task": "custom", "arm": "world", "seed": 0}, {"versions": {}}).append(
            self.rows
        )

    def write(self, draw: random.Random, case: Path) -> None:
        shutil.copytree(self.folder / "whole", case, dirs_exist_ok=True)
        path = draw.choice(sorted(case.iterdir()))
        data = path.read_bytes()
        if draw.random() < 0.7:
            lines = data.splitlines() if path.suffix == ".jsonl" else [data]
            at = draw.randrange(len(lines))
            lines[at] = json.dumps(changed(draw, json.loads(lines[at]))).encode()
            data = b"\n".join([*lines, b""])
        else:
            data = damaged(draw, data)
        path.write_bytes(data)

    def check(self, case: Path) -> None:
        _, found = read_predictions(case)
        written = {row.id: row for row in self.rows}
        for row in found:
            whole = written[row.id]  # a whole row that is lost is found missing by its number
            assert (row.id, row.prompt, row.answer, row.output) == (whole.id, whole.prompt, whole.answer, whole.output)
            assert isinstance(row.score, int | float), f"score {row.score!r}"
            assert isinstance(row.figures, dict), f"figures {row.figures!r}"
            assert row.parsed is None or isinstance(row.parsed, str), f"parsed {row.parsed!r}"


KINDS: dict[str, type[Kind]] = {
    "images": Images,
    "rows": Rows,
    "configs": Configs,
    "checkpoints": Checkpoints,
    "latents": Latents,
    "predictions": Predictions,
}
