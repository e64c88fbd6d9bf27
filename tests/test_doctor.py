"""`onnxcompress doctor`: the advice for machines that are made up, and the page for this one."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from onnxcompress.diagnosis.advice import LOWEST, advise
from onnxcompress.diagnosis.facts import Facts, Forms, FormSpeed, Memory, Processor, Threads
from onnxcompress.diagnosis.look import SHAPES, features
from onnxcompress.runtime.memory import available_bytes
from onnxcompress.runtime.providers import ProviderState, providers
from tests.test_cli_subprocess import FAILED, PASSED, Done, cli, files, last, refused

ROOT = Path(__file__).parent.parent
KEYS = {
    "schema_version", "versions", "runtimes", "processor", "memory", "threads", "providers", "nvidia", "forms",
    "advice",
}  # fmt: skip
OF_THE_RUNTIME = {"Microsoft"}  # which some builds of ONNX Runtime make in the cache folder
FAST = Forms("measured", "costs.json", (FormSpeed("dynamic8", 64, 768, 768, 3.0),))
WELL = Facts(
    versions={"onnxcompress": "1.0", "onnxruntime": "1.31.1", "onnx": "1.20.0"},
    runtimes=("onnxruntime",),
    processor=Processor("a processor", "x86_64", "Linux", "vnni", ()),
    memory=Memory(64 << 30, 32 << 30),
    threads=Threads(8, 8, 0.5, {}),
    providers=(ProviderState("CPUExecutionProvider", True),),
    nvidia=False,
    forms=FAST,
)


def test_a_machine_that_is_well_gets_no_advice() -> None:
    assert advise(WELL) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": WELL.versions | {"onnxruntime": "1.21.9"}}, ["onnxruntime 1.21.9 is older than 1.22"]),
        ({"versions": WELL.versions | {"onnx": "1.9.0"}}, ["onnx 1.9.0 is older than 1.19"]),
        ({"runtimes": ("onnxruntime", "onnxruntime-gpu")}, ["one import name"]),
        (
            {"providers": (*WELL.providers, ProviderState("CUDAExecutionProvider", False, "libcublas.so is missing"))},
            ["compiled in but cannot be used: libcublas.so is missing."],
        ),
        ({"nvidia": True}, ["onnxruntime-gpu in place of onnxruntime"]),
        ({"processor": dataclasses.replace(WELL.processor, kind="avx2")}, ["no VNNI", "--reduce-range", "--tune"]),
        (
            {"processor": dataclasses.replace(WELL.processor, kind="arm-dot", architecture="aarch64")},
            ["no measured costs for processors of this kind (arm-dot)"],
        ),
        ({"forms": Forms("measured", None, (FormSpeed("fused-w8", 1, 768, 768, 1.1),))}, ["No form"]),
        ({"threads": Threads(8, 8, 0.5, {"OPENBLAS_CORETYPE": "Haswell"})}, ["OPENBLAS_CORETYPE is Haswell"]),
        ({"threads": Threads(8, 8, 0.5, {"OMP_NUM_THREADS": "1"})}, ["OMP_NUM_THREADS=1 limits", "--threads"]),
        ({"threads": Threads(8, 8, 9.0, {})}, ["busy (9.0 processes on 8 CPUs)"]),
        ({"threads": Threads(2, 8, None, {})}, ["Of 8 CPUs the models use 2 cores"]),
        ({"memory": Memory(64 << 30, 1 << 30)}, ["Only 1.0 GiB", "--max-memory"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_advice(changes: dict[str, Any], words: list[str]) -> None:
    found = "\n".join(advise(dataclasses.replace(WELL, **changes)))
    for word in words:
        assert word in found
    for line in found.splitlines():
        assert re.fullmatch(r".+\.", line)


def test_the_lowest_versions_are_those_that_the_package_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = dict(line.split(">=") for line in project["dependencies"])
    assert {name: required[name] for name in LOWEST} == LOWEST


def test_features_are_those_of_the_architecture() -> None:
    x86, arm = features(["avx2"], "x86_64"), features(["asimddp"], "aarch64")
    assert {f.name for f in x86 if f.present} == {"avx2"}
    assert {"avx512_vnni", "amx_int8"} <= {f.name for f in x86}
    assert [(f.name, f.present) for f in arm] == [("asimddp", True), ("i8mm", False)]


def test_the_cpu_is_usable_and_every_other_provider_says_why_not() -> None:
    found = {p.name: p for p in providers()}
    assert found["CPUExecutionProvider"].usable
    assert all(p.usable or p.reason for p in found.values())


def test_memory_that_is_left_is_positive_where_it_is_known() -> None:
    left = available_bytes()
    assert left is None or left > 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The first look, and the folder of the cache."""
    folder = tmp_path_factory.mktemp("doctor")
    return folder, cli("doctor", "--json", "found.json", cwd=folder, XDG_CACHE_HOME=str(folder), OMP_NUM_THREADS="1")


