"""What a model says of its making: the tool, the resolved recipe and the seed, in its metadata.

No times and no paths: the same input, recipe and seed give the same bytes.
"""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING

from onnxcompress.report import Tool
from onnxcompress.version import __version__

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model
    from onnxcompress.recipe import Recipe

PREFIX = "onnxcompress."


def tool() -> Tool:
    """The versions that decide the result."""
    runtime = next((n for n in ("onnxruntime", "onnxruntime-gpu") if _installed(n)), None)
    return Tool(
        "onnxcompress",
        __version__,
        metadata.version("onnx"),
        metadata.version(runtime) if runtime else "none",
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def stamp(model: Model, recipe: Recipe, seed: int) -> None:
    """Write the provenance into the metadata of a model, in place of what an earlier run left there."""
    proto = model.proto
    kept = [p for p in proto.metadata_props if not p.key.startswith(PREFIX)]
    entries = {
        "version": __version__,
        "seed": str(seed),
        "recipe": json.dumps(recipe.resolved(), sort_keys=True),
        **{step.name: step.tag for step in recipe.steps},
    }
    pairs = [(p.key, p.value) for p in kept] + [(PREFIX + k, v) for k, v in entries.items()]
    del proto.metadata_props[:]
    for key, value in pairs:
        proto.metadata_props.add(key=key, value=value)
