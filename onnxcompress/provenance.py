"""What a model says of its making: tool, resolved recipe, seed, and all else that its bytes depend on, in its metadata.

No times and no paths: the same input, recipe, data and seed give the same bytes. What was decided by measuring (which
attempt was kept, what forms cost with ``--tune``) is recorded as it was decided, so that a replay measures nothing.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

from onnxcompress.data.options import DataOptions
from onnxcompress.errors import ModelError, OnnxCompressError
from onnxcompress.forms.costs import packed, parse_packed
from onnxcompress.pipeline import Environment
from onnxcompress.recipe import Recipe
from onnxcompress.report import Tool
from onnxcompress.runtime.machine import IsaClass, isa_class
from onnxcompress.stats import cache
from onnxcompress.verify.facts import model_facts
from onnxcompress.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.model import Model
    from onnxcompress.progress import Progress

PREFIX = "onnxcompress."
_VERSION, _SEED, _RECIPE, _RUN = (PREFIX + word for word in ("version", "seed", "recipe", "run"))
_DIGEST = 32  # hex digits that tell data apart
_FREE = Environment()  # what needs no telling
_READ = ("mean", "std", "layout", "size", "limit")  # of `DataOptions`, what changes the arrays


def tool() -> Tool:
    """The versions that decide the result."""
    return Tool("onnxcompress", __version__, metadata.version("onnx"), _runtime())


def _runtime() -> str:
    return next((metadata.version(n) for n in ("onnxruntime", "onnxruntime-gpu") if _installed(n)), "none")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def versions() -> dict[str, str]:
    """The versions of everything that computes, of this tool too."""
    mine = tool()
    return {
        "onnxcompress": mine.version,
        "onnx": mine.onnx,
        "onnxruntime": mine.onnxruntime,
        "numpy": metadata.version("numpy"),
    }


def stamp(
    model: Model, recipe: Recipe, environment: Environment, read: DataOptions | None = None, held_back: int = 0
) -> None:
    """Write the provenance into the metadata of a model, in place of what an earlier run left there.

    Args:
        model: the result; its metadata change.
        recipe: as it was settled.
        environment: in which it ran.
        read: how the data were read.
        held_back: calls of them to judge by, which the environment is without.
    """
    entries = {
        _VERSION: __version__,
        _SEED: str(environment.seed),
        _RECIPE: json.dumps(recipe.resolved(), sort_keys=True, separators=(",", ":")),
        _RUN: json.dumps(_said(environment, read or DataOptions(), held_back), sort_keys=True, separators=(",", ":")),
        **{PREFIX + step.name: step.tag for step in recipe.steps},
    }
    put(model, entries)


def put(model: Model, entries: Mapping[str, str]) -> None:
    """Give a model these entries of provenance, in place of those that it has."""
    proto = model.proto
    kept = [(p.key, p.value) for p in proto.metadata_props if not p.key.startswith(PREFIX)]
    del proto.metadata_props[:]
    for key, value in (*kept, *entries.items()):
        proto.metadata_props.add(key=key, value=value)


def digest(data: Dataset) -> str:
    """A hash of every array of every call, whatever files they come from."""
    return cache.key_of("data", data, versions=False)[:_DIGEST]


def _said(environment: Environment, read: DataOptions, held_back: int) -> dict[str, Any]:
    """What a result depends on besides recipe and seed; what is as ever is left out."""
    known = versions()
    said: dict[str, Any] = {
        "input": environment.identity,
        "isa": environment.isa,
        **{name: version for name, version in known.items() if name != "onnxcompress"},
    }
    if held_back:
        said["held_back"] = held_back
    for name in ("fast_forms", "chains", "noise_limit", "max_memory"):
        if getattr(environment, name) != getattr(_FREE, name):
            said[name] = getattr(environment, name)
    if environment.data is None:
        said["run"] = False
    elif environment.real:
        if "digest" not in environment.memory:  # the same for all attempts of a run
            environment.memory["digest"] = digest(environment.data)
        said["data"] = environment.memory["digest"]
        given = {name: getattr(read, name) for name in _READ}
        said["read"] = {n: v for n, v in given.items() if v != getattr(DataOptions(), n)}
    if environment.student is not None:
        said["student"] = model_facts(environment.student).sha256
    if environment.tuned:
        said["costs"] = packed(environment.tuned)
    return said


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
        entries: the metadata as they are written.
        recipe: with every option.
        seed: of everything random.
        versions: of the tool and the libraries.
        isa: the kind of processor that forms were chosen for.
        input: SHA-256 of the original with its external data.
        data: `digest` of the calibration data; None where there were none.
        run: whether the original was run at all, on data or on synthetic inputs.
    """

    entries: Mapping[str, str]
    recipe: Recipe
    seed: int
    versions: Mapping[str, str]
    isa: IsaClass
    input: str
    data: str | None
    run: bool
    _said: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model) -> Origin:
        """What a model says.

        Raises:
            ModelError: it says nothing, or nothing that can be gone by.
        """
        entries = {p.key: p.value for p in model.proto.metadata_props if p.key.startswith(PREFIX)}
        missing = [key for key in (_VERSION, _SEED, _RECIPE, _RUN) if key not in entries]
        if missing:
            raise ModelError(
                f"{model.path} has no provenance: {missing[0]} is not in its metadata",
                "Give a result of this tool as it was written; earlier versions did not record all of it.",
            )
        try:
            said = json.loads(entries[_RUN])
            made_by = {name: str(said[name]) for name in ("onnx", "onnxruntime", "numpy")}
            recipe = Recipe.from_resolved(json.loads(entries[_RECIPE]), "the recipe in it")
            return cls(
                entries, recipe, int(entries[_SEED]), {"onnxcompress": entries[_VERSION], **made_by},
                cast("IsaClass", str(said["isa"])), str(said["input"]), said.get("data"),
                bool(said.get("run", True)), said,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OnnxCompressError) as error:
            raise ModelError(
                f"the provenance of {model.path} cannot be read: {error}",
                f"It was written by version {entries[_VERSION]}; use that one.",
            ) from error

    def read(self, base: DataOptions) -> DataOptions:
        """How the data were read; what a path says (of a tokenizer) is that of ``base``."""
        said = {n: tuple(v) if isinstance(v, list) else v for n, v in self._said.get("read", {}).items()}
        known: dict[str, Any] = {name: value for name, value in said.items() if name in _READ}
        return dataclasses.replace(base, **known)

    @property
    def held_back(self) -> int:
        """Calls of the data that were not calibrated on."""
        return int(self._said.get("held_back", 0))

    def environment(self, data: Dataset | None, threads: int | None, progress: Progress) -> Environment:
        """The environment of the run that made it; what was measured then is not measured again."""
        said = self._said
        return Environment(
            data, threads, self.seed, bool(said.get("fast_forms", True)), progress,
            noise_limit=float(said.get("noise_limit", _FREE.noise_limit)), chains=bool(said.get("chains", True)),
            max_memory=int(said.get("max_memory", _FREE.max_memory)), isa=self.isa,
            tuned=parse_packed(said.get("costs", {})),
        )  # fmt: skip

    def elsewhere(self) -> list[str]:
        """What is other here than where it was made, each in a few words."""
        here = versions()
        found = [f"{n} {v} then, {here.get(n)} now" for n, v in self.versions.items() if here.get(n) != v]
        if self.isa != isa_class():
            found.append(f"a processor of the kind {self.isa} then, {isa_class()} now")
        return found
