"""A compression done again from what its result says of its making, and the two results compared byte for byte.

What was chosen by measuring is not measured again: which of the attempts was kept, how far a step that was left open
went, and what forms cost where they were tuned stand in the provenance. No statistics of an earlier run are read.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxcompress import inputs, pipeline, provenance
from onnxcompress.data.options import DataOptions
from onnxcompress.errors import DataError, ModelError, UsageError
from onnxcompress.graph import writer
from onnxcompress.graph.difference import first_difference
from onnxcompress.graph.model import Model
from onnxcompress.progress import Progress, Silent
from onnxcompress.provenance import Origin
from onnxcompress.runtime.blas import on_one_thread
from onnxcompress.verify.facts import model_facts, model_files

if TYPE_CHECKING:
    from onnxcompress.data.dataset import Dataset
    from onnxcompress.runtime.session import Device

_DATA_NAME = re.compile(r"\.[0-9a-f]{16}\.data$")
_ELSEWHERE = "nodes of the main graph and stored tensors are the same, the rest of the file is not"
_SHOWN = 12  # hex digits of a hash in a sentence


@dataclass(frozen=True)
class ReproduceOptions:
    """What a model does not say of its making: where the calibration data and the tokenizer are."""

    data: Path | None = None
    tokenizer: Path | None = None
    threads: int | None = None
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True)
class Reproduced:
    """What came of it.

    Attributes:
        identical: whether all bytes are the same.
        difference: the first one, None where there is none.
        elsewhere: versions and kind of processor that are others than they were.
        sha256: of the given result and of the one made now, each with external data.
        recipe: what was done.
    """

    identical: bool
    difference: str | None
    elsewhere: tuple[str, ...]
    sha256: tuple[str, str]
    recipe: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"schema_version": 1, **asdict(self)}


@dataclass(frozen=True)
class _Inputs:
    """The options of `inputs.find`."""

    data: Path | None
    data_options: DataOptions
    threads: int | None
    seed: int
    device: Device = "cpu"


@on_one_thread
def reproduce(output: Path, original: Path, options: ReproduceOptions | None = None) -> Reproduced:
    """Make a result again and compare.

    Args:
        output: a result of this tool; it is not changed.
        original: the model that it was made of.
        options: the rest.

    Raises:
        UsageError: a path does not exist, or data are given or missing against what the result says.
        ModelError: the result says nothing of its making, or the original is another one.
        DataError: the data are others.
        RuntimeFailure: the machine could not do it.
    """
    options = options or ReproduceOptions()
    made, source = Model.open(output), Model.open(original)
    origin = Origin.of(made)
    _require_original(origin, source)
    data = _data(origin, source, options)
    environment = origin.environment(data, options.threads, options.progress)
    model, _ = pipeline.run(source.copy(), origin.recipe.steps, environment)
    model = model.copy()
    provenance.put(model, origin.entries)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / output.name
        options.progress.start("writing", sum(model.nbytes(t) for t in model.tensors() if not model.has_data(t)))
        writer.save(model, path, told=options.progress.advance, durable=False, stem=_stem(made))
        options.progress.finish()
        again = Model.open(path)
        hashes = (model_facts(made).sha256, model_facts(again).sha256)
        same = hashes[0] == hashes[1]
        difference = None if same else first_difference(made, again) or _ELSEWHERE
        return Reproduced(same, difference, tuple(origin.elsewhere()), hashes, origin.recipe.resolved())


def _require_original(origin: Origin, source: Model) -> None:
    found = model_facts(source).sha256
    if found != origin.input:
        raise ModelError(
            f"{source.path} is not what the result was made of: its SHA-256 is {found[:_SHOWN]}..., "
            f"that of the original was {origin.input[:_SHOWN]}...",
            "Give the very file with --from.",
        )


def _data(origin: Origin, source: Model, options: ReproduceOptions) -> Dataset | None:
    """The inputs that the run had.

    Raises:
        UsageError: there are none where they are needed, or the other way round.
        DataError: they are others.
    """
    if origin.data is None and options.data is not None:
        raise UsageError("the result was made without data", "Leave out --data.")
    if origin.data is not None and options.data is None:
        raise UsageError("the result was made with calibration data", "Give the same ones with --data.")
    read = origin.read(replace(DataOptions(), tokenizer=options.tokenizer))
    asked = _Inputs(options.data, read, options.threads, origin.seed)
    data, notes = inputs.find(source, asked, run=origin.run)
    if origin.run and data is None:
        raise ModelError(f"the original ran then and does not now: {notes[-1]}", "Use the versions of then.")
    if data is not None and origin.held_back:
        data = data.parted(origin.held_back)[0]
    if origin.data is not None and data is not None:
        found = provenance.digest(data)
        if found != origin.data:
            raise DataError(
                f"the data are not those that the result was made with: as read now their hash is {found[:_SHOWN]}..., "
                f"it was {origin.data[:_SHOWN]}...",
                "Give the same files in the same order, and the same --tokenizer.",
            )
    return data


def _stem(made: Model) -> str | None:
    """How the file of the external data was called before its hash; None where there is none."""
    names = [p.name for p in model_files(made)[1:]]
    return _DATA_NAME.sub("", names[0]) if names else None
