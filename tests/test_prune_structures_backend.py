"""Models of ONNX's backend tests without some channels: smaller and running, or left with a reason in one sentence."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest

from onnxcompress.data.dataset import Dataset
from onnxcompress.errors import DataError, ModelError, RuntimeFailure
from onnxcompress.graph import writer
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model
from onnxcompress.guards import findings
from onnxcompress.passes import takeover
from onnxcompress.passes.base import Context
from onnxcompress.passes.structures import Structures
from onnxcompress.runtime.session import Session
from onnxcompress.stats.probe import Probe
from tests.backend_models import KINDS, Example, examples
from tests.backend_variants import LIGHT, SIDES, Side, embedded, filled, frozen, light, opened, stored
from tests.small_models import check_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Structure = Literal["channels", "all"]
RATIO = 0.25
SMALL = ("shufflenet",)  # takes two seconds
TOO_LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")  # hundreds of megabytes of weights
WAYS: tuple[tuple[Side, bool], ...] = tuple((side, every) for every in (False, True) for side in SIDES)
NOTHING = "no structure of the model can be removed: "
# one of so many models between layers becomes smaller, at least; the simple ones are those of sequences
PARTS = {"node": 6, "simple": 20, "pytorch-converted": 6, "pytorch-operator": 6}
UNREAD = f"{NOTHING}it has no layers with stored weights"


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of channels may stay: axes of these models are shorter than sixteen."""
    monkeypatch.setattr(takeover, "UNIT", 1)


# ------------------------------------------------------------------------- what becomes of a model


def outcome(example: Example, folder: Path, structure: Structure = "channels", *, data: bool = False) -> str | None:
    """Why a model is left as it is; None where it is smaller and holds everything that was promised."""
    path = folder / "model.onnx"
    path.write_bytes(example.model)
    model = Model.open(path)
    probe = Probe(Dataset("here", 3, lambda _: dict(example.feeds)), threads=1) if data else None
    try:
        result = Structures(structure, RATIO).rewrite(model, Context(probe=probe))
    except (ModelError, DataError) as error:
        return refused(example, error, data=data)
    assert not list(findings(interface(model.proto), result.model)), example.name
    assert any(r.status == "done" and r.bytes_after < r.bytes_before for r in result.layers), example.name
    assert all(r.reason for r in result.layers if r.status == "skipped"), example.name
    target = folder / "made.onnx"
    writer.save(result.model, target, durable=False)
    assert target.stat().st_size < path.stat().st_size + 64 * len(result.layers), example.name
    before = ran(path, example)
    if before is None:  # that ONNX Runtime lacks an operator says nothing of the pass
        onnx.checker.check_model(target)
    else:
        assert ran(target, example) == before, example.name
    return None


def refused(example: Example, error: ModelError | DataError, *, data: bool) -> str:
    """The reason, one that was found before anything was removed: any other is a result that is wrong."""
    check_words(error)
    assert error.message.startswith(NOTHING) or (data and isinstance(error, DataError)), (example.name, error)
    return error.message


def ran(path: Path, example: Example) -> dict[str, Any] | None:
    """Shapes and types of outputs by name; None where the model does not run."""
    try:
        return {name: kind(value) for name, value in Session(path, threads=1).run(example.feeds).items()}
    except RuntimeFailure:
        return None


def kind(value: Any) -> Any:
    """Shape and type of an output, of each element of a sequence."""
    return [kind(v) for v in value] if isinstance(value, list) else (np.shape(value), np.asarray(value).dtype)


# ------------------------------------------------------------------------- models


def unlike(models: Iterable[Example]) -> Iterator[Example]:
    """The first model of each combination of operators."""
    seen = set()
    for model in models:
        operators = frozenset((n.domain, n.op_type) for n in onnx.load_from_string(model.model).graph.node)
        if operators not in seen:
            seen.add(operators)
            yield model


@cache
def single_nodes() -> tuple[Example, ...]:
    """A model of each operator, none of those that spell one out in others."""
    return tuple(unlike(e for e in examples("node") if "expanded" not in e.name))


def some_ways(models: Iterable[Example]) -> Iterator[Example]:
    """Models between layers of two kinds, that make one input, or, by turns, all of them."""
    for number, model in enumerate(models):
        for side in (SIDES[number % 3], SIDES[(number + 1) % 3]):
            made = (number % 2 and embedded(model, side, every=True)) or embedded(model, side, every=False)
            if made:
                yield made


def every_way(models: Iterable[Example]) -> Iterator[Example]:
    """Each model with stored weights in every way there is."""
    for model in models:
        ways = [stored(model), *(embedded(model, side, every=every) for side, every in WAYS)]
        yield from (made for made in ways if made is not None)


def fitting(model: Example) -> Structure:
    """What a model between layers of one kind has: convolutions have channels."""
    return "channels" if "-channels" in model.name else "all"


# ------------------------------------------------------------------------- tests


@pytest.mark.parametrize("kind", ["simple", "pytorch-converted", "pytorch-operator"])
def test_as_they_come(kind: str, tmp_path: Path) -> None:
    models = [Example(e.name, frozen(e.model), e.feeds, e.exact) for e in examples(kind)]
    reasons = Counter(outcome(m, tmp_path, s) for m in models for s in ("channels", "all"))
    assert reasons.total() == 2 * len(models) > 40
    # none has two layers
    assert set(reasons) <= {UNREAD, f"{NOTHING}the channels are those of an output of the model"}
    assert (len(reasons) == 2) is (kind != "simple")


def test_an_operator_alone(tmp_path: Path) -> None:
    reasons = Counter(outcome(stored(model) or model, tmp_path) for model in single_nodes())
    assert reasons.total() > 150
    assert {UNREAD, f"{NOTHING}the channels are those of an output of the model"} <= set(reasons)
    assert None not in reasons  # a single layer has no reader


@pytest.mark.usefixtures("single")
def test_an_operator_between_layers(tmp_path: Path) -> None:
    reasons = Counter(outcome(made, tmp_path, fitting(made)) for made in some_ways(single_nodes()))
    assert UNREAD not in reasons
    assert reasons[None] > 100
    assert reasons.total() - reasons[None] > 50
    assert f"{NOTHING}Attention has no rule" in {str(r).partition(";")[0] for r in reasons}


@pytest.mark.parametrize("name", SMALL)
def test_a_network(name: str, tmp_path: Path) -> None:
    network = light(name)
    assert outcome(network, tmp_path) == UNREAD
    assert outcome(filled(network), tmp_path) is None


# ------------------------------------------------------------------------- all of them


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("single")
def test_all(kind: str, tmp_path: Path) -> None:
    models = [Example(e.name, frozen(e.model), e.feeds, e.exact) for e in examples(kind)]
    assert None not in {outcome(model, tmp_path) for model in models}
    reasons = Counter(outcome(made, tmp_path, fitting(made)) for made in every_way(models))
    assert reasons.total() > len(models)
    assert reasons[None] >= reasons.total() // PARTS[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("single")
def test_all_with_data_and_open_axes(kind: str, tmp_path: Path) -> None:
    models = [opened(made) for made in every_way(unlike(examples(kind)))]
    reasons = Counter(outcome(made, tmp_path, "all", data=True) for made in models)
    assert reasons[None] >= reasons.total() // PARTS[kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LIGHT if name not in (*SMALL, *TOO_LARGE)])
def test_all_networks(name: str, tmp_path: Path) -> None:
    network = light(name)
    assert outcome(network, tmp_path) == UNREAD
    assert outcome(filled(network), tmp_path) is None
