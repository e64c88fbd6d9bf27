"""A process that is killed while it writes leaves the old model or the new one, and the next run clears up after it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime
import pytest

import onnxcompress
from onnxcompress.graph import leftovers, writer
from onnxcompress.graph.model import Model
from tests.small_models import normal, proto, write

TEXT = "g (float[n, 256] x) => (float[n, 256] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"

# Reads one model and writes it again and again, each time as a run does: a candidate that becomes the target.
WRITER = """
import sys
from pathlib import Path
from onnxcompress.graph import leftovers, writer
from onnxcompress.graph.model import Model
source, target, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
model = Model.open(source)
print("ready", flush=True)
while True:
    candidate = leftovers.candidate(target)
    writer.save(model, candidate, single_file_limit=limit, stem=target.name)
    writer.publish(candidate, target)
"""


def model(folder: Path, name: str, seed: int) -> Path:
    weights = {"first": normal(256, 256, seed=seed), "second": normal(256, 256, seed=seed + 1)}
    return write(proto(TEXT, weights), folder, name)


def answer(path: Path) -> bytes:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: bytes = session.run(None, {"x": normal(2, 256, seed=9)})[0].tobytes()
    return result


def kill_while_writing(source: Path, target: Path, limit: int, wait: float) -> None:
    command = [sys.executable, "-c", WRITER, str(source), str(target), str(limit)]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("limit", [2**30, 0], ids=["single-file", "external-data"])
@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_old_or_the_new_model(kills: int, limit: int, tmp_path: Path) -> None:
    chance = random.Random(0)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    sources = [model(tmp_path / "in", f"{i}.onnx", seed=10 * i) for i in range(2)]
    target = tmp_path / "out" / "model.onnx"
    allowed = {answer(s) for s in sources}
    writer.save(Model.open(sources[0]), target, single_file_limit=limit)
    for number in range(kills):
        kill_while_writing(sources[number % 2], target, limit, chance.uniform(0, 0.03))
        assert answer(target) in allowed
        writer.tidy(target.parent)
        assert not list(target.parent.glob(".*"))
        assert answer(target) in allowed


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process lives")
def test_only_files_of_dead_processes_of_this_machine_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (tmp_path / "real").write_text("kept")
    ours = leftovers.candidate(tmp_path / "model.onnx").name
    dead = ours.replace(f".{os.getpid()}@", f".{gone.pid}@")
    machine = ours.split("@")[1][:8]
    other = dead.replace(machine, "0" * 8 if machine != "0" * 8 else "1" * 8)
    part = f".model.onnx.{gone.pid}@{machine}.abc_12.part"
    kept = {ours, other, ".model.onnx.part", "model.onnx", f"model.{gone.pid}@{machine}.candidate.onnx", "real"}
    for name in {*kept, dead, part}:
        (tmp_path / name).write_text("x")
    link = tmp_path / f".link.{gone.pid}@{machine}.candidate.onnx"
    link.symlink_to(tmp_path / "real")
    writer.tidy(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == kept | {link.name}


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process lives")
def test_the_next_run_clears_up(tmp_path: Path) -> None:
    source = model(tmp_path, "model.onnx", 0)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    name = leftovers.candidate(source).name.replace(f".{os.getpid()}@", f".{gone.pid}@")
    (tmp_path / name).write_bytes(b"half")
    onnxcompress.quantize(source, seconds=0.02)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.int8.onnx"}


@pytest.mark.skipif(os.name != "posix", reason="limits of the system")
def test_a_file_that_may_not_grow_is_exit_code_4_and_the_old_output_stays(tmp_path: Path) -> None:
    source = model(tmp_path, "model.onnx", 0)
    old = onnxcompress.quantize(source, seconds=0.02).path
    assert old is not None
    before = old.read_bytes()
    command = f"trap '' XFSZ; ulimit -f 16; '{sys.executable}' -m onnxcompress quantize model.onnx --force --no-verify"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr
    assert done.stderr.startswith("error: no room to write"), done.stderr
    assert old.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", old.name}


def test_a_run_opens_no_socket(tmp_path: Path) -> None:
    source = model(tmp_path, "model.onnx", 0)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        "def hook(event, args):\n"
        "    if event.startswith('socket.') and event != 'socket.gethostname':\n"
        "        print('a socket:', event, file=sys.stderr, flush=True)\n"
        "        __import__('os')._exit(77)\n"
        "sys.addaudithook(hook)\n",
        encoding="utf-8",
    )
    search = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": search}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert run("-c", "import socket; socket.socket()").returncode == 77  # the hook is in force
    done = run("-m", "onnxcompress", "quantize", str(source))
    assert done.returncode == 0, done.stderr
