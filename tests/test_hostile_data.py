"""Data and recipes that are made to exhaust or to mislead whoever reads them are refused before they are unpacked."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.data import DataOptions, bounded, load, text
from onnxcompress.errors import DataError, UsageError
from onnxcompress.graph.interface import ValueSpec
from onnxcompress.recipe import Recipe
from tests.small_models import check_words

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS = [ValueSpec("x", np.dtype(np.float32), 1, ("n", 1, 8, 8))]
IDS = [ValueSpec("input_ids", np.dtype(np.int64), 1, ("n", "s"))]
TOKENIZER = Path(__file__).parents[1] / "sample_models" / "language-id.tokenizer.json"
MEMORY = 100 << 20  # bytes that a refusal may take


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    own = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(own)) + own


def archive(path: Path, contents: bytes, claimed: int, packed: int = zipfile.ZIP_DEFLATED) -> None:
    """An archive of one array, written by hand, so that it can claim any size."""
    body = contents
    if packed:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = deflate.compress(contents) + deflate.flush()
    sizes = struct.pack("<HHQQ", 1, 16, claimed, len(body) if packed else claimed)
    common = struct.pack("<HHHHHIIIHH", 45, 0, packed, 0, 0, zlib.crc32(contents), 2**32 - 1, 2**32 - 1, 5, len(sizes))
    local = b"PK\3\4" + common + b"x.npy" + sizes
    central = b"PK\1\2" + struct.pack("<H", 45) + common + bytes(14) + b"x.npy" + sizes
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(body), 0)
    path.write_bytes(local + body + central + end)


def refused(read: Callable[[], object], words: str, kind: type[DataError | UsageError] = DataError) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=words) as caught:
            read()
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    check_words(caught.value)


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_that_claim_a_hundred_gigabytes(packed: int, tmp_path: Path) -> None:
    start = header((400 << 20, 1, 8, 8))
    archive(tmp_path / "a.npz", start + bytes(1000), len(start) + (100 << 30), packed)
    refused(lambda: load(tmp_path / "a.npz", INPUTS), "unpacks to 107374" if packed else "cannot be read")


def test_arrays_that_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SMALL", 1 << 20)
    many = np.zeros((10_000, 1, 8, 8), np.float32)
    np.savez_compressed(tmp_path / "bomb.npz", x=many)
    refused(lambda: load(tmp_path / "bomb.npz", INPUTS), "unpacks to 2560")
    np.savez(tmp_path / "plain.npz", x=many)
    assert len(load(tmp_path / "plain.npz", INPUTS)) == 10_000
    np.savez_compressed(tmp_path / "small.npz", x=many[:2000])
    assert len(load(tmp_path / "small.npz", INPUTS)) == 2000


@pytest.mark.parametrize("large", [False, True])
def test_archives_that_claim_very_many_arrays(large: bool, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.rfind(b"PK\5\6")
    if large:
        record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
        content[at:at] = record + struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    else:
        content[at + 12 : at + 16] = struct.pack("<I", 1 << 30)
    (tmp_path / "a.npz").write_bytes(content)
    refused(lambda: load(tmp_path / "a.npz", INPUTS), "absurd number of arrays")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (header((2**40, 2**40, 2**40)), "truncated or damaged"),
        (header((2**62, 4)), "truncated or damaged"),
        (header((1000, 1, 8, 8)), "truncated or damaged"),
        (header((-1, -1, 8, 8)), "shape"),
        (header((10**12,), "|S0"), "type .S0"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"(" * 99, "header of 2147483648 bytes"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "cannot be read"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"[" * 4500 + b"]" * 4500, "cannot be read"),
    ],
)
def test_headers_that_lie(start: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(start + bytes(256))
    refused(lambda: load(tmp_path / "a.npy", INPUTS), words)
    archive(tmp_path / "a.npz", start + bytes(256), len(start) + 256)
    refused(lambda: load(tmp_path / "a.npz", INPUTS), words)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(60_000, 60_000), "absurdly many pixels"),
        (png(1, 80_000_000), "absurdly many pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n", "is no readable image"),
        (b"<html></html>", "is no readable image"),
    ],
)
def test_pictures(content: bytes, words: str, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_bytes(content)
    refused(lambda: load(tmp_path, INPUTS), words)


def test_texts_and_tokenizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers")
    path, own = tmp_path / "a.txt", tmp_path / "tokenizer.json"
    path.write_text("a" * text._LONGEST_LINE + "a\n")
    refused(lambda: load(path, IDS, DataOptions(tokenizer=TOKENIZER)), "a line of 1048577 characters")
    path.write_text("a" * 40 + "b\n")
    slow = {"type": "Split", "pattern": {"Regex": r"(a|aa|a\s?)+c"}, "behavior": "Isolated", "invert": False}
    own.write_text(json.dumps(json.loads(TOKENIZER.read_text()) | {"pre_tokenizer": slow}))
    refused(lambda: load(path, IDS, DataOptions(tokenizer=own)), "the tokenizer fails")  # by a panic
    capfd.readouterr()
    monkeypatch.setattr(text, "_MOST_TOKENIZER", 10)
    refused(lambda: load(path, IDS, DataOptions(tokenizer=own)), "too large for a tokenizer")
    monkeypatch.setattr(text, "_MOST_TEXT", 10)
    refused(lambda: load(path, IDS, DataOptions(tokenizer=TOKENIZER)), "too large|is larger than")


STEP = b"[[steps]]\npass = 'simplify'\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x = " + b"[" * 100_000, "is not valid TOML"),
        (b"x = " + b"{a=" * 30_000, "is not valid TOML"),
        (b"x = " + b"9" * 10_000, "is not valid TOML"),
        (b"name = 'a\0b'\n" + STEP, "is not valid TOML"),
        (b"name = '\xff'\n" + STEP, "cannot be read"),
        (b".".join([b"a"] * 3000) + b" = 1", "far too large"),
        (b"name = '" + b"a" * (1 << 20) + b"'\n" + STEP, "far too large"),
        (STEP * 101, "has 101 steps"),
    ],
)
def test_recipes(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    refused(lambda: Recipe.from_toml(path), words, UsageError)


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbf" + STEP * 100)
    assert len(Recipe.from_toml(path).steps) == 100
