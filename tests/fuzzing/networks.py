"""Small networks with layers of every kind, large enough that all passes find something to do."""

from __future__ import annotations

import numpy as np

from tests.small_models import normal, proto


def _made(text: str, *, whole: dict[str, list[int]] | None = None, **shapes: tuple[int, ...]) -> bytes:
    weights = {name: normal(*shape, seed=i, scale=0.1) for i, (name, shape) in enumerate(shapes.items())}
    integers = {name: np.array(values, np.int64) for name, values in (whole or {}).items()}
    return bytes(proto(text, {**weights, **integers}).SerializeToString())


_DENSE = _made(
    """perceptron (float[N, 64] x) => (float[N, 32] y) {
        a = MatMul(x, w)
        b = Add(a, c)
        d = Relu(b)
        e = Gemm <transB = 1> (d, v, f)
        g = LayerNormalization <axis = -1> (e, s, t)
        h = Gemm(g, u)
        y = Softmax <axis = -1> (h)
    }""",
    w=(64, 128), c=(128,), v=(64, 128), f=(64,), s=(64,), t=(64,), u=(64, 32),
)  # fmt: skip

_CONVOLVED = _made(
    """convolutions (float[1, 3, 16, 16] x) => (float[1, 10] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        k = Constant <value = float {2.0}> ()
        m = Abs(v)
        b = BatchNormalization(a, s, t, mean, m)
        c = Clip(b, , k)
        d = Conv <group = 32, pads = [1, 1, 1, 1]> (c, w1)
        e = Add(c, d)
        f = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)
        g = ConvTranspose <strides = [2, 2]> (f, w2)
        h = Concat <axis = 1> (g, e)
        i = GlobalAveragePool(h)
        j = Reshape(i, shape)
        y = Gemm(j, w3, b3)
    }""",
    whole={"shape": [1, -1]},
    w0=(32, 3, 3, 3), b0=(32,), s=(32,), t=(32,), mean=(32,), v=(32,), w1=(32, 1, 3, 3), w2=(32, 16, 2, 2),
    w3=(48, 10), b3=(10,),
)  # fmt: skip

_ATTENTION = _made(
    """attention (int64[N, T] ids) => (float[N, T, 64] y) {
        x = Gather(table, ids)
        q0 = MatMul(x, wq)
        k0 = MatMul(x, wk)
        v0 = MatMul(x, wv)
        q1 = Reshape(q0, heads)
        k1 = Reshape(k0, heads)
        v1 = Reshape(v0, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (q1)
        k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v = Transpose <perm = [0, 2, 1, 3]> (v1)
        qk = MatMul(q, k)
        p = Softmax <axis = -1> (qk)
        o0 = MatMul(p, v)
        o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
        o2 = Reshape(o1, flat)
        o3 = MatMul(o2, wo)
        r = Add(x, o3)
        m0 = MatMul(r, w1)
        m1 = Erf(m0)
        m2 = MatMul(m1, w2)
        y = Add(r, m2)
    }""",
    whole={"heads": [0, 0, 4, 16], "flat": [0, 0, 64]},
    table=(100, 64), wq=(64, 64), wk=(64, 64), wv=(64, 64), wo=(64, 64), w1=(64, 128), w2=(128, 64),
)  # fmt: skip

_RECURRENT = _made(
    """recurrent (float[T, 1, 32] x, bool go) => (float[T, 1, 16] y) {
        a, h, c = LSTM <hidden_size = 32> (x, w, r, b)
        d = Squeeze(a, axis)
        e, i = GRU <hidden_size = 32> (d, w1, r1)
        f = Squeeze(e, axis)
        y = If(go) <
            then_branch = then () => (float[T, 1, 16] p) { p = MatMul(f, w2) },
            else_branch = other () => (float[T, 1, 16] q) { o = MatMul(f, w2)  q = Relu(o) }
        >
    }""",
    whole={"axis": [1]},
    w=(1, 128, 32), r=(1, 128, 32), b=(1, 256), w1=(1, 96, 32), r1=(1, 96, 32), w2=(32, 16),
)  # fmt: skip

NETWORKS = (_DENSE, _CONVOLVED, _ATTENTION, _RECURRENT)
