"""Processes that write to the same place at the same time: outputs and the cache stay whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import UsageError
from onnxcompress.forms import remembered
from onnxcompress.forms.costs import Point
from onnxcompress.graph import writer
from onnxcompress.progress import Silent
from onnxcompress.runtime.cache_home import CacheWarning, cache_home
from onnxcompress.stats import cache
from tests.small_models import normal, proto, write
from tests.test_cli_subprocess import cli, last

TEXT = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
WAIT = 60  # seconds


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(proto(TEXT, {"first": normal(64, 48, seed=1), "second": normal(48, 32, seed=2)}), tmp_path)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    np.savez(tmp_path / "calls.npz", x=normal(16, 64, seed=3))
    return tmp_path / "calls.npz"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnxcompress"


def together(*commands: Sequence[object]) -> list[tuple[int, str, str]]:
    """Exit code, output and messages of commands that run at once."""
    running = [
        subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words in commands
    ]
    ended = [process.communicate(timeout=WAIT) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, ended, strict=True)]


def quantize(*words: object) -> list[object]:
    return ["-m", "onnxcompress", "quantize", *words, "--no-verify"]


# ------------------------------------------------------------------------- one output


def test_of_two_processes_with_one_output_one_refuses(model: Path) -> None:
    output = model.with_name("small.onnx")
    done = together(*[quantize(model, "-o", output, "--bits", bits) for bits in (8, 4)])
    assert sorted(code for code, _, _ in done) == [0, 2]
    assert next(err for code, _, err in done if code == 2).startswith(f"error: {output} exists")
    bits = next(b for (code, _, _), b in zip(done, (8, 4), strict=True) if code == 0)
    assert output.read_bytes() == alone(model, bits)
    assert {p.name for p in model.parent.iterdir()} == {"model.onnx", "small.onnx", "alone.onnx"}


def test_of_two_processes_that_may_overwrite_the_last_one_wins_whole(model: Path) -> None:
    output = model.with_name("small.onnx")
    output.write_bytes(b"old")
    done = together(*[quantize(model, "-o", output, "--bits", bits, "--force") for bits in (8, 4)])
    assert [code for code, _, _ in done] == [0, 0]
    assert output.read_bytes() in (alone(model, 8), alone(model, 4))
    assert {p.name for p in model.parent.iterdir()} == {"model.onnx", "small.onnx", "alone.onnx"}


def alone(model: Path, bits: int) -> bytes:
    made = onnxcompress.quantize(model, model.with_name("alone.onnx"), bits=bits, verify=False, force=True)
    assert made.path is not None
    onnx.checker.check_model(onnx.load(made.path))
    return made.path.read_bytes()


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_was_taken_meanwhile_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    candidate, target = tmp_path / "candidate.onnx", tmp_path / "target.onnx"
    made = proto(TEXT, {"first": normal(64, 48), "second": normal(48, 32)})
    candidate.write_bytes(made.SerializeToString())
    target.write_bytes(b"theirs")
    with pytest.raises(UsageError, match="in the meantime"):
        writer.publish(candidate, target, new=True)
    assert target.read_bytes() == b"theirs"
    target.unlink()
    writer.publish(candidate, target, new=True)
    assert target.read_bytes() == made.SerializeToString()
    assert [p.name for p in tmp_path.iterdir()] == ["target.onnx"]


# ------------------------------------------------------------------------- one cache


def test_two_processes_share_the_statistics(model: Path, calls: Path, home: Path) -> None:
    outputs = [model.with_name(f"{n}.onnx") for n in "abc"]
    done = together(*[quantize(model, "-o", output, "--data", calls) for output in outputs[:2]])
    assert [code for code, _, _ in done] == [0, 0]
    assert not any("warning" in err for _, _, err in done)
    entries = list((home / "stats").iterdir())
    assert entries
    assert all(cache.load(path.stem) is not None for path in entries)
    for path in entries:
        path.write_bytes(path.read_bytes()[:-50])
    again = cli(*quantize(model, "-o", outputs[2], "--data", calls)[2:])
    assert again.returncode == 0
    assert last(again.stdout).startswith("onnxcompress: PASSED")
    assert again.stderr.startswith(f"warning: {home / 'stats'}")
    assert "is ignored: it is damaged" in again.stderr
    assert len({output.read_bytes() for output in outputs}) == 1
    assert all(cache.load(path.stem) is not None for path in entries)


def test_without_a_cache_nothing_is_read_or_written(
    model: Path, calls: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXCOMPRESS_NO_CACHE", "1")
    onnxcompress.quantize(model, data=calls, verify=False)
    assert not home.exists()
    monkeypatch.setenv("ONNXCOMPRESS_NO_CACHE", "0")
    onnxcompress.quantize(model, data=calls, verify=False, force=True)
    assert list((home / "stats").iterdir())


def test_the_place_follows_the_base_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_home() == tmp_path / "x" / "onnxcompress"
    assert cache.folder() == tmp_path / "x" / "onnxcompress" / "stats"
    for value in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_home() == tmp_path / ".cache" / "onnxcompress"
    monkeypatch.setenv("ONNXCOMPRESS_NO_CACHE", "1")
    assert cache_home() is None


ADD = """
import sys, warnings
from onnxcompress.forms import remembered
from onnxcompress.forms.costs import Point
warnings.simplefilter("error")
for n in range(1, 80):
    remembered._add("vnni, onnxruntime 1.0", {"dynamic8": [Point(n, int(sys.argv[1]), 64, 2.0)]})
    remembered._read()
