"""Steps run in order on a copy of the model; each is guarded and recorded, and a pass that breaks it is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxcompress.data.synthetic import synthetic
from onnxcompress.errors import OnnxCompressError
from onnxcompress.graph import writer
from onnxcompress.graph.edit import Edit, NewTensor
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.base import Context, Planned, Rewritten, Skip
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.simplify import Simplify
from onnxcompress.pipeline import Environment, Ran, run
from onnxcompress.report import LayerRecord
from tests.small_models import check_words, normal, opened, operators, outputs, proto, sqnr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.model import Model

TEXT = "g (float[5, 64] x) => (float[5, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
RECORD = LayerRecord("w", "MatMul", "done", None, "decode", 8, 100, 50)


def model(folder: Path, text: str = TEXT, **options: Any) -> Model:
    return opened(proto(text, {"first": normal(64, 48), "second": normal(48, 32)}, **options), folder)


@dataclass(frozen=True)
class Planning:
    """A pass that plans an edit of the main graph."""

    name: ClassVar[str] = "planning"
    tag: ClassVar[str] = "planned"
    tensors: tuple[NewTensor, ...] = ()
    prelude: tuple[onnx.NodeProto, ...] = ()
    dropped: tuple[str, ...] = ()

    def wanted_opset(self, model: Model, *, real: bool) -> int:  # noqa: ARG002
        return 1

    def prepared(self, model: Model, *_: object) -> tuple[Model, tuple[str, ...]]:
        return model, ()

    def watched(self, model: Model) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def measured(self, model: Model, observed: object) -> tuple[tuple[int, int, int], ...]:  # noqa: ARG002
        return ()

    def trials(self, model: Model, context: Context) -> dict[str, Callable[[], np.ndarray]]:  # noqa: ARG002
        return {}

    def plan(self, model: Model, context: Context) -> Iterator[Planned | Skip]:  # noqa: ARG002
        edit = Edit(Scopes(model.proto).main, self.tensors, self.prelude, dropped=self.dropped)
        yield Planned(RECORD, edit, lambda: 0.25)


@dataclass(frozen=True)
class Rewriting:
    """A pass that returns whatever model it was given."""

    result: Model
    name: ClassVar[str] = "rewriting"
    tag: ClassVar[str] = "rewritten"

    def rewrite(self, model: Model, context: Context) -> Rewritten:  # noqa: ARG002
        return Rewritten(self.result, ("a note",), (RECORD,))


def test_steps_run_in_order_and_each_is_recorded(tmp_path: Path) -> None:
    made, ran = run(
        model(tmp_path), [Simplify(), Quantize(include=("first",)), Quantize(requantize=True, bits=4)], Environment()
    )
    assert [r.step.name for r in ran] == ["simplify", "quantize", "quantize"]
    writer.save(made, tmp_path / "out.onnx")
    records = [{layer.name: layer for layer in r.record().layers} for r in ran]
    assert (records[1]["first"].status, records[1]["first"].bits) == ("done", 8)
    assert (records[2]["second"].status, records[2]["second"].bits) == ("done", 4)
    assert ran[1].record().options["include"] == ("first",)
    assert all(r.seconds >= 0 for r in ran)
    feeds = {"x": normal(5, 64)}
    assert sqnr(outputs(tmp_path / "model.onnx", feeds)["y"], outputs(tmp_path / "out.onnx", feeds)["y"]) > 15


def test_errors_are_known_once_weights_were_written(tmp_path: Path) -> None:
    made, ran = run(model(tmp_path), [Quantize()], Environment())
    writer.save(made, tmp_path / "out.onnx")
    assert all(layer.error is not None and 0 < layer.error < 1e-3 for layer in ran[0].record().layers)


def test_the_given_model_is_not_changed(tmp_path: Path) -> None:
    source = model(tmp_path)
    before = writer.to_bytes(source)
    made, _ = run(source, [Simplify(), Quantize()], Environment())
    assert writer.to_bytes(source) == before
    assert writer.to_bytes(made) != before


def test_no_steps_change_nothing(tmp_path: Path) -> None:
    source = model(tmp_path)
    made, ran = run(source, [], Environment())
    assert ran == []
    assert writer.to_bytes(made) == writer.to_bytes(source)


def _renamed(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "z"


def _undefined(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].input[0] = "nowhere"


def _shorter(proto: onnx.ModelProto) -> None:
    del proto.graph.input[:]


def _other_type(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def _unordered(proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _unknown_domain(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].domain = "mine"


@pytest.mark.parametrize("fault", [_renamed, _undefined, _shorter, _other_type, _unordered, _unknown_domain])
def test_a_pass_that_breaks_the_model_is_named(tmp_path: Path, fault: Any) -> None:
    broken = model(tmp_path).copy()
    fault(broken.proto)
    with pytest.raises(OnnxCompressError, match="'rewriting'") as caught:
        run(model(tmp_path), [Rewriting(broken)], Environment())
    check_words(caught.value)


def test_a_plan_that_loses_a_weight_is_caught(tmp_path: Path) -> None:
    with pytest.raises(OnnxCompressError, match="'planning'"):
        run(model(tmp_path), [Planning(dropped=("first",))], Environment())


def test_an_edit_of_a_planning_pass_is_carried_out_and_recorded(tmp_path: Path) -> None:
    source = model(tmp_path)
    half = NewTensor("half", TensorProto.FLOAT, (64, 48), lambda: normal(64, 48) / 2)
    step = Planning((half,), (helper.make_node("Add", ["half", "half"], ["first"]),), ("first",))
    made, ran = run(source, [step], Environment())
    assert operators(made.proto) == {"Add": 1, "MatMul": 2, "Relu": 1}
    assert [layer.error for layer in ran[0].record().layers] == [0.25]
    feeds = {"x": normal(5, 64)}
    expected, given = outputs(writer.to_bytes(source), feeds)["y"], outputs(writer.to_bytes(made), feeds)["y"]
    np.testing.assert_array_equal(given, expected)


def test_notes_and_layers_of_a_rewriting_pass_are_recorded(tmp_path: Path) -> None:
    source = model(tmp_path)
    _, (ran,) = run(source, [Rewriting(source.copy())], Environment())
    assert isinstance(ran, Ran)
    assert ran.record().notes == ("a note",)
    assert ran.record().layers == (RECORD,)


# ------------------------------------------------------------------------- operator sets and data


def data(source: Model) -> Dataset:
    return synthetic(source, calls=2, seed=0)


@pytest.mark.parametrize(("opset", "after"), [(9, 11), (11, 11), (17, 17)])
def test_the_opset_is_raised_when_a_form_needs_it(tmp_path: Path, opset: int, after: int) -> None:
    source = model(tmp_path, opset=opset)
    made, (ran,) = run(source, [Quantize(scheme="dynamic")], Environment(data(source)))
    assert (source.opset, made.opset) == (opset, after)
    assert operators(made.proto)["MatMulInteger"] > 0
    assert any("raised from 9 to 11" in note for note in ran.notes) == (opset < 11)


def test_where_it_cannot_be_raised_forms_of_the_old_opset_are_taken(tmp_path: Path) -> None:
    text = TEXT.replace("r = Relu(h)", "r = local.f(h)")
    text += '<domain: "local", opset_import: ["": 9]> f (p) => (q) { q = Relu(p) }'
    source = model(tmp_path, text, opset=9)
    made, (ran,) = run(source, [Quantize(scheme="dynamic")], Environment(data(source)))
    assert made.opset == 9
    assert any("left at 9" in note for note in ran.notes)
    assert {o.record.form for o in ran.outcomes} == {"decode"}
    feeds = {"x": normal(5, 64)}
    assert sqnr(outputs(writer.to_bytes(source), feeds)["y"], outputs(writer.to_bytes(made), feeds)["y"]) > 36


def test_without_data_it_is_said_that_the_model_was_not_run(tmp_path: Path) -> None:
    _, (ran,) = run(model(tmp_path), [Quantize()], Environment())
    assert any("not run" in note for note in ran.notes)
    assert {o.record.form for o in ran.outcomes} <= {"decode", "float16"}


@pytest.mark.parametrize("scheme", ["auto", "dynamic", "weight-only"])
def test_without_fast_forms_every_weight_is_decoded(tmp_path: Path, scheme: Any) -> None:
    source = model(tmp_path)
    _, (ran,) = run(source, [Quantize(scheme=scheme)], Environment(data(source), fast_forms=False))
    assert {o.record.form for o in ran.outcomes} <= {"decode", "float16"}


def test_progress_is_told_of_each_step(tmp_path: Path) -> None:
    heard: list[str] = []

    class Heard:
        def start(self, task: str, total: int | None = None) -> None:
            assert total is None or total >= 0
            heard.append(task)

        def advance(self, item: str, amount: int = 1) -> None:
            assert item
            assert amount >= 0

        def finish(self) -> None:
            heard.append("finished")

    run(model(tmp_path), [Simplify(), Quantize()], Environment(progress=Heard()))
    assert heard[0] == "simplify"
    assert "quantize" in heard
    assert heard[-1] == "finished"
