"""Statistics on disk: found again, bounded, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onnxcompress.runtime.cache_home import CacheWarning
from onnxcompress.stats import cache
from onnxcompress.stats.archive import Archive
from onnxcompress.stats.gram import Grams
from onnxcompress.stats.tally import Gram
from tests.small_models import normal

KEY = "a" * 64


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "onnxcompress" / "stats"


def test_arrays_come_back_as_they_were() -> None:
    arrays = {
        "/layer/0:H": normal(5, 5).astype(np.float64),
        "file": np.array(3, np.int64),
        "words": np.array(["a", "größer"]),
        "names": np.zeros((0, 4), np.float32),
        "x.npy": np.asfortranarray(normal(3, 4)),
    }
    cache.store(KEY, arrays)
    found = cache.load(KEY)
    assert found is not None
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
    assert cache.load("b" * 64) is None
    cache.store(KEY, {})
    assert cache.load(KEY) == {}


def test_nothing_but_the_entry_is_left(home: Path) -> None:
    cache.store(KEY, {"x": normal(3)})
    assert [p.name for p in home.iterdir()] == [f"{KEY}.npz"]
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        cache.store("b" * 64, {"x": np.array([{}], object)})
    assert [p.name for p in home.iterdir()] == [f"{KEY}.npz"]


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "folder", "no names", "renamed"])
def test_a_damaged_entry_is_as_good_as_none(home: Path, damage: str) -> None:
    cache.store(KEY, {"x": normal(1000)})
    path = home / f"{KEY}.npz"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    damaged = {"empty": b"", "truncated": bytes(data[:-100]), "text": b"not an archive"}
    path.write_bytes(damaged.get(damage, bytes(data)))
    if damage == "folder":
        path.unlink()
        path.mkdir()
    if damage == "no names":
        np.savez(path, x=normal(3))
    if damage == "renamed":
        cache.store("b" * 64, {"x": normal(3)})
        (home / f"{'b' * 64}.npz").rename(path)
    with pytest.warns(CacheWarning, match="is ignored"):
        assert cache.load(KEY) is None
    if damage != "folder":
        cache.store(KEY, {"x": normal(4)})
        assert cache.load(KEY) is not None


def test_a_folder_that_cannot_be_used_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    cache.store(KEY, {"x": normal(3)})
    assert cache.load(KEY) is None


def test_what_was_not_used_for_longest_goes(home: Path) -> None:
    arrays = {"x": np.zeros(10_000, np.uint8)}
    for number, key in enumerate("abc"):
        cache.store(key, arrays)
        os.utime(home / f"{key}.npz", (1000 + number, 1000 + number))
    assert cache.load("a") is not None  # used just now
    cache.store("d", arrays, limit=25_000)
    assert sorted(p.stem for p in home.iterdir()) == ["a", "d"]
    cache.store("e", arrays, limit=9_000)
    assert cache.load("e") is None


def test_what_an_interrupted_run_left_goes(home: Path) -> None:
    home.mkdir(parents=True)
    for name, age in ((".old.part", 1000), (".new.part", None)):
        (home / name).write_bytes(b"x")
        if age:
            os.utime(home / name, (age, age))
    cache.store(KEY, {"x": normal(3)})
    assert sorted(p.name for p in home.iterdir()) == [".new.part", f"{KEY}.npz"]


def test_the_key_tells_everything_apart() -> None:
    x = np.arange(12, dtype=np.int32)
    calls = [{"x": x.reshape(3, 4), "y": np.zeros(2, np.float32)}]
    base = cache.key_of("m", calls, layers="all")
    same = [{"y": np.zeros(2, np.float32), "x": np.asfortranarray(x.reshape(3, 4))}]
    assert cache.key_of("m", iter(same), layers="all") == base
    others = [
        cache.key_of("n", calls, layers="all"),
        cache.key_of("m", calls, layers="some"),
        cache.key_of("m", calls),
        cache.key_of("m", [], layers="all"),
        cache.key_of("m", [*calls, {}], layers="all"),
        cache.key_of("m", [{"x": calls[0]["x"]}, {"y": calls[0]["y"]}], layers="all"),
        cache.key_of("m", [{**calls[0], "x": x.reshape(4, 3)}], layers="all"),
        cache.key_of("m", [{**calls[0], "x": x.reshape(3, 4).view(np.float32)}], layers="all"),
        cache.key_of("m", [{**calls[0], "x": np.array(["a", "b"], object)}], layers="all"),
        cache.key_of("m", [{**calls[0], "x": np.array(["ab", ""], object)}], layers="all"),
    ]
    assert len({base, *others}) == len(others) + 1


def test_gram_matrices_come_back() -> None:
    shared = Gram(np.eye(3), np.ones(3), 7)
    grams = Grams({"a": shared, "b/c": Gram(np.ones((2, 4, 4)), np.zeros((2, 4)), 0), "d": shared}, {"e": "why"}, 2)
    made = Archive(dict(grams.left_out), grams.passes)
    made.add(grams.layers)
    cache.store(KEY, made.arrays())
    arrays = cache.load(KEY)
    assert arrays is not None
    found = Archive.of(arrays)
    assert found.nbytes == made.nbytes  # layers that share a matrix share it still
    for name, gram in grams.layers.items():
        assert np.array_equal(found.gram(name).matrix, gram.matrix.astype(np.float32))
        assert np.array_equal(found.gram(name).mean, gram.mean)
        assert found.gram(name).positions == gram.positions
    assert (found.left_out, found.passes) == ({"e": "why"}, 2)
    empty = Archive.of(Archive().arrays())
    assert (empty.nbytes, empty.left_out) == (0, {})
