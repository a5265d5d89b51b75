"""What is read is what was written, or an error: whoever writes at once, is killed, or flips a bit."""

import contextlib
import errno
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from theworld.data import latent_cache
from theworld.data.latent_cache import LatentCache, content_key, drop_damaged

FINGERPRINT = {"encoder": "cosmos", "dtype": "float32", "num_world_steps": 1, "seed": 0}
SHAPE = (4, 2, 3, 3)


def frames(count: int, start: int = 0) -> torch.Tensor:
    """(count, 3, 8, 8), each another."""
    return torch.arange(start, start + count).view(-1, 1, 1, 1).expand(-1, 3, 8, 8) / 1000


def latents_of(pixels: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a made-up encoder gives: full of bits that rounding would lose."""
    seeds = [int.from_bytes(content_key(frame)[:4]) for frame in pixels]
    return torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(dtype)


def write(folder: Path, pixels: torch.Tensor, fingerprint: dict[str, Any] = FINGERPRINT, **settings: Any) -> None:
    cache = LatentCache(folder, fingerprint, writable=True)
    for frame, latents in zip(pixels, latents_of(pixels, **settings), strict=True):
        cache.add(content_key(frame), latents)
    cache.flush()


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    write(tmp_path, frames(5))
    return tmp_path


# ------------------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_latents_come_back_bit_for_bit_in_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    pixels = frames(5)
    write(tmp_path, pixels, dtype=dtype)
    cache = LatentCache(tmp_path, FINGERPRINT)
    order = [3, 0, 3, 4]
    found = cache.lookup(pixels[order])
    assert found.dtype == dtype
    assert torch.equal(found, latents_of(pixels[order], dtype))
    assert len(cache) == 5


def test_the_key_is_what_the_encoder_sees() -> None:
    frame = torch.rand(3, 8, 8)
    other = frame.clone()
    other[2, 7, 7] += 1e-6
    assert content_key(frame) == content_key(frame.transpose(1, 2).contiguous().transpose(1, 2))
    assert content_key(frame) != content_key(other)
    assert content_key(frame) == content_key(
        frame[None]
    )  # a clip of one frame; caches of clips have a kind of their own


def test_missing_latents_are_named_with_the_cure(filled: Path) -> None:
    with pytest.raises(ValueError, match=r"2 of 3 images have no latents.*theworld precompute") as caught:
        LatentCache(filled, FINGERPRINT).lookup(torch.cat([frames(1), frames(2, start=50)]))
    assert content_key(frames(1, start=50)[0]).hex()[:16] in str(caught.value)


def test_an_empty_cache_misses_everything(tmp_path: Path) -> None:
    LatentCache(tmp_path, FINGERPRINT, writable=True)
    with pytest.raises(ValueError, match="1 of 1"):
        LatentCache(tmp_path, FINGERPRINT).lookup(frames(1))


def test_nothing_asked_is_nothing_found(filled: Path) -> None:
    assert len(LatentCache(filled, FINGERPRINT).lookup(frames(0))) == 0


def test_a_picture_is_stored_once(filled: Path) -> None:
    write(filled, frames(5))
    assert len(list(filled.glob("*/shards/*"))) == 1
    cache = LatentCache(filled, FINGERPRINT, writable=True)
    cache.add(content_key(frames(1, start=9)[0]), torch.zeros(SHAPE))
    assert content_key(frames(1, start=9)[0]) in cache
    assert len(cache) == 6


def test_shards_are_cut_by_size_and_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "SHARD_BYTES", 2 * latents_of(frames(1)).nbytes)
    write(tmp_path, frames(5))
    assert len(list(tmp_path.glob("*/shards/*"))) == 3
    monkeypatch.setattr(latent_cache, "FLUSH_SECONDS", 0.0)
    write(tmp_path, frames(3, start=10))
    assert len(list(tmp_path.glob("*/shards/*"))) == 6
    everything = torch.cat([frames(5), frames(3, start=10)])
    assert torch.equal(LatentCache(tmp_path, FINGERPRINT).lookup(everything), latents_of(everything))


def test_disk_use_is_that_of_the_latents(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path, FINGERPRINT, writable=True)
    latents = torch.zeros(16, 1, 28, 28, dtype=torch.bfloat16)
    for index in range(200):
        cache.add(content_key(frames(1, start=index)[0]), latents)
    cache.flush()
    used = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert used < 1.1 * 200 * latents.nbytes


# ------------------------------------------------------------------------------------------------------ encoders


def test_another_encoders_cache_is_refused_by_what_differs(filled: Path) -> None:
    with pytest.raises(ValueError, match=r"another encoder \(dtype is 'float32' there, 'bfloat16' here\)"):
        LatentCache(filled, {**FINGERPRINT, "dtype": "bfloat16"})


def test_the_nearest_encoder_is_compared(filled: Path) -> None:
    write(filled, frames(1), {**FINGERPRINT, "seed": 3, "num_world_steps": 4})
    with pytest.raises(ValueError, match=r"another encoder \(seed is 0 there, 1 here\)"):
        LatentCache(filled, {**FINGERPRINT, "seed": 1})


def test_encoders_lie_beside_one_another(filled: Path) -> None:
    clips = torch.rand(2, 5, 3, 8, 8)
    fingerprint = {**FINGERPRINT, "kind": "clip"}
    write(filled, clips, fingerprint)
    assert torch.equal(LatentCache(filled, fingerprint).lookup(clips), latents_of(clips))
    assert len(LatentCache(filled, FINGERPRINT)) == 5


def test_no_cache_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="theworld precompute"):
        LatentCache(tmp_path / "none", FINGERPRINT)
    assert not (tmp_path / "none").exists()


# -------------------------------------------------------------------------------------------------------- damage


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


def rebuild(folder: Path) -> int:
    """What `theworld precompute` does."""
    lost = drop_damaged(folder, FINGERPRINT)
    write(folder, frames(5))
    return lost


@pytest.mark.parametrize("part", ["header", "latents"])
def test_a_flipped_bit_is_found_and_rebuilt(filled: Path, part: str) -> None:
    shard = only(filled, "*/shards/*")
    flip(shard, 12 if part == "header" else shard.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"{shard.name}: damaged .*theworld precompute"):
        LatentCache(filled, FINGERPRINT).lookup(frames(5))
    assert rebuild(filled) == 5
    assert torch.equal(LatentCache(filled, FINGERPRINT).lookup(frames(5)), latents_of(frames(5)))


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_truncated_shard_is_found_and_rebuilt(filled: Path, size: int) -> None:
    shard = only(filled, "*/shards/*")
    os.truncate(shard, size % shard.stat().st_size)
    with pytest.raises(ValueError, match=rf"{shard.name}: damaged"):
        LatentCache(filled, FINGERPRINT).lookup(frames(1))
    assert rebuild(filled) == 5
    assert torch.equal(LatentCache(filled, FINGERPRINT).lookup(frames(5)), latents_of(frames(5)))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"__metadata__": {}, "keys": {"data_offsets": [0, 1e999]}}',
        b'{"__metadata__": {}, "latents": {"dtype": "F32", "shape": [1, 1], "data_offsets": [-1%s, 0]}}' % (b"0" * 30),
    ],
)
def test_a_header_of_any_kind_is_one_line(filled: Path, header: bytes) -> None:
    shard = only(filled, "*/shards/*")
    shard.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=rf"{shard.name}: damaged"):
        LatentCache(filled, FINGERPRINT)
    assert rebuild(filled) == 5


def test_what_is_no_shard_is_left_alone(filled: Path) -> None:
    folder = only(filled, "*/shards/*").parent
    other = folder / f"{'0' * 32}-x.safetensors"
    other.write_bytes(b"x")
    os.mkfifo(folder / f"{'0' * 32}-1.safetensors")
    assert drop_damaged(filled, FINGERPRINT) == 0
    assert other.exists()
    assert len(LatentCache(filled, FINGERPRINT)) == 5


def test_a_lost_shard_is_found_and_rebuilt(filled: Path) -> None:
    cache = LatentCache(filled, FINGERPRINT)
    only(filled, "*/shards/*").unlink()
    with pytest.raises(ValueError, match=r"safetensors: damaged \(it is gone\)"):
        cache.lookup(frames(1))
    with pytest.raises(ValueError, match="theworld precompute"):
        LatentCache(filled, FINGERPRINT).lookup(frames(1))
    assert rebuild(filled) == 0
    assert torch.equal(LatentCache(filled, FINGERPRINT).lookup(frames(5)), latents_of(frames(5)))


@pytest.mark.parametrize("where", range(0, 700, 13))  # of header, checksums, latents and keys
def test_a_flipped_bit_never_gives_other_latents(filled: Path, where: int) -> None:
    shard = only(filled, "*/shards/*")
    flip(shard, where * shard.stat().st_size // 700)
    with contextlib.suppress(ValueError, KeyError):
        assert torch.equal(LatentCache(filled, FINGERPRINT).lookup(frames(5)), latents_of(frames(5)))
    rebuild(filled)
    assert torch.equal(LatentCache(filled, FINGERPRINT).lookup(frames(5)), latents_of(frames(5)))


def test_a_shard_that_is_truncated_under_a_reader_is_an_error(tmp_path: Path) -> None:
    """A mapped file of several pages would end the reader with SIGBUS."""
    write(tmp_path, frames(100))
    cache = LatentCache(tmp_path, FINGERPRINT)
    cache.lookup(frames(1))
    shard = only(tmp_path, "*/shards/*")
    os.truncate(shard, 100)
    with pytest.raises(
        ValueError, match=rf"{shard.name}: damaged \(it ends before byte \d+\); run `theworld precompute`"
    ):
        cache.lookup(frames(1, start=99))


def test_a_cache_of_version_0_1_is_refused_with_what_to_do(filled: Path) -> None:
    (index := next(filled.glob("*/shards")).parent / "index").mkdir()
    (index / "0.parquet").write_bytes(b"PAR1")
    for use in (LatentCache, drop_damaged):
        with pytest.raises(ValueError, match=r"latents of version 0\.1.*remove that folder, then run `theworld precom"):
            use(filled, FINGERPRINT)
    assert only(filled, "*/shards/*").exists()


def test_more_shards_than_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "OPEN_FILES", 2)
    for start in range(5):
        write(tmp_path, frames(1, start=start))
    cache = LatentCache(tmp_path, FINGERPRINT)
    for order in ([0, 1, 2, 3, 4], [4, 0, 3, 1, 2]):
        assert torch.equal(cache.lookup(frames(5)[order]), latents_of(frames(5)[order]))
    assert len(cache._files) == 2


def test_processes_share_a_repair(filled: Path) -> None:
    for start in range(20, 40, 2):
        write(filled, frames(2, start=start))
    for shard in filled.glob("*/shards/*"):
        flip(shard, -1)
    lost = [drop_damaged(filled, FINGERPRINT, rank, 2) for rank in range(2)]
    assert min(lost) > 0
    assert sum(lost) == 25
    assert not list(filled.glob("*/shards/*"))


def test_whole_shards_survive_a_repair(filled: Path) -> None:
    write(filled, frames(2, start=20))
    flip(max(filled.glob("*/shards/*"), key=lambda shard: shard.stat().st_mtime), -1)
    assert drop_damaged(filled, FINGERPRINT) == 2
    assert len(LatentCache(filled, FINGERPRINT)) == 5


def test_a_full_disk_is_one_clear_line(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = LatentCache(filled, FINGERPRINT, writable=True)
    for frame in frames(2, start=30):
        cache.add(content_key(frame), torch.zeros(SHAPE))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left for 2 latents") as caught:
        cache.flush()
    assert "\n" not in str(caught.value)
    assert torch.equal(LatentCache(filled, FINGERPRINT).lookup(frames(5)), latents_of(frames(5)))


def test_what_killed_writers_left_behind_goes_in_time(filled: Path) -> None:
    left = next(filled.glob("*/shards")) / ".1.safetensors.x"
    for age in (60, 7200):
        left.write_bytes(b"x")
        os.utime(left, (time.time() - age,) * 2)
        assert drop_damaged(filled, FINGERPRINT) == 0
        assert left.exists() == (age == 60)
    assert len(LatentCache(filled, FINGERPRINT)) == 5


# ----------------------------------------------------------------------------------------------------- processes


class Lookups(Dataset[torch.Tensor]):
    def __init__(self, cache: LatentCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.cache.lookup(frames(1, start=index))[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read(filled: Path, start: str) -> None:
    cache = LatentCache(filled, FINGERPRINT)
    cache.lookup(frames(5))  # files are opened before the fork
    loader = DataLoader(Lookups(cache), batch_size=5, num_workers=1, multiprocessing_context=start)
    assert torch.equal(next(iter(loader)), latents_of(frames(5)))


def test_a_pickled_cache_reads(filled: Path) -> None:
    cache = pickle.loads(pickle.dumps(LatentCache(filled, FINGERPRINT, writable=True)))
    assert not cache.writable
    assert torch.equal(cache.lookup(frames(5)), latents_of(frames(5)))


def _write_forever(folder: Path, start: int) -> None:
    latent_cache.FLUSH_SECONDS = 0.0
    for index in range(start, start + 1000):
        write(folder, frames(1, start=index))


def test_writers_at_once_and_killed_lose_nothing_that_was_written(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_forever, args=(tmp_path, start)) for start in (0, 1000)]
    for writer in writers:
        writer.start()
    firsts = [content_key(frames(1, start=start)[0]) for start in (0, 1000)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until there are 8 shards, some of each writer
        shards = len(list(tmp_path.glob("*/shards/*.safetensors")))
        if shards >= 8 and all(first in LatentCache(tmp_path, FINGERPRINT) for first in firsts):
            break
        time.sleep(0.02)
    for writer in writers:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    assert drop_damaged(tmp_path, FINGERPRINT) == 0
    cache = LatentCache(tmp_path, FINGERPRINT)
    assert len(cache) >= 8
    for start in (0, 1000):
        there = [content_key(frame) in cache for frame in frames(1000, start=start)]
        assert sum(there) == there.index(False)  # the first ones, without a gap
        written = frames(sum(there), start=start)
        assert torch.equal(cache.lookup(written), latents_of(written))


# --------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("other", [torch.zeros(4, 3, 3, 3), torch.zeros(SHAPE, dtype=torch.bfloat16)])
def test_latents_of_two_shapes_or_dtypes_are_refused(filled: Path, other: torch.Tensor) -> None:
    cache = LatentCache(filled, FINGERPRINT, writable=True)
    with pytest.raises(
        ValueError, match=r"latents of .*, but the cache holds latents of .*; remove that folder, then run `thew"
    ):
        cache.add(content_key(frames(1, start=9)[0]), other)


def test_shards_of_two_shapes_are_refused(tmp_path: Path) -> None:
    first, second = (LatentCache(tmp_path, FINGERPRINT, writable=True) for _ in range(2))  # writers at once
    first.add(content_key(frames(1)[0]), torch.zeros(SHAPE))
    second.add(content_key(frames(1, start=1)[0]), torch.zeros(4, 3, 3, 3))
    for cache in (first, second):
        cache.flush()
    with pytest.raises(ValueError, match=r"latents of .*, but the cache holds latents of .*; remove that folder"):
        LatentCache(tmp_path, FINGERPRINT)


@pytest.mark.parametrize("text", ["[]", "{", "7", "[" * 100_000])
def test_a_fingerprint_that_is_no_object_is_named(filled: Path, text: str) -> None:
    only(filled, "*/fingerprint.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"fingerprint\.json: damaged, .*; run `theworld precompute`"):
        LatentCache(filled, {**FINGERPRINT, "seed": 1})
