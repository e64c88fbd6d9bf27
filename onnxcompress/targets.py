"""Where a result goes, checked before any work is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from onnxcompress.errors import UsageError
from onnxcompress.graph.model import Model
from onnxcompress.verify.facts import model_files


class Paths(Protocol):
    """The options that say where things lie."""

    @property
    def output(self) -> Path | None:
        """The file to write."""

    @property
    def data(self) -> Path | None:
        """Calibration data."""

    @property
    def eval_data(self) -> Path | None:
        """Data to judge the result on."""

    @property
    def force(self) -> bool:
        """Whether a file that is there may be replaced."""

    @property
    def dry_run(self) -> bool:
        """Whether nothing is written."""


def target_of(path: Path, tag: str, options: Paths, *others: Path) -> Path:
    """Where the result goes, checked before any work is done; ``others`` are models that are read as well.

    Raises:
        UsageError: the target is the input, exists, or lies in no folder that can be written to.
    """
    target = options.output or path.with_name(f"{path.stem}.{tag}.onnx")
    if target.exists() and not target.is_file():
        raise UsageError(f"the output {target} is no ordinary file", "Give a file name with -o.")
    used = {file.resolve() for each in (path, *others) for file in (each, *model_files(Model.open(each)))}
    if target.exists() and target.resolve() in used:
        raise UsageError("the output is the input", "Give another name with -o; the input is never changed.")
    given = {path.resolve() for path in (options.data, options.eval_data) if path is not None}
    if given & {target.resolve(), *target.resolve().parents}:
        raise UsageError(f"the output {target} would lie in the data", "Give another name or folder with -o.")
    if options.dry_run:
        return target
    if target.exists() and not options.force:
        raise UsageError(f"{target} exists", "Choose another name with -o, or overwrite it with --force.")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist", "Make it, or choose another one with -o.")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"the folder {target.parent} cannot be written to", "Choose another one with -o.")
    return target