def test_the_page(measured: tuple[Path, Done]) -> None:
    folder, done = measured
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) - OF_THE_RUNTIME == {"found.json", "onnxcompress"}
    assert "\x1b" not in done.stdout
    for word in ("versions", "processor", "memory", "threads", "CPUExecutionProvider", "dynamic8", "advice"):
        assert word in done.stdout
    assert "measured on this machine" in done.stdout
    assert "OMP_NUM_THREADS=1 limits" in done.stdout
    assert last(done.stdout).startswith(f"{PASSED} ")


def test_the_json(measured: tuple[Path, Done]) -> None:
    data = json.loads((measured[0] / "found.json").read_text(), parse_constant=pytest.fail)
    assert set(data) == KEYS
    assert data["forms"]["source"] == "measured"
    shapes = {(s["rows"], s["in_features"], s["out_features"]) for s in data["forms"]["speeds"]}
    assert shapes == set(SHAPES)
    assert all(s["speedup"] > 0 for s in data["forms"]["speeds"])
    assert any("OMP_NUM_THREADS" in text for text in data["advice"])


def test_a_second_look_takes_what_is_remembered(measured: tuple[Path, Done]) -> None:
    folder, _ = measured
    first = json.loads((folder / "found.json").read_text())
    before = (folder / "onnxcompress" / "costs.json").stat().st_mtime_ns
    done = cli("doctor", "--json", "-", XDG_CACHE_HOME=str(folder))
    assert json.loads(done.stdout)["forms"] == first["forms"]
    assert (folder / "onnxcompress" / "costs.json").stat().st_mtime_ns == before
    assert last(done.stderr).startswith(PASSED)


def test_without_measuring_nothing_is_written(tmp_path: Path) -> None:
    done = cli("doctor", "--no-measure", "--quiet", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert files(tmp_path) <= OF_THE_RUNTIME


def test_settings_with_escapes_are_never_printed_raw() -> None:
    done = cli("doctor", "--no-measure", OPENBLAS_CORETYPE="Has\x1b[31mwell\nonnxcompress: FAILED")
    assert "\x1b" not in done.stdout + done.stderr
    assert sum(line.startswith("onnxcompress: ") for line in done.stdout.splitlines()) == 1
    assert "OPENBLAS_CORETYPE" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--json", "nowhere/out.json"], ["--json", ""], ["--quiet", "--verbose"], ["model.onnx"]],
    ids=" ".join,
)
def test_wrong_usage(tmp_path: Path, arguments: list[str]) -> None:
    done = cli("doctor", "--no-measure", *arguments, cwd=tmp_path)
    refused(done, 2)
    assert last(done.stdout).startswith(FAILED)
    assert files(tmp_path) == set()


def test_verbose_shows_every_form(tmp_path: Path) -> None:
    shown = {}
    for word in ("--quiet", "--verbose", "--no-measure"):
        done = cli("doctor", "--no-measure", word, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shown[word] = done.stdout.splitlines()
    assert len(shown["--quiet"]) == 1
    assert len(shown["--verbose"]) >= len(shown["--no-measure"]) > 1
    assert not any("more: --verbose" in line for line in shown["--verbose"])
