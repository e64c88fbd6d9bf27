"""The best that other tools give, model by model, and what that asks of ours.

Measured in 2026-11 with ONNX Runtime 1.31.1 on two cores with AVX512-VNNI, each peer at the best of up to
twenty settings. Latency is compressed over original, at one and two threads. Where a peer was measured on
another model of the same kind, `same` is false.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """One tool on one model. The last fields are the bar for fidelity, where it can be compared with ours."""

    kind: str
    name: str
    bytes_ratio: float
    quality: str
    latency: tuple[float, float] | None = None
    same: bool = True
    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    drop: float | None = None  # of the task metric


PEERS: dict[str, tuple[Peer, ...]] = {
    "mnist-cnn": (
        Peer("best", "ORT static U8S8", 1 / 3.0, "acc .9785 to .9780", (1 / 1.8, 1 / 1.4), False, drop=0.0005),
    ),
    "efficientnet-lite0": (
        Peer("small", "shrink-ray", 1 / 3.5, "agrees .97", (1.0, 1.0), sqnr_db=28.6, agreement=0.97),
        Peer("fast", "ORT static", 1 / 3.6, "agrees .90", (1 / 1.8, 1 / 1.6), sqnr_db=17.0, agreement=0.90),
    ),
    "ppocrv4-rec": (
        Peer("small", "ORT MatMul only", 1 / 1.4, "exact .965 to .965", (1.0, 1.0), drop=0.0),
        Peer("fast", "ORT static", 1 / 3.5, "exact .965 to .950", (1 / 1.5, 1 / 1.4), drop=0.015),
    ),
    "minilm-l3": (
        Peer("small", "shrink-ray", 1 / 3.9, "", (1.0, 1.0), False, sqnr_db=31.0, cosine=0.9996),
        Peer("fast", "ORT dynamic", 1 / 3.9, "", (1 / 2.4, 1 / 2.1), False, sqnr_db=18.0, cosine=0.9927),
    ),
    "ddddocr-det": (
        Peer("small", "shrink-ray", 1 / 3.4, "detections agree .988", (1.0, 1.0), False, drop=0.012),
        Peer("fast", "ORT static", 1 / 3.6, "detections agree .915", (1 / 2.2, 1 / 1.8), False, drop=0.085),
    ),
    "smollm2-135m-instruct": (Peer("small", "ORT 8 bit", 225 / 517, "next token agrees .97", None, agreement=0.97),),
}


def bar(model: str) -> Peer | None:
    """The peer whose fidelity is to be reached: the best of the small ones."""
    return next(iter(PEERS.get(model, ())), None)
