"""Models as text with layers whose outputs can be removed, and with layers whose outputs cannot."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np

from tests.small_models import normal, proto

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, tuple[int, ...]]
Found = list[tuple[str, int, int]]  # kind, channels and layers of each group


def model_of(text: str, shapes: Shapes, opset: int = 17) -> onnx.ModelProto:
    """A model from its text; integers stand behind a ``#``, variances are called p, truths z."""
    body, _, numbers = text.partition("#")
    weights = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    for name in {"p"} & set(weights):
        weights[name] = np.abs(weights[name]) + np.float32(0.5)
    for name, value in re.findall(r"(\w+) = (\[[^]]*\]|-?\d+)", numbers):
        weights[name] = np.asarray(json.loads(value), np.float32 if name == "scales" else np.int64)
    arrays = {name: array > 0 if name == "z" else array for name, array in weights.items()}
    return proto(body, arrays, opset=opset)


HEAD = "g (float[N, 3, 8, 8] a) => (float[] y) "
ROWS = "g (float[B, S, 12] a) => (float[] y) "

# text, shapes of weights, groups
TAKEN: dict[str, tuple[str, Shapes, Found]] = {
    "two convolutions": (
        HEAD + "{ h = Conv(a, v, c) x = Relu(h) y = Conv(x, w) }",
        {"v": (8, 3, 3, 3), "c": (8,), "w": (4, 8, 3, 3)}, [("channels", 8, 1)],
    ),
    "strides, pads, dilations, batch normalization, pools": (
        HEAD + """{ h = Conv<strides = [2, 1], pads = [1, 1, 1, 1], dilations = [1, 2]>(a, v)
            n = BatchNormalization(h, s, b, m, p) r = HardSwish(n) q = MaxPool<kernel_shape = [2, 2]>(r)
            x = AveragePool<kernel_shape = [2, 1]>(q) y = Conv(x, w) }""",
        {"v": (8, 3, 3, 3), "s": (8,), "b": (8,), "m": (8,), "p": (8,), "w": (4, 8, 1, 1)}, [("channels", 8, 1)],
    ),
    "residual block": (
        HEAD + """{ h = Conv<pads = [1, 1, 1, 1]>(a, u) p = Conv<pads = [1, 1, 1, 1]>(h, v, c) q = Relu(p)
            r = Conv(q, t, d) s = Add(r, h) x = Relu(s) y = Conv(x, w) }""",
        {"u": (8, 3, 3, 3), "v": (6, 8, 3, 3), "c": (6,), "t": (8, 6, 1, 1), "d": (8,), "w": (4, 8, 1, 1)},
        [("channels", 8, 2), ("channels", 6, 1)],
    ),
    "concat": (
        HEAD + """{ h = Conv(a, u) i = Conv(a, v) j = Relu(i) k = Concat<axis = 1>(h, j)
            n = BatchNormalization(k, s, b, m, p) o = Conv(n, w) z = Conv(j, t) y = Add(o, z) }""",
        {"u": (4, 3, 1, 1), "v": (6, 3, 1, 1), "s": (10,), "b": (10,), "m": (10,), "p": (10,), "w": (5, 10, 1, 1),
         "t": (5, 6, 1, 1)},
        [("channels", 4, 1), ("channels", 6, 1)],
    ),
    "squeeze and excite": (
        HEAD + """{ h = Conv(a, u) p = GlobalAveragePool(h) q = Conv(p, v, c) r = Relu(q) s = Conv(r, t, d)
            g = HardSigmoid(s) x = Mul(h, g) y = Conv(x, w) }""",
        {"u": (8, 3, 3, 3), "v": (4, 8, 1, 1), "c": (4,), "t": (8, 4, 1, 1), "d": (8,), "w": (4, 8, 1, 1)},
        [("channels", 8, 2), ("channels", 4, 1)],
    ),
    "squeeze and excite by matrix products": (
        HEAD + """{ h = Conv(a, u) p = ReduceMean<axes = [2, 3], keepdims = 0>(h) q = Gemm<transB = 1>(p, v, c)
            r = Relu(q) s = MatMul(r, t) g = Sigmoid(s) k = Unsqueeze(g, axes) x = Mul(k, h) y = Conv(x, w) }
            # axes = [2, 3]""",
        {"u": (8, 3, 3, 3), "v": (4, 8), "c": (4,), "t": (4, 8), "w": (4, 8, 1, 1)},
        [("channels", 8, 2), ("neurons", 4, 1)],
    ),
    "depthwise separable": (
        HEAD + """{ h = Conv(a, u) d = Conv<group = 6, pads = [1, 1, 1, 1]>(h, v, c) r = Clip(d, zero, six)
            x = Conv(r, t) y = Conv(x, w) }""",
        {"u": (6, 3, 1, 1), "v": (6, 1, 3, 3), "c": (6,), "t": (8, 6, 1, 1), "w": (4, 8, 1, 1), "zero": (), "six": ()},
        [("channels", 6, 2), ("channels", 8, 1)],
    ),
    "depthwise with a multiplier": (
        HEAD + "{ h = Conv(a, u) d = Conv<group = 4>(h, v, c) y = Conv(d, w) }",
        {"u": (4, 3, 1, 1), "v": (12, 1, 3, 3), "c": (12,), "w": (5, 12, 1, 1)}, [("channels", 4, 2)],
    ),
    "few groups": (
        HEAD + "{ h = Conv(a, u) d = Conv<group = 2>(h, v, c) y = Conv(d, w) }",
        {"u": (8, 3, 1, 1), "v": (12, 4, 3, 3), "c": (12,), "w": (5, 12, 1, 1)},
        [("channels", 4, 1), ("channels", 6, 1)],
    ),
    "many groups": (
        HEAD + "{ h = Conv(a, u) d = Conv<group = 6>(h, v, c) y = Conv(d, w) }",
        {"u": (12, 3, 1, 1), "v": (18, 2, 3, 3), "c": (18,), "w": (5, 18, 1, 1)}, [("channels", 6, 2)],
    ),
    "transposed convolution": (
        HEAD + "{ h = ConvTranspose<strides = [2, 2]>(a, u, c) x = Relu(h) y = ConvTranspose(x, w) }",
        {"u": (3, 8, 2, 2), "c": (8,), "w": (8, 4, 2, 2)}, [("channels", 8, 1)],
    ),
    "transposed convolution, depthwise": (
        HEAD + "{ h = Conv(a, u) d = ConvTranspose<group = 5>(h, v, c) y = Conv(d, w) }",
        {"u": (5, 3, 1, 1), "v": (5, 2, 2, 2), "c": (10,), "w": (4, 10, 1, 1)}, [("channels", 5, 2)],
    ),
    "flatten": (
        HEAD + "{ h = Conv(a, u) x = Flatten(h) y = Gemm(x, w, c) }",
        {"u": (5, 3, 7, 7), "w": (20, 4), "c": (4,)}, [("channels", 5, 1)],
    ),
    "flatten by reshape": (
        HEAD + "{ h = Conv(a, u) x = Reshape(h, to) y = MatMul(x, w) } # to = [0, 20]",
        {"u": (5, 3, 7, 7), "w": (20, 4)}, [("channels", 5, 1)],
    ),
    "flatten with the channels last": (
        HEAD + """{ h = Conv(a, u) t = Transpose<perm = [0, 2, 3, 1]>(h) x = Reshape(t, to)
            p = Gemm<transB = 1>(x, v, c) q = Tanh(p) y = Gemm(q, w) } # to = [-1, 20]""",
        {"u": (5, 3, 7, 7), "v": (6, 20), "c": (6,), "w": (6, 4)}, [("channels", 5, 1), ("neurons", 6, 1)],
    ),
    "split": (
        HEAD + """{ h = Conv(a, u, c) p, q = Split<axis = 1>(h, sizes) r = Relu(p) k = Concat<axis = 1>(q, r)
            s = Conv(p, v) t = Conv(k, w) y = Add(s, t) } # sizes = [3, 5]""",
        {"u": (8, 3, 1, 1), "c": (8,), "v": (4, 3, 1, 1), "w": (4, 8, 1, 1)}, [("channels", 8, 1)],
    ),
    "split into equal parts, one a gate": (
        HEAD + "{ h = Conv(a, u, c) p, q = Split<axis = 1>(h) s = Sigmoid(p) x = Mul(s, q) y = Conv(x, w) }",
        {"u": (8, 3, 1, 1), "c": (8,), "w": (4, 4, 1, 1)}, [("channels", 4, 1)],
    ),
    "slice": (
        HEAD + """{ h = Conv(a, u, c) p = Slice(h, i0, i5, i1) q = Slice(h, m3, big, i1) r = Conv(p, v) s = Conv(q, w)
            y = Add(r, s) } # i0 = [2] i5 = [5] i1 = [1] m3 = [-3] big = [9223372036854775807]""",
        {"u": (8, 3, 1, 1), "c": (8,), "v": (4, 3, 1, 1), "w": (4, 3, 1, 1)}, [("channels", 8, 1)],
    ),
    "gather": (
        HEAD + "{ h = Conv(a, u, c) p = Gather<axis = 1>(h, order) y = Conv(p, w) } # order = [3, 1, -1, 3, 0]",
        {"u": (6, 3, 1, 1), "c": (6,), "w": (4, 5, 1, 1)}, [("channels", 6, 1)],
    ),
    "pixel shuffle": (
        HEAD + """{ h = Conv(a, u, c) x = DepthToSpace<blocksize = 2, mode = "CRD">(h) y = Conv(x, w) }""",
        {"u": (20, 3, 1, 1), "c": (20,), "w": (4, 5, 1, 1)}, [("channels", 5, 1)],
    ),
    "depth to space and back": (
        HEAD + """{ h = Conv(a, u, c) x = DepthToSpace<blocksize = 2>(h) p = Relu(x) d = SpaceToDepth<blocksize = 4>(p)
            y = Conv(d, w) }""",
        {"u": (12, 3, 1, 1), "c": (12,), "w": (4, 48, 1, 1)}, [("channels", 3, 1)],
    ),
    "pixel shuffle by reshapes": (
        HEAD + """{ h = Conv(a, u, c) p = Reshape(h, to) q = Transpose<perm = [0, 1, 4, 2, 5, 3]>(p)
            x = Reshape(q, back) y = Conv(x, w) } # to = [-1, 5, 2, 2, 8, 8] back = [-1, 5, 16, 16]""",
        {"u": (20, 3, 1, 1), "c": (20,), "w": (4, 5, 1, 1)}, [("channels", 5, 1)],
    ),
    "resize, pad, upsample": (
        HEAD + """{ h = Conv(a, u, c) p = Resize<mode = "linear">(h, , scales) q = Pad(p, pads)
            s = Shape(q) f = Slice(s, i0, i2) k = Concat<axis = 0>(f, hw) x = Resize(q, , , k) y = Conv(x, w) }
            # pads = [0, 0, 1, 1, 0, 0, 1, 1] i0 = [0] i2 = [2] hw = [20, 20] scales = [1, 1, 2, 2]""",
        {"u": (6, 3, 1, 1), "c": (6,), "w": (4, 6, 1, 1)}, [("channels", 6, 1)],
    ),
    "group normalization by reshapes": (
        HEAD + """{ h = Conv(a, u, c) p = Reshape(h, to) n = InstanceNormalization(p, s, b) k = Shape(h)
            q = Reshape(n, k) r = Mul(q, e) x = Add(r, f) y = Conv(x, w) } # to = [0, 4, -1]""",
        {"u": (8, 3, 1, 1), "c": (8,), "s": (4,), "b": (4,), "e": (8, 1, 1), "f": (8, 1, 1), "w": (4, 8, 1, 1)},
        [("channels", 4, 1)],
    ),
    "constants of channels on the way": (
        HEAD + """{ h = Conv(a, u) p = Mul(h, e) q = Add(f, p) r = PRelu(q, s) k = Where(z, r, f) t = Max(k, zero)
            x = Div(t, g) y = Conv(x, w) }""",
        {"u": (8, 3, 1, 1), "e": (1, 8, 1, 1), "f": (8, 1, 1), "s": (8, 1, 1), "z": (1, 8, 8, 8), "zero": (),
         "g": (1, 1, 1, 8), "w": (4, 8, 1, 1)},
        [("channels", 8, 1)],
    ),
    "one constant of two groups": (
        HEAD + """{ h = Conv(a, u) p = Mul(h, e) i = Conv(p, v) q = Mul(i, e) y = Conv(q, w) }""",
        {"u": (8, 3, 1, 1), "v": (8, 8, 1, 1), "e": (1, 8, 1, 1), "w": (4, 8, 1, 1)},
        [("channels", 8, 1), ("channels", 8, 1)],
    ),
    "shared weights": (
        HEAD + """{ h = Conv(a, u) p = Relu(h) i = Conv(p, v) q = Relu(i) j = Conv(q, v) r = Relu(j)
            y = Conv(r, w) }""",
        {"u": (8, 3, 1, 1), "v": (8, 8, 1, 1), "w": (4, 8, 1, 1)}, [("channels", 8, 3)],
    ),
    "two matrix products": (
        ROWS + "{ h = MatMul(a, v) r = Relu(h) y = MatMul(r, t) }", {"v": (12, 8), "t": (8, 3)}, [("neurons", 8, 1)],
    ),
    "an embedding is added": (
        "g (float[B, S, 12] a, int64[B, S] i) => (float[] y) { h = MatMul(a, v) e = Gather(t, i) s = Add(h, e)"
        " y = MatMul(s, w) }", {"v": (12, 8), "t": (2, 8), "w": (8, 3)}, [("neurons", 8, 1)],
    ),
    "feed-forward": (
        ROWS + """{ h = MatMul(a, v) i = Add(c, h) d = Div(i, two) e = Erf(d) f = Add(e, one) k = Mul(i, f)
            x = Mul(k, half) o = MatMul(x, w) y = Add(o, b) }""",
        {"v": (12, 20), "c": (20,), "w": (20, 12), "b": (12,), "two": (), "one": (), "half": (1,)},
        [("neurons", 20, 1)],
    ),
    "gated feed-forward": (
        ROWS + "{ h = MatMul(a, u) s = Sigmoid(h) g = Mul(h, s) i = MatMul(a, v) x = Mul(g, i) y = MatMul(x, w) }",
        {"u": (12, 20), "v": (12, 20), "w": (20, 12)}, [("neurons", 20, 2)],
    ),
    "gated feed-forward, one matrix": (
        ROWS + """{ h = MatMul(a, u) p, q = Split<axis = 2>(h, sizes) s = Softplus(p) x = Mul(s, q) y = MatMul(x, w) }
            # sizes = [10, 10]""",
        {"u": (12, 20), "w": (10, 12)}, [("neurons", 10, 1)],
    ),
    "attention": (
        ROWS + """{ qm = MatMul(a, wq) q = Add(qm, bq) km = MatMul(a, wk) k = Add(km, bk) vm = MatMul(a, wv)
            v = Add(vm, bv) qr = Reshape(q, heads) kr = Reshape(k, heads) vr = Reshape(v, heads)
            qt = Transpose<perm = [0, 2, 1, 3]>(qr) kt = Transpose<perm = [0, 2, 3, 1]>(kr)
            vt = Transpose<perm = [0, 2, 1, 3]>(vr) s = MatMul(qt, kt) d = Div(s, two) p = Softmax(d) o = MatMul(p, vt)
            ot = Transpose<perm = [0, 2, 1, 3]>(o) x = Reshape(ot, back) y = MatMul(x, w) }
            # heads = [0, 0, 4, 3] back = [0, 0, 12]""",
        {"wq": (12, 12), "bq": (12,), "wk": (12, 12), "bk": (12,), "wv": (12, 12), "bv": (12,), "w": (12, 12),
         "two": ()},
        [("heads", 4, 3)],
    ),
    "attention with computed shapes": (
        ROWS + """{ q = MatMul(a, wq) k = MatMul(a, wk) v = MatMul(a, wv)
            s = Shape(a) b0 = Gather(s, i0) s0 = Gather(s, i1) b = Unsqueeze(b0, zero) l = Unsqueeze(s0, zero)
            heads = Concat<axis = 0>(b, l, h, d) back = Concat<axis = 0>(b, l, all)
            qr = Reshape(q, heads) kr = Reshape(k, heads) vr = Reshape(v, heads)
            qt = Transpose<perm = [0, 2, 1, 3]>(qr) kt = Transpose<perm = [0, 2, 3, 1]>(kr)
            vt = Transpose<perm = [0, 2, 1, 3]>(vr) c = MatMul(qt, kt) p = Softmax(c) o = MatMul(p, vt)
            ot = Transpose<perm = [0, 2, 1, 3]>(o) x = Reshape(ot, back) y = MatMul(x, w) }
            # i0 = 0 i1 = 1 zero = [0] h = [4] d = [3] all = [12]""",
        {"wq": (12, 12), "wk": (12, 12), "wv": (12, 12), "w": (12, 12)}, [("heads", 4, 3)],
    ),
    "attention, one matrix for all": (
        ROWS + """{ m = MatMul(a, u) n = Add(m, c) r = Reshape(n, heads) t = Transpose<perm = [2, 0, 3, 1, 4]>(r)
            q = Gather(t, i0) k = Gather(t, i1) v = Gather(t, i2) kt = Transpose<perm = [0, 1, 3, 2]>(k)
            s = MatMul(q, kt) p = Softmax(s) o = MatMul(p, v) ot = Transpose<perm = [0, 2, 1, 3]>(o)
            x = Reshape(ot, back) y = MatMul(x, w) }
            # heads = [0, 0, 3, 4, 3] back = [0, -1, 12] i0 = 0 i1 = 1 i2 = 2""",
        {"u": (12, 36), "c": (36,), "w": (12, 12)}, [("heads", 4, 1)],
    ),
    "attention with a single head": (
        ROWS + """{ q = MatMul(a, wq) k = MatMul(a, wk) v = MatMul(a, wv) kt = Transpose<perm = [0, 2, 1]>(k)
            s = MatMul(q, kt) p = Softmax(s) o = MatMul(p, v) y = MatMul(o, w) }""",
        {"wq": (12, 12), "wk": (12, 12), "wv": (12, 6), "w": (6, 12)}, [("neurons", 6, 1)],
    ),
    "grouped queries": (
        ROWS + """{ q = MatMul(a, wq) k = MatMul(a, wk) v = MatMul(a, wv) qr = Reshape(q, heads) kr = Reshape(k, few)
            vr = Reshape(v, few) qt = Transpose<perm = [0, 2, 1, 3]>(qr) kt = Transpose<perm = [0, 2, 3, 1]>(kr)
            vt = Transpose<perm = [0, 2, 1, 3]>(vr) ku = Unsqueeze(kt, two) vu = Unsqueeze(vt, two)
            sk = Shape(kt) sv = Shape(vt) s0 = Slice(sk, zero, one) s3 = Slice(sk, three, four)
            s2 = Slice(sv, two, three) tk = Concat<axis = 0>(s0, two, rep, three, s3)
            tv = Concat<axis = 0>(s0, two, rep, s2, three) ke = Expand(ku, tk) ve = Expand(vu, tv)
            fk = Concat<axis = 0>(s0, four, three, s3) fv = Concat<axis = 0>(s0, four, s2, three)
            kf = Reshape(ke, fk) vf = Reshape(ve, fv) s = MatMul(qt, kf) p = Softmax(s)
            o = MatMul(p, vf) ot = Transpose<perm = [0, 2, 1, 3]>(o) x = Reshape(ot, back) y = MatMul(x, w) }
            # heads = [0, 0, 4, 3] few = [0, 0, 2, 3] back = [0, 0, 12] zero = [0] one = [1] two = [2] rep = [2]
            # three = [3] four = [4]""",
        {"wq": (12, 12), "wk": (12, 6), "wv": (12, 6), "w": (12, 12)}, [("heads", 2, 3)],
    ),
    "expand": (
        HEAD + """{ h = Conv(a, u) p = GlobalAveragePool(h) q = Expand(p, to) k = Concat<axis = 1>(h, q)
            y = Conv(k, w) } # to = [1, 6, 8, 8]""",
        {"u": (6, 3, 1, 1), "w": (4, 12, 1, 1)}, [("channels", 6, 1)],
    ),
    "one weight on both sides": (
        "g (float[B, 6] a) => (float[] y) { h = Gemm(a, v) r = Relu(h) y = Gemm<transB = 1>(r, v) }",
        {"v": (6, 8)}, [("neurons", 8, 1)],
    ),
    "weights on the left": (
        "g (float[B, 6, 5] a) => (float[] y) { h = MatMul(v, a) r = Relu(h) y = MatMul(w, r) }",
        {"v": (8, 6), "w": (4, 8)}, [("neurons", 8, 1)],
    ),
}  # fmt: skip

