"""The damage at a layer's own output, told without running the model once more.

With the Gram matrix H = E[x xᵀ] of what a layer sees, and the rounded weight Ŵ in place of W,

    e = tr((W − Ŵ) H (W − Ŵ)ᵀ) / tr(W H Wᵀ)

is the noise-to-signal ratio of what the layer hands on. A layer that sees nothing but zeros hands on no noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.rows import rows_of

if TYPE_CHECKING:
    from onnxcompress.search.candidates import Candidate, Rounded
    from onnxcompress.stats.archive import Archive

_ROWS = 4096  # outputs of a layer from which its error is told; a few of them often make most of it


def local_error(candidate: Candidate, rounded: Rounded, archive: Archive) -> float | None:
    """Noise-to-signal ratio at the worst reader of a weight whose input is known; None where none is.

    Raises:
        ModelError: the weight is not finite.
    """
    writing = candidate.draft.writing
    errors = []
    for leaf in candidate.weight.leaves:
        layer = str(leaf.use.node.output[0]) if leaf.use.node is not None else ""
        rows = rows_of(writing, leaf) if layer in archive else None
        if rows is None:
            continue
        H = archive.gram(layer).matrix
        if rows.inputs != H.shape[-1]:
            continue
        values = rounded(candidate)
        W, W_hat = rows.matrix(writing.values()), rows.matrix(values.T if writing.flipped else values)
        step = -(-len(W) // _ROWS) if H.ndim == 2 else 1
        errors.append(_ratio(W[::step], W_hat[::step], H))
    return max(errors, default=None)


def _ratio(W: np.ndarray, W_hat: np.ndarray, H: np.ndarray) -> float:
    """tr((W−Ŵ) H (W−Ŵ)ᵀ) / tr(W H Wᵀ), zero where nothing is seen; float32 is enough for a ranking."""
    level = float(np.diagonal(H, axis1=-2, axis2=-1).mean()) if H.size else 0.0
    if level <= 0:
        return 0.0
    H3 = (H / level).astype(np.float32).reshape(-1, *H.shape[-2:])
    both = np.stack([W - W_hat, W]).reshape(2, len(H3), -1, W.shape[1])
    noise, energy = (float(np.vdot(rows @ H3, rows)) for rows in both)
    return max(noise, 0.0) / energy if energy > 0 else 0.0


def dead(candidate: Candidate, archive: Archive) -> bool:
    """True where every layer that reads the weight was watched and saw nothing but zeros."""
    layers = [str(leaf.use.node.output[0]) if leaf.use.node is not None else "" for leaf in candidate.weight.leaves]
    return all(layer in archive and not np.any(archive.gram(layer).matrix) for layer in layers)
