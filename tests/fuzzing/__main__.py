"""Run damaged models for some time or number of cases, or saved ones again."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzzing.cases import Case, Source
from tests.fuzzing.seeds import seeds
from tests.fuzzing.tally import Tally
from tests.fuzzing.verbs import LOAD, VERBS
from tests.fuzzing.worker import Cases, run

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCH = 2000  # cases of one process: what leaks in it is gone then
_FOLDER = Path(__file__).parents[2] / "build" / "fuzz"


def main() -> int:
    """Parse the command line, run, print; 1 where there was a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="inputs that were saved, named VERB-….onnx")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="how many at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--verbs", type=float, default=0.02, help="fraction of cases that are whole verbs")
    parser.add_argument("--few", action="store_true", help="fewer models to start from, which are there at once")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where inputs of findings are saved")
    given = parser.parse_args()
    case: Callable[[int], Case]
    if given.files:
        saved = [Case(_verb(path), path.read_bytes(), ()) for path in given.files]
        case, start, stop = saved.__getitem__, 0, len(saved)
    else:
        source = Source(seeds(few=given.few), given.seed, given.verbs)
        case, start, stop = source.case, given.start, min(sys.maxsize, given.start + given.cases)
    tally, started = Tally(given.folder), time.monotonic()
    _through(case, Cases(case, start, stop, started + given.seconds), tally, given.seed)
    print("\n".join(tally.lines(time.monotonic() - started)))
    return int(tally.failed)


def _verb(path: Path) -> str:
    """The verb at the start of a file's name."""
    return max((verb for verb in (LOAD, *VERBS) if path.name.startswith(f"{verb}-")), key=len)


def _through(case: Callable[[int], Case], cases: Cases, tally: Tally, seed: int) -> None:
    """All cases, in one process after the other."""
    number = cases.start
    while number < cases.stop and time.monotonic() < cases.deadline:
        batch = Cases(case, number, min(cases.stop, number + _BATCH), cases.deadline)
        for at, outcome in run(batch):
            tally.add(f"{seed}-{at}", case(at), outcome)
            number = at + 1


if __name__ == "__main__":
    sys.exit(main())
