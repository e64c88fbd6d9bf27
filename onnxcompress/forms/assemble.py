"""One edit for one weight: its tensors stored once, and for each of its readers the form chosen for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.forms import blockwise, codebook, decode, dynamic, fused, gather, migrated, sparse, split
from onnxcompress.forms.base import Codes, Reading, Writing, codes_of, edit_source
from onnxcompress.forms.product import product_of
from onnxcompress.forms.stored import Stored, store
from onnxcompress.graph.edit import Edit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnx

    from onnxcompress.forms.base import Coding
    from onnxcompress.graph.layers import Leaf

MIN_OPSETS = {
    dynamic.ONE_PASS: dynamic.MIN_OPSET,
    dynamic.TWO_PASSES: dynamic.MIN_OPSET,
    fused.NAME: fused.MIN_OPSET,
    migrated.NAME: migrated.MIN_OPSET,
    split.NAME: split.MIN_OPSET,
}


@dataclass(frozen=True)
class Assembled:
    """An edit, the bytes of the tensors that it stores, and the codes, which know their error once computed."""

    edit: Edit
    nbytes: int
    codes: Codes


def available(writing: Writing, leaf: Leaf) -> tuple[str, ...]:
    """The forms in which a reader can have this weight; ``decode`` always is one."""
    if writing.migration is not None:
        migrating = product_of(writing, leaf)
        fits = migrating is not None and migrated.fits(writing, migrating)
        return (decode.NAME, migrated.NAME) if fits else (decode.NAME,)
    names = [decode.NAME]
    if writing.codebook is not None:
        return (decode.NAME,)
    if gather.fits(writing, leaf):
        names.append(gather.NAME)
    found = product_of(writing, leaf)
    if found is not None:
        if dynamic.fits(writing, found):
            names += [dynamic.ONE_PASS, dynamic.TWO_PASSES]
            if fused.fits(writing, found):
                names.append(fused.NAME)
            if writing.outliers:
                names.append(split.NAME)
        if blockwise.block_size(writing, found) is not None:
            names.append(blockwise.name_for(writing.grid))
    return tuple(names)


def assemble(writing: Writing, scale_dtype: np.dtype, choice: Mapping[Leaf, str]) -> Assembled:
    """Write a weight such that each reader has it in the form chosen for it.

    Raises:
        ValueError: a weight with a migration is to have a form that does not divide by it.
    """
    if writing.migration is not None and not set(choice.values()) <= {migrated.NAME, decode.NAME}:
        raise ValueError(f"{writing.weight.name} has a migration, which none of {set(choice.values())} divides by")
    if writing.codebook is not None:
        return _from_codebook(writing, writing.codebook, scale_dtype)
    weight = writing.weight
    codes = codes_of(writing, scale_dtype)
    stored = store(writing, codes, scale_dtype, by_row=gather.NAME in choice.values())
    readings = [r for leaf, form in choice.items() if (r := _reading(writing, stored, leaf, form)) is not None]
    decoded = decode.NAME in choice.values()
    if decoded:
        nodes, constants = decode.decoding(writing, stored)
        readings.append(Reading(tuple(constants), tuple(nodes)))
    source = edit_source(weight)
    unread = () if decoded else _unread_chains(choice)
    edit = Edit(
        scope=weight.scope,
        tensors=(*stored.tensors, *(t for r in readings for t in r.tensors)),
        prelude=tuple(n for r in readings for n in r.prelude),
        replaced=tuple(x for r in readings for x in r.replaced),
        removed=(*source.get("removed", ()), *unread),  # type: ignore[arg-type]
        dropped=source.get("dropped", ()),  # type: ignore[arg-type]
        domains=tuple(d for r in readings for d in r.domains),
        min_opset=max((MIN_OPSETS.get(form, 1) for form in choice.values()), default=1)
        if writing.sparse is None
        else sparse.MIN_OPSET,
    )
    return Assembled(edit, stored.nbytes + sum(r.nbytes for r in readings), codes)


def _from_codebook(writing: Writing, coding: Coding, scale_dtype: np.dtype) -> Assembled:
    """The weight as places in a table, decoded for all of its readers."""
    weight = writing.weight
    codes = Codes(lambda: codebook.solved(writing, coding))
    stored = codebook.store(writing, coding, codes, scale_dtype)
    nodes, constants = codebook.decoding(writing, coding, stored)
    edit = Edit(weight.scope, (*stored.tensors, *constants), tuple(nodes), **edit_source(weight))  # type: ignore[arg-type]
    return Assembled(edit, stored.nbytes, codes)


def _reading(writing: Writing, stored: Stored, leaf: Leaf, form: str) -> Reading | None:
    """What a reader needs; None for one that reads the decoded weight under its old name."""
    if form == gather.NAME:
        return gather.lookup(writing, stored, leaf)
    found = product_of(writing, leaf)
    if form == decode.NAME or found is None:
        return None
    if form == fused.NAME:
        return fused.product_form(writing, stored, found)
    if form in (blockwise.NAME, blockwise.OTHER_GRIDS):
        return blockwise.product_form(writing, stored, found)
    if form == migrated.NAME:
        return migrated.product_form(writing, stored, found)
    if form == split.NAME:
        return split.product_form(writing, stored, found)
    return dynamic.product_form(writing, stored, found, passes=2 if form == dynamic.TWO_PASSES else 1)


def _unread_chains(choice: Mapping[Leaf, str]) -> tuple[onnx.NodeProto, ...]:
    """The nodes between the weight and its readers, which all read its codes now."""
    return tuple({id(node): node for leaf in choice for node in leaf.chain}.values())
