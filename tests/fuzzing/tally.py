"""What came of the cases: counts, and each finding once, with its input."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzzing.cases import Case
    from tests.fuzzing.verbs import Outcome

FINDINGS = ("unexpected", "crash", "hang")
_RUNTIME = ("runtime crash", "runtime hang")  # of ONNX Runtime itself
_TOLD = ("rejected", *FINDINGS, *_RUNTIME)  # a result that was rejected is worth a look, and no finding
_KINDS = ("opened", "inspected", "written", "structure", "refused", *_TOLD)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_KEPT = 3  # inputs of one finding


@dataclass
class Tally:
    """Counts by kind and by exit code; what is told by where it happened."""

    folder: Path
    cases: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    found: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, name: str, case: Case, outcome: Outcome) -> None:
        """Count an outcome; what is told is saved as ``{verb}-{name}.onnx`` beside what was said."""
        self.cases += 1
        self.kinds[outcome.kind] += 1
        if outcome.kind == "refused":
            self.codes[outcome.detail] += 1
        if outcome.kind not in _TOLD:
            return
        place = (outcome.kind, _where(outcome.detail))
        self.seen[place] += 1
        kept = self.found.setdefault(place, [])
        if len(kept) < _KEPT:
            self.folder.mkdir(parents=True, exist_ok=True)
            kept.append(f"{case.verb}-{name}.onnx")
            (self.folder / kept[-1]).write_bytes(case.model)
            told = f"{outcome.kind}\n{case.verb}: {', '.join(case.changes)}\n\n{outcome.detail}\n"
            (self.folder / kept[-1]).with_suffix(".txt").write_text(told, encoding="utf-8")

    @property
    def failed(self) -> bool:
        """True where there was a finding that is none of ONNX Runtime's own."""
        return any(self.kinds[kind] for kind in FINDINGS)

    def lines(self, seconds: float) -> list[str]:
        """The counts and the findings as text."""
        codes = ", ".join(f"{count} with {code}" for code, count in sorted(self.codes.items()))
        told = [f"{self.cases} cases in {seconds:.0f} s, {self.cases / max(seconds, 1e-9):.0f} a second"]
        for kind in _KINDS:
            told.append(f"  {kind:<14} {self.kinds[kind]}" + (f" ({codes})" if kind == "refused" and codes else ""))
        for (kind, where), names in sorted(self.found.items()):
            told += [f"{kind}, {self.seen[kind, where]} times: {where}", f"  {self.folder / names[0]}"]
        return told


def _where(detail: str) -> str:
    """The last line of a traceback in short, and the innermost frames of the package: what makes findings alike."""
    frames = [f"{path.partition('/onnxcompress/')[2]}:{line}" for path, line in _FRAME.findall(detail)
              if "/onnxcompress/" in path and "/tests/" not in path]  # fmt: skip
    lines = detail.strip().splitlines() or [""]
    kind = lines[0] if lines[0].startswith(("SIG", "exit")) else lines[-1]
    return " ".join([kind.partition(":")[0][:80], *(frames[:2] if kind is lines[0] else frames[-2:])])