# text, shapes of weights, a word of the reason for the layer with the weight v
REFUSED: dict[str, tuple[str, Shapes, str]] = {
    "output": (HEAD + "{ y = Conv(a, v) }", {"v": (4, 3, 1, 1)}, "output of the model"),
    "a second output": (
        "g (float[N, 3, 8, 8] a) => (float[] y, float[] x) { x = Conv(a, v) y = Conv(x, w) }",
        {"v": (4, 3, 1, 1), "w": (4, 4, 1, 1)}, "output of the model"),
    "added to an input": (
        HEAD + "{ h = Conv(a, v) s = Add(h, a) y = Conv(s, w) }", {"v": (3, 3, 1, 1), "w": (4, 3, 1, 1)},
        "input of the model"),
    "layer normalization": (
        ROWS + "{ h = MatMul(a, v) n = LayerNormalization(h, s) y = MatMul(n, w) }",
        {"v": (12, 8), "s": (8,), "w": (8, 4)}, "LayerNormalization"),
    "softmax": (
        ROWS + "{ h = MatMul(a, v) n = Softmax(h) y = MatMul(n, w) }", {"v": (12, 8), "w": (8, 4)}, "Softmax"),
    "mean over channels": (
        HEAD + "{ h = Conv(a, v) m = ReduceMean<axes = [1]>(h) s = Sub(h, m) y = Conv(s, w) }",
        {"v": (4, 3, 1, 1), "w": (4, 4, 1, 1)}, "ReduceMean"),
    "no rule": (
        HEAD + "{ h = Conv(a, v) c = CumSum(h, one) y = Conv(c, w) } # one = 1",
        {"v": (4, 3, 1, 1), "w": (4, 4, 1, 1)}, "CumSum has no rule"),
    "queries and keys": (
        ROWS + """{ q = MatMul(a, v) k = MatMul(a, u) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)
            y = MatMul(s, a) }""", {"v": (12, 6), "u": (12, 6)}, "sums over the axis"),
    "channels become positions": (
        HEAD + "{ h = Conv(a, v) t = Transpose<perm = [0, 2, 1, 3]>(h) y = Conv(t, w) }",
        {"v": (4, 3, 1, 1), "w": (4, 8, 3, 3)}, "moves over the axis"),
    "their number is computed with": (
        HEAD + """{ h = Conv(a, v) s = Shape(h) n = Gather(s, one) f = Cast<to = 1>(n) d = Div(h, f) y = Conv(d, w) }
            # one = 1""", {"v": (4, 3, 1, 1), "w": (4, 4, 1, 1)}, "number of channels is computed with"),
    "a body reads the value": (
        "g (float[N, 3, 8, 8] a, bool c) => (float[] y) { h = Conv(a, v) i = If(c) <"
        "then_branch = t () => (float[] x) { x = Relu(h) }, else_branch = e () => (float[] z) { z = Identity(h) }>"
        " y = Conv(i, w) }", {"v": (4, 3, 1, 1), "w": (4, 4, 1, 1)}, "body"),
    "a body makes the value": (
        "g (float[N, 3, 8, 8] a, bool c) => (float[] y) { i = If(c) <"
        "then_branch = t () => (float[] x) { x = Relu(a) }, else_branch = e () => (float[] z) { z = Identity(a) }>"
        " h = Conv(a, v) s = Add(h, i) y = Conv(s, w) }", {"v": (3, 3, 1, 1), "w": (4, 3, 1, 1)}, "If has no rule"),
    "padded channels": (
        HEAD + "{ h = Conv(a, v) p = Pad(h, pads) y = Conv(p, w) } # pads = [0, 1, 0, 0, 0, 0, 0, 0]",
        {"v": (4, 3, 1, 1), "w": (4, 5, 1, 1)}, "padded"),
    "sliced in steps": (
        HEAD + "{ h = Conv(a, v) p = Slice(h, i0, i4, i1, i2) y = Conv(p, w) } # i0 = [0] i4 = [4] i1 = [1] i2 = [2]",
        {"v": (4, 3, 1, 1), "w": (4, 2, 1, 1)}, "in steps"),
    "one channel picked": (
        HEAD + "{ h = Conv(a, v) p = Gather<axis = 1>(h, i) u = Unsqueeze(p, one) y = Conv(u, w) } # i = 2 one = [1]",
        {"v": (4, 3, 1, 1), "w": (4, 1, 1, 1)}, "picked"),
    "resized channels": (
        HEAD + "{ h = Conv(a, v) p = Resize(h, , , to) y = Conv(p, w) } # to = [1, 8, 8, 8]",
        {"v": (4, 3, 1, 1), "w": (4, 8, 1, 1)}, "resized"),
    "the weight is read elsewhere": (
        "g (float[B, 6] a) => (float[] y) { h = MatMul(a, v) s = Add(v, v) t = ReduceSum(s, ax) r = Mul(h, t) "
        "y = MatMul(r, w) } # ax = [0]", {"v": (6, 8), "w": (8, 4)}, "read by Add too"),
    "the weight is an output": (
        "g (float[B, 6] a) => (float[] y, float[6, 8] v) { h = MatMul(a, v) y = MatMul(h, w) }",
        {"v": (6, 8), "w": (8, 4)}, "output of the model"),
    "grouped queries": (
        ROWS + """{ q = MatMul(a, v) k = MatMul(a, wk) x = MatMul(a, wv) qr = Reshape(q, heads) kr = Reshape(k, two)
            vr = Reshape(x, two) qt = Transpose<perm = [0, 2, 1, 3]>(qr) ku = Transpose<perm = [0, 2, 3, 1]>(kr)
            vu = Transpose<perm = [0, 2, 1, 3]>(vr) kt = Tile(ku, reps) vt = Tile(vu, reps)
            s = MatMul(qt, kt) p = Softmax(s) o = MatMul(p, vt) ot = Transpose<perm = [0, 2, 1, 3]>(o)
            z = Reshape(ot, back) y = MatMul(z, w) }
            # heads = [0, 0, 4, 3] two = [0, 0, 2, 3] back = [0, 0, 12] reps = [1, 2, 1, 1]""",
        {"v": (12, 12), "wk": (12, 6), "wv": (12, 6), "w": (12, 12)}, "Tile has no rule"),
    "single output": (
        HEAD + "{ h = Conv(a, v) y = Conv(h, w) }", {"v": (1, 3, 1, 1), "w": (4, 1, 1, 1)}, "single output"),
    "no layer reads it": (HEAD + "{ h = Conv(a, v) y = Identity(a) }", {"v": (4, 3, 1, 1)}, "no layer"),
    "a length that is copied, but of other places": (
        "g (float[2, 3, 4] a) => (float[] y) { h = Conv(a, v) p = Reshape(h, to) y = Conv(p, w) } # to = [4, 0, 2]",
        {"v": (6, 3, 1), "w": (5, 6, 1)}, "Reshape"),
    "channels shuffled into a product": (
        HEAD + "{ h = Conv(a, v) p = Reshape(h, to) y = Conv(p, w) } # to = [0, 4, 12, 8]",
        {"v": (6, 3, 1, 1), "w": (4, 4, 1, 1)}, "Reshape"),
}  # fmt: skip
