"""What the benchmarks are told on the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import ROOT


@dataclass(frozen=True)
class Settings:
    """Options of a run; None leaves a choice to the benchmark."""

    models: tuple[str, ...] = ()
    rounds: int | None = None
    items: int | None = None
    seconds: float = 6.0
    gigabytes: float = 1.0
    corpus_script: Path | None = None

    @property
    def script(self) -> Path:
        """The script that scores the real models."""
        default = ROOT.parent / "shared" / "corpus" / "corpus.py"
        return self.corpus_script or Path(os.environ.get("ONNX_CORPUS_SCRIPT", default))

    @property
    def corpus(self) -> Path:
        """The folder with a folder for each real model."""
        cache = os.environ.get("ONNX_CORPUS")
        return (Path(cache) if cache else Path.home() / ".cache" / "onnx-corpus") / "models"

    @property
    def can_score(self) -> bool:
        """Whether real models and the script that scores them are there; says so where they are not."""
        if self.script.is_file() and self.real_models():
            return True
        print("left out: the script that scores real models, or the models, are not there")
        return False

    def real_models(self) -> list[str]:
        """The real models that are there, those asked for if any were."""
        there = sorted(p.parent.name for p in self.corpus.glob("*/model.onnx"))
        return [name for name in there if not self.models or name in self.models]
