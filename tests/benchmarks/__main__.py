"""Run the benchmarks named, or all of them, one after the other."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import sys
from pathlib import Path

from tests.benchmarks.settings import Settings

NAMES = (
    "start",
    "overhead",
    "large",
    "kills",
    "corpus",
    "calibrated",
    "pruned",
    "recipes",
    "rounding",
    "solving",
    "watching",
    "copies",
    "page",
    "gradients",
)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--models", default="", help="real models to take, by commas")
    parser.add_argument(
        "--rounds",
        type=int,
        help="how often what is compared runs (start, large, overhead, gradients), or is killed",
    )
    parser.add_argument("--items", type=int, help="items of the evaluation data; by default as the script has it")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each latency of a real model")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the large model")
    parser.add_argument("--corpus-script", type=Path, help="corpus.py; by default $ONNX_CORPUS_SCRIPT")
    given = vars(parser.parse_args())
    names = given.pop("names") or list(NAMES)
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    given["models"] = tuple(filter(None, given["models"].split(",")))
    settings = Settings(**given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that temporary folders are removed
    print(f"{platform.machine()}, {os.cpu_count()} cores; all numbers are ratios unless a unit is named")
    for name in names:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        load = f"{os.getloadavg()[0]:.1f}"
        print(f"\n== {module.TITLE}\nexpected: {module.TARGET} (load before: {load})\n", flush=True)
        module.measure(settings)


if __name__ == "__main__":
    main()
