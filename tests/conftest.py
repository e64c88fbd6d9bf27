"""Tests marked `corpus` need the developers' collection of real models; they are skipped without it."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says nothing here, and a run in CI is to fail for what was changed: the same examples each
# time. `HYPOTHESIS_PROFILE=explore` draws others.
settings.register_profile("same", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

CORPUS = Path.home() / ".cache" / "onnx-corpus" / "models"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CORPUS.is_dir():
        return
    for item in items:
        if item.get_closest_marker("corpus"):
            item.add_marker(pytest.mark.skip(reason=f"{CORPUS} is not there"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Statistics that tests remember do not mix with those of whoever runs them."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["ONNXCOMPRESS_TIMING_SECONDS"] = "0.2"  # how long latency is measured matters to few tests


@pytest.fixture
def without_onnx_ad(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `train` is not installed."""
    usual = builtins.__import__

    def lacking(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnx_ad":
            raise ImportError(name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