"""


def test_two_processes_add_costs(home: Path) -> None:
    done = together(*[("-c", ADD, inputs) for inputs in (32, 48)])
    assert [(code, err) for code, _, err in done] == [(0, ""), (0, "")]
    points = json.loads((home / "costs.json").read_text("utf-8"))["vnni, onnxruntime 1.0"]["points"]["dynamic8"]
    assert len({tuple(p[:3]) for p in points}) == len(points) >= 79
    assert [p.name for p in home.iterdir()] == ["costs.json"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The shapes that are measured from now on, without measuring them."""
    found: list[tuple[int, int, int]] = []

    def measure(shapes: Sequence[tuple[int, int, int]], _: object) -> Iterator[tuple[str, Point]]:
        found.extend(shapes)
        yield from (("dynamic8", Point(*shape, 2.0)) for shape in shapes)

    monkeypatch.setattr(remembered, "_measured", measure)
    return found


def test_costs_are_measured_once_and_are_those_that_were_asked_for(
    home: Path, measured: list[tuple[int, int, int]]
) -> None:
    one, two = (1, 64, 64), (2, 64, 64)
    assert remembered.costs("vnni", [one], Silent()) == {"dynamic8": [Point(*one, 2.0)]}
    assert remembered.costs("vnni", [two], Silent()) == {"dynamic8": [Point(*two, 2.0)]}
    assert remembered.costs("vnni", [one, two], Silent())["dynamic8"] == [Point(*one, 2.0), Point(*two, 2.0)]
    assert measured == [one, two]
    tuned = {"dynamic8": [Point(*one, 7.0)]}
    assert remembered.costs("vnni", [one], Silent(), tuned)["dynamic8"] == [Point(*one, 7.0)]
    assert (home / "costs.json").exists()


def key() -> str:
    return f"vnni, onnxruntime {remembered.runtime_version()}"


@pytest.mark.parametrize(
    "content",
    [
        lambda: b"\xff\xfe not text",
        lambda: b"{",
        lambda: b"[1, 2]",
        lambda: json.dumps({key(): {"points": [1]}}).encode(),
        lambda: json.dumps({key(): {"points": {"dynamic8": [[1, 64]]}}}).encode(),
        lambda: json.dumps({key(): {"points": {"dynamic8": [[1, 64, 64, "fast"]]}}}).encode(),
        lambda: json.dumps({key(): {"points": {"dynamic8": [[0, 64, 64, 1.0]]}}}).encode(),
        lambda: json.dumps({key(): {}}).encode(),
    ],
)
def test_costs_that_are_none_are_told_and_measured_anew(
    home: Path, measured: list[tuple[int, int, int]], content: Callable[[], bytes]
) -> None:
    home.mkdir(parents=True)
    (home / "costs.json").write_bytes(content())
    with pytest.warns(CacheWarning, match=r"costs\.json is ignored"):
        found = remembered.costs("vnni", [(1, 64, 64)], Silent())
    assert found == {"dynamic8": [Point(1, 64, 64, 2.0)]}
    assert measured == [(1, 64, 64)]
    assert remembered.costs("vnni", [(1, 64, 64)], Silent()) == found
    assert len(measured) == 1


def test_a_place_for_costs_that_cannot_be_used_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[tuple[int, int, int]]
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    with pytest.warns(CacheWarning):
        assert remembered.costs("vnni", [(1, 64, 64)], Silent()) == {"dynamic8": [Point(1, 64, 64, 2.0)]}
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "taken")
    assert measured
