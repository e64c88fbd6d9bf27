"""What ONNX Runtime changes in a model besides the graph is set back to what the author wrote.

It adds imports of operator sets, forgets names of dimensions, records the types of all values, spells out
default attributes, and drops documentation. Nodes that came through unchanged are put back word for word.
"""

from __future__ import annotations

import onnx

from onnxcompress.graph.bodies import graphs
from onnxcompress.graph.dead import used_domains
from onnxcompress.graph.scopes import Scopes

_HEAD = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")


def restore(proto: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Give a rewritten model the head, the inputs, the outputs and the unchanged nodes of the original."""
    for name in _HEAD:
        if original.HasField(name):
            setattr(proto, name, getattr(original, name))
        else:
            proto.ClearField(name)
    _replace(proto.metadata_props, original.metadata_props)
    _replace(proto.training_info, original.training_info)
    _restore_imports(proto, original)
    graph, before = proto.graph, original.graph
    graph.name, graph.doc_string = before.name, before.doc_string
    if not before.HasField("doc_string"):
        graph.ClearField("doc_string")
    _replace(graph.metadata_props, before.metadata_props)
    _restore_inputs(graph, before)
    _replace(graph.output, before.output)
    _restore_order(graph, before)
    scopes = Scopes(proto)
    _restore_types(graph, before)
    for scope, inner in graphs(scopes):
        if scope.parent is not None:
            del inner.value_info[:]
    kept = [a for a in before.quantization_annotation if a.tensor_name in scopes.main.defined]
    _replace(graph.quantization_annotation, kept)
    _restore_nodes(scopes, original)


def _replace(field: object, source: object) -> None:
    del field[:]  # type: ignore[attr-defined]
    field.extend(source)  # type: ignore[attr-defined]


def _restore_imports(proto: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """The original's imports but for functions that were inlined, and of the added ones those in use."""
    used = used_domains(proto) | {f.domain for f in proto.functions}
    inlined = {f.domain for f in original.functions} - used
    kept = [o for o in original.opset_import if o.domain not in inlined]
    known = {"" if o.domain == "ai.onnx" else o.domain for o in kept}
    added = [o for o in proto.opset_import if o.domain in used and o.domain not in known]
    _replace(proto.opset_import, [*kept, *(onnx.helper.make_opsetid(o.domain, o.version) for o in added)])


def _restore_inputs(graph: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """The original's inputs; initializers among them (old or overridable) where they still exist."""
    stored = {t.name for t in graph.initializer}
    weights = {t.name for t in before.initializer}
    _replace(graph.input, [i for i in before.input if i.name in stored or i.name not in weights])


def _restore_order(graph: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """Stored tensors in the author's order, and after them the new ones by name."""
    place = {t.name: i for i, t in enumerate(before.initializer)}
    order = sorted(graph.initializer, key=lambda t: (place.get(t.name, len(place)), t.name))
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in order]
    _replace(graph.initializer, tensors)


def _restore_types(graph: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """Of the recorded types the original's, where they are not contradicted."""
    recorded = {v.name: v.type for v in graph.value_info}
    kept = [v for v in before.value_info if v.name in recorded and _agree(v.type, recorded[v.name])]
    _replace(graph.value_info, kept)


def _agree(first: onnx.TypeProto, second: onnx.TypeProto) -> bool:
    if not (first.HasField("tensor_type") and second.HasField("tensor_type")):
        return False
    one, two = first.tensor_type, second.tensor_type
    if one.elem_type != two.elem_type or not one.HasField("shape") or not two.HasField("shape"):
        return False
    if len(one.shape.dim) != len(two.shape.dim):
        return False
    fixed = (
        (a.dim_value, b.dim_value)
        for a, b in zip(one.shape.dim, two.shape.dim, strict=True)
        if a.HasField("dim_value") and b.HasField("dim_value")
    )
    return all(a == b for a, b in fixed)


def _restore_nodes(scopes: Scopes, original: onnx.ModelProto) -> None:
    """Put back nodes that differ from the original's only in default attributes, names or documentation."""
    authored: dict[tuple[object, ...], onnx.NodeProto] = {}
    for _, graph in graphs(Scopes(original)):
        authored.update({_signature(n): n for n in graph.node if n.output})
    versions = {o.domain: o.version for o in original.opset_import}
    for _, graph in graphs(scopes):
        for node in graph.node:
            source = authored.get(_signature(node))
            if source is not None and _same_attributes(node, source, versions):
                node.CopyFrom(source)


def _signature(node: onnx.NodeProto) -> tuple[object, ...]:
    return (node.domain, node.op_type, tuple(node.input), tuple(node.output))


def _same_attributes(node: onnx.NodeProto, source: onnx.NodeProto, versions: dict[str, int]) -> bool:
    """True where a node has the attributes of the other one, and beyond them nothing but defaults."""
    wanted = {a.name: a for a in source.attribute}
    given = {a.name: a for a in node.attribute}
    if any(a.HasField("g") or len(a.graphs) for a in source.attribute) or not wanted.keys() <= given.keys():
        return False
    if any(_value(given[name]) != _value(wanted[name]) for name in wanted):
        return False
    extra = [a for name, a in given.items() if name not in wanted]
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain) if extra else None
    except onnx.defs.SchemaError:
        return False
    return schema is None or all(_is_default(a, schema) for a in extra)


def _is_default(attribute: onnx.AttributeProto, schema: onnx.defs.OpSchema) -> bool:
    known = schema.attributes.get(attribute.name)
    return known is not None and _value(known.default_value) == _value(attribute)


def _value(attribute: onnx.AttributeProto) -> bytes:
    bare = onnx.AttributeProto()
    bare.CopyFrom(attribute)
    bare.ClearField("doc_string")
    return bytes(bare.SerializeToString(deterministic=True))
