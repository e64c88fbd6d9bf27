"""A process that is killed while it writes leaves the old model or the new one, and the next run clears up after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import onnxcompress
from onnxcompress.graph import leftovers, writer
from onnxcompress.graph.model import Model
from tests.killing import MODES, Mode, answer, kill_often, model


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_old_or_the_new_model(kills: int, mode: Mode, tmp_path: Path) -> None:
    tally = kill_often(mode, kills, tmp_path)
    assert (tally.kills, tally.faults) == (kills, [])
    assert tally.first + tally.second + tally.absent == kills


# Stands still at one step of writing a model with external data over another one, and is killed there.
STOPPED = """
import os, signal, sys
from pathlib import Path
from onnxcompress.graph import leftovers, writer
from onnxcompress.graph.model import Model
source, target, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
steps = 0
def stop(event, arguments):
    global steps
    if event in ("os.rename", "os.remove", "open") and str(target.parent) in str(arguments[0]):
        if event != "open" or arguments[2] & os.O_CREAT:
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
model = Model.open(source)
sys.addaudithook(stop)
candidate = leftovers.candidate(target)
writer.save(model, candidate, single_file_limit=int(sys.argv[4]), stem=target.name)
writer.publish(candidate, target)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("limit", [2**30, 0], ids=["single-file", "external-data"])
def test_whatever_step_a_writer_is_killed_before_the_folder_is_whole(limit: int, tmp_path: Path) -> None:
    for place in ("in", "out"):
        (tmp_path / place).mkdir()
    old, new = (model(tmp_path / "in", f"{i}.onnx", 10 * i) for i in range(2))
    target = tmp_path / "out" / "model.onnx"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = []
    for step in range(1, 30):
        writer.save(Model.open(old), target, single_file_limit=limit)
        command = [sys.executable, "-c", STOPPED, str(new), str(target), str(step), str(limit)]
        code = subprocess.run(command, env=environment, check=False, timeout=60).returncode
        found.append(answer(target))
        writer.tidy(target.parent)
        assert answer(target) == found[-1]
        assert len(list(target.parent.iterdir())) == (1 if limit else 2), step
        for file in target.parent.iterdir():
            file.unlink()
        if not code:
            break
        assert code == -signal.SIGKILL
    assert len(found) >= (3 if limit else 9)
    changes = found.index(answer(new))
    assert found == [answer(old)] * changes + [answer(new)] * (len(found) - changes)


def test_data_that_a_copied_model_shares_stay(tmp_path: Path) -> None:
    old, new = (Model.open(model(tmp_path, f"{i}.onnx", 10 * i)) for i in range(2))
    target = tmp_path / "target.onnx"
    writer.save(old, target, single_file_limit=0)
    copy = target.with_name("copy.onnx")
    copy.write_bytes(target.read_bytes())
    before = answer(copy)
    candidate = leftovers.candidate(target)
    writer.save(new, candidate, single_file_limit=0, stem=target.name)
    writer.publish(candidate, target)
    assert answer(copy) == before != answer(target)


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


# The command line, with or without a file of its own for large tensors.
TOOL = """
import sys
from onnxcompress.cli.app import main
from onnxcompress.graph import writer
writer.save.__kwdefaults__["single_file_limit"] = int(sys.argv.pop(1))
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of the system")
@pytest.mark.parametrize("limit", [2**30, 0], ids=["single-file", "external-data"])
def test_a_file_that_may_not_grow_is_exit_code_4_and_the_old_output_stays(limit: int, tmp_path: Path) -> None:
    source = model(tmp_path, "model.onnx", 0)
    old = tmp_path / "model.int8.onnx"
    writer.save(Model.open(source), old, single_file_limit=limit)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    command = f"ulimit -f 16; exec '{sys.executable}' -c \"$0\" {limit} quantize model.onnx --force --no-verify"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", command, TOOL], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr
    assert done.stderr.startswith(f"error: no room to write {old.name}\n"), done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_runtime_keeps_no_files_of_what_it_did(tmp_path: Path) -> None:
    model(tmp_path, "model.onnx", 0)
    places = {name: tmp_path / name for name in ("TMPDIR", "XDG_CACHE_HOME", "HOME")}
    for place in places.values():
        place.mkdir()
    own = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment = {**own, **{k: str(v) for k, v in places.items()}, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "onnxcompress", "quantize", "model.onnx"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=60)
    assert [p for place in places.values() for p in place.iterdir() if p.name != "onnxcompress"] == []


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
