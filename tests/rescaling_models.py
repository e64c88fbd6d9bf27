"""Models in which a scale of the features of ``x`` can be absorbed, and such in which it cannot."""

from __future__ import annotations

import numpy as np

from tests.small_models import Arrays, normal

Shapes = dict[str, tuple[int, ...]]
Case = tuple[str, Shapes, set[str], set[str]]
_ROWS = "g (float[2, 5, 10] a) => (float[] y)"
_IMAGE = "g (float[2, 3, 9, 9] a) => (float[] y)"

# name -> text, shapes of its initializers, what is divided, what is multiplied
TAKEN: dict[str, Case] = {
    "matmul": (f"{_ROWS} {{ x = MatMul(a, v) y = MatMul(x, w) }}", {"v": (10, 8), "w": (8, 12)}, {"v"}, {"w"}),
    "batched weights": (
        "g (float[4, 5, 10] a) => (float[] y) { x = MatMul(a, v) y = MatMul(x, w) }",
        {"v": (4, 10, 8), "w": (4, 8, 12)},
        {"v"},
        {"w"},
    ),
    "weight of one axis": (f"{_ROWS} {{ x = MatMul(a, v) y = MatMul(x, w) }}", {"v": (10, 8), "w": (8,)}, {"v"}, {"w"}),
    "matmul, bias, relu": (
        f"{_ROWS} {{ m = MatMul(a, v) b = Add(c, m) x = Relu(b) y = MatMul(x, w) }}",
        {"v": (10, 8), "c": (8,), "w": (8, 12)},
        {"v", "c"},
        {"w"},
    ),
    "subtracted": (
        f"{_ROWS} {{ m = MatMul(a, v) x = Sub(c, m) y = MatMul(x, w) }}",
        {"v": (10, 8), "c": (1, 8), "w": (8, 12)},
        {"v", "c"},
        {"w"},
    ),
    "gemm to gemm": (
        "g (float[4, 10] a) => (float[] y) { x = Gemm<alpha = 0.5, beta = 2.0>(a, v, c) y = Gemm(x, w, d) }",
        {"v": (10, 8), "c": (8,), "w": (8, 12), "d": (12,)},
        {"v", "c"},
        {"w"},
    ),
    "gemm transposed": (
        "g (float[4, 10] a) => (float[] y) { x = Gemm<transB = 1>(a, v, c) y = Gemm<transB = 1>(x, w) }",
        {"v": (8, 10), "c": (4, 8), "w": (12, 8)},
        {"v", "c"},
        {"w"},
    ),
    "layer normalization": (
        f"{_ROWS} {{ x = LayerNormalization(a, v, c) p = MatMul(x, w) q = MatMul(x, u) y = Concat<axis = 2>(p, q) }}",
        {"v": (10,), "c": (10,), "w": (10, 12), "u": (10, 8)},
        {"v", "c"},
        {"w", "u"},
    ),
    "root mean square": (
        f"{_ROWS} {{ s = Mul(a, a) m = ReduceMean<axes = [-1]>(s) r = Sqrt(m) n = Div(a, r) x = Mul(c, n) "
        "y = MatMul(x, w) }",
        {"c": (10,), "w": (10, 12)},
        {"c"},
        {"w"},
    ),
    "mul and add": (
        f"{_ROWS} {{ n = Tanh(a) m = Mul(n, c) x = Add(m, d) y = MatMul(x, w) }}",
        {"c": (10,), "d": (10,), "w": (10, 12)},
        {"c", "d"},
        {"w"},
    ),
    "gated left": (
        f"{_ROWS} {{ m = MatMul(a, v) t = MatMul(a, u) g = Sigmoid(t) x = Mul(m, g) y = MatMul(x, w) }}",
        {"v": (10, 8), "u": (10, 8), "w": (8, 12)},
        {"v"},
        {"w"},
    ),
    "gated right": (
        f"{_ROWS} {{ m = MatMul(a, v) t = MatMul(a, u) g = Sigmoid(t) x = Mul(g, m) y = MatMul(x, w) }}",
        {"v": (10, 8), "u": (10, 8), "w": (8, 12)},
        {"v"},
        {"w"},
    ),
    "scalars": (
        f"{_ROWS} {{ m = MatMul(a, v) h = Mul(k, m) x = Div(h, l) y = MatMul(x, w) }}",
        {"v": (10, 8), "k": (), "l": (1,), "w": (8, 12)},
        {"v"},
        {"w"},
    ),
    "several readers": (
        f"{_ROWS} {{ m = MatMul(a, v) p = MatMul(m, w) x = Relu(m) q = MatMul(x, u) y = Add(p, q) }}",
        {"v": (10, 8), "w": (8, 12), "u": (8, 12)},
        {"v"},
        {"w", "u"},
    ),
    "factor on the way down": (
        f"{_ROWS} {{ m = MatMul(a, v) h = Mul(m, c) p = MatMul(h, w) q = MatMul(m, u) y = Add(p, q) }}",
        {"v": (10, 8), "c": (8,), "w": (8, 12), "u": (8, 12)},
        {"v"},
        {"w", "u"},
    ),
    "reshaped": (
        f"{_ROWS} {{ m = MatMul(a, v) x = Reshape(m, shape) y = MatMul(x, w) }}",
        {"v": (10, 8), "w": (8, 12)},
        {"v"},
        {"w"},
    ),
    "transposed": (
        f"{_ROWS} {{ m = MatMul(a, v) t = Transpose<perm = [0, 2, 1]>(m) x = Transpose<perm = [2, 0, 1]>(t) "
        "r = Transpose<perm = [1, 2, 0]>(x) q = Transpose<perm = [0, 2, 1]>(r) y = MatMul(q, w) }",
        {"v": (10, 8), "w": (8, 12)},
        {"v"},
        {"w"},
    ),
    "conv": (
        f"{_IMAGE} {{ m = Conv(a, v, c) x = Relu(m) y = Conv(x, w, d) }}",
        {"v": (8, 3, 3, 3), "c": (8,), "w": (12, 8, 3, 3), "d": (12,)},
        {"v", "c"},
        {"w"},
    ),
    "depthwise": (
        f"{_IMAGE} {{ m = Conv(a, v) x = LeakyRelu(m) y = Conv<group = 8>(x, w) }}",
        {"v": (8, 3, 3, 3), "w": (16, 1, 3, 3)},
        {"v"},
        {"w"},
    ),
    "grouped": (
        f"{_IMAGE} {{ m = Conv(a, v) x = PRelu(m, p) y = Conv<group = 2>(x, w) }}",
        {"v": (8, 3, 3, 3), "p": (8, 1, 1), "w": (6, 4, 3, 3)},
        {"v"},
        {"w"},
    ),
    "separable": (
        f"{_IMAGE} {{ x = Conv<group = 3>(a, v) y = Conv(x, w) }}",
        {"v": (6, 1, 3, 3), "w": (8, 6, 1, 1)},
        {"v"},
        {"w"},
    ),
    "bias apart": (
        f"{_IMAGE} {{ m = Conv(a, v) b = Add(m, c) x = Relu(b) y = Conv(x, w) }}",
        {"v": (8, 3, 3, 3), "c": (1, 8, 1, 1), "w": (12, 8, 3, 3)},
        {"v", "c"},
        {"w"},
    ),
    "batch normalization": (
        f"{_IMAGE} {{ m = BatchNormalization(a, v, c, mean, var) x = Relu(m) y = Conv(x, w) }}",
        {"v": (3,), "c": (3,), "mean": (3,), "var": (3,), "w": (12, 3, 3, 3)},
        {"v", "c"},
        {"w"},
    ),
    "instance normalization": (
        f"{_IMAGE} {{ x = InstanceNormalization(a, v, c) y = Conv(x, w) }}",
        {"v": (3,), "c": (3,), "w": (12, 3, 3, 3)},
        {"v", "c"},
        {"w"},
    ),
    "pools": (
        f"{_IMAGE} {{ m = Conv(a, v) p = MaxPool<kernel_shape = [2, 2]>(m) x = AveragePool<kernel_shape = [2, 2], "
        "pads = [1, 1, 1, 1]>(p) y = Conv(x, w) }",
        {"v": (8, 3, 3, 3), "w": (12, 8, 3, 3)},
        {"v"},
        {"w"},
    ),
    "padded": (
        f"{_IMAGE} {{ m = Conv(a, v) x = Pad(m, pads) y = Conv(x, w) }}",
        {"v": (8, 3, 3, 3), "w": (12, 8, 3, 3)},
        {"v"},
        {"w"},
    ),
    "classifier": (
        f"{_IMAGE} {{ m = Conv(a, v) r = Relu(m) p = GlobalAveragePool(r) x = Flatten(p) y = Gemm(x, w, d) }}",
        {"v": (8, 3, 3, 3), "w": (8, 12), "d": (12,)},
        {"v"},
        {"w"},
    ),
    "transposed convolutions": (
        f"{_IMAGE} {{ m = ConvTranspose(a, v, c) x = Relu(m) y = ConvTranspose<group = 2>(x, w) }}",
        {"v": (3, 8, 3, 3), "c": (8,), "w": (8, 4, 3, 3)},
        {"v", "c"},
        {"w"},
    ),
    "constant nodes": (
        f"{_ROWS} {{ k = Constant<value = float[10] {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}>() n = Tanh(a) "
        "x = Mul(n, k) y = MatMul(x, w) }",
        {"w": (10, 12)},
        {"k"},
        {"w"},
    ),
    "vector that others read": (
        f"{_ROWS} {{ n = Tanh(a) x = Mul(n, c) m = MatMul(x, w) h = Add(n, c) z = ReduceMean(h) y = Add(m, z) }}",
        {"c": (10,), "w": (10, 12)},
        {"c"},
        {"w"},
    ),
    "one of two factors of the same": (
        f"{_ROWS} {{ m = MatMul(a, v) h = Mul(m, c) g = Mul(h, m) y = MatMul(g, w) }}",
        {"v": (10, 8), "c": (8,), "w": (8, 12)},
        {"c"},
        {"w"},
    ),
    "its shape": (
        f"{_ROWS} {{ m = MatMul(a, v) x = Relu(m) s = Shape(x) n = MatMul(x, w) f = Cast<to = 1>(s) z = ReduceMean(f) "
        "y = Add(n, z) }",
        {"v": (10, 8), "w": (8, 12)},
        {"v"},
        {"w"},
    ),
    "dropout": (
        f"{_ROWS} {{ m = MatMul(a, v) i = Identity(m) x, mask = Dropout(i) y = MatMul(x, w) }}",
        {"v": (10, 8), "w": (8, 12)},
        {"v"},
        {"w"},
    ),
}
_V = "m = MatMul(a, v)"
_SIZES: Shapes = {"v": (10, 8), "w": (8, 12)}
# name -> text, shapes, what the reason has to say
REFUSED: dict[str, tuple[str, Shapes, str]] = {
    "residual": (f"{_ROWS} {{ {_V} h = MatMul(m, w) q = MatMul(h, u) y = Add(m, q) }}",
                 {**_SIZES, "u": (12, 8)}, "Add"),
    "sum of two": (f"{_ROWS} {{ {_V} n = MatMul(a, u) x = Add(m, n) y = MatMul(x, w) }}",
                   {**_SIZES, "u": (10, 8)}, "Add"),
    "graph output": ("g (float[2, 5, 10] a) => (float[] y, float[] x) { x = MatMul(a, v) y = MatMul(x, w) }",
                     _SIZES, "output of the graph"),
    "output on the way": ("g (float[2, 5, 10] a) => (float[] y, float[] m) { m = MatMul(a, v) x = Relu(m) "
                          "y = MatMul(x, w) }", _SIZES, "output of the graph"),
    "graph input": ("g (float[2, 5, 8] a) => (float[] y) { x = Relu(a) y = MatMul(x, w) }",
                    {"w": (8, 12)}, "input of the model"),
    "other reader": (f"{_ROWS} {{ {_V} h = MatMul(m, w) s = Softmax(m) z = ReduceMean(s) y = Add(h, z) }}",
                     _SIZES, "Softmax"),
    "reader on the way": (f"{_ROWS} {{ {_V} x = Relu(m) h = MatMul(x, w) s = Tanh(m) z = ReduceMean(s) "
                          "y = Add(h, z) }", _SIZES, "Tanh"),
    "not homogeneous": (f"{_ROWS} {{ {_V} x = Sigmoid(m) y = MatMul(x, w) }}", _SIZES, "Sigmoid"),
    "clipped": (f"{_ROWS} {{ {_V} x = Clip(m, low, high) y = MatMul(x, w) }}",
                {**_SIZES, "low": (), "high": ()}, "Clip"),
    "one bias for all": (f"{_ROWS} {{ {_V} x = Add(m, c) y = MatMul(x, w) }}", {**_SIZES, "c": (1,)}, "one constant"),
    "one bias in a gemm": ("g (float[4, 10] a) => (float[] y) { x = Gemm(a, v, c) y = Gemm(x, w) }",
                           {**_SIZES, "c": (1,)}, "value for each feature"),
    "computed bias": ("g (float[4, 10] a, float[8] c) => (float[] y) { x = Gemm(a, v, c) y = Gemm(x, w) }",
                      _SIZES, "not stored"),
    "computed weight": ("g (float[4, 10] a, float[8, 8] u) => (float[] y) { x = MatMul(a, v) p = MatMul(x, w) "
                        "q = MatMul(x, u) z = ReduceMean(q) y = Add(p, z) }", _SIZES, "not stored"),
    "tied weight": (f"{_ROWS} {{ {_V} p = MatMul(m, w) t = ReduceMean(w) y = Add(p, t) }}", _SIZES, "read elsewhere"),
    "tied in the site": (f"{_ROWS} {{ {_V} x = Relu(m) p = MatMul(x, w) q = MatMul(m, w) y = Add(p, q) }}",
                         _SIZES, "read elsewhere"),
    "square": (f"{_ROWS} {{ {_V} x = Mul(m, m) y = MatMul(x, w) }}", _SIZES, "several values"),
    "divisor": (f"{_ROWS} {{ {_V} p = MatMul(m, w) q = Div(a, m) z = ReduceMean(q) y = Add(p, z) }}",
                {"v": (10, 10), "w": (10, 12)}, "Div"),
    "right operand": ("g (float[8, 10] a) => (float[] y) { x = MatMul(a, v) p = MatMul(x, w) q = MatMul(u, x) "
                      "z = ReduceMean(q) y = Add(p, z) }", {**_SIZES, "u": (4, 8)}, "MatMul"),
    "gemm turned over": ("g (float[8, 10] a) => (float[] y) { x = MatMul(a, v) p = Gemm<transA = 1>(x, w) "
                         "y = Relu(p) }", _SIZES, "turned over"),
    "reshape that cuts": (f"{_ROWS} {{ {_V} x = Reshape(m, cut) y = MatMul(x, w) }}",
                          {"v": (10, 8), "w": (2, 12)}, "disagree"),
    "reshape that scrambles": (f"{_ROWS} {{ {_V} c = Reshape(m, heads) t = Transpose<perm = [0, 2, 1, 3]>(c) "
                               "x = Reshape(t, shape) y = MatMul(x, w) }", _SIZES, "reshaped"),
    "reshape to unknown": (f"{_ROWS} {{ {_V} x = Reshape(m, open) y = MatMul(x, w) }}",
                           {"v": (10, 8), "w": (16, 12)}, "Reshape"),
    "transposed away": ("g (float[2, 8, 10] a) => (float[] y) { m = MatMul(a, v) x = Transpose<perm = [0, 2, 1]>(m) "
                        "y = MatMul(x, w) }", _SIZES, "another axis"),
    "flattened image": (f"{_IMAGE} {{ m = Conv(a, v) x = Flatten(m) y = MatMul(x, w) }}",
                        {"v": (8, 3, 9, 9), "w": (8, 12)}, "Flatten"),
    "padded features": (f"{_IMAGE} {{ m = Conv(a, v) x = Pad(m, channels) y = Conv(x, w) }}",
                        {"v": (8, 3, 3, 3), "w": (12, 9, 3, 3)}, "Pad"),
    "padded by one": (f"{_IMAGE} {{ m = Conv(a, v) x = Pad(m, pads, one) y = Conv(x, w) }}",
                      {"v": (8, 3, 3, 3), "w": (12, 8, 3, 3)}, "Pad"),
    "pools along features": ("g (float[2, 5, 10] a) => (float[] y) { m = MatMul(a, v) "
                             "x = MaxPool<kernel_shape = [3], pads = [1, 1]>(m) y = MatMul(x, w) }", _SIZES, "MaxPool"),
    "normalized behind": (f"{_ROWS} {{ {_V} h = MatMul(m, w) n = LayerNormalization(m, c) z = ReduceMean(n) "
                          "y = Add(h, z) }", {**_SIZES, "c": (8,)}, "LayerNormalization"),
    "product along rows": (f"{_IMAGE} {{ m = Conv(a, v) x = Relu(m) p = Conv(x, w) q = MatMul(x, u) z = ReduceMean(q) "
                           "y = Add(p, z) }", {"v": (7, 3, 3, 3), "w": (12, 7, 3, 3), "u": (7, 4)}, "another axis"),
    "one feature": (f"{_ROWS} {{ {_V} y = MatMul(m, w) }}", {"v": (10, 1), "w": (1, 12)}, "single feature"),
    "broadcast": (f"{_ROWS} {{ {_V} g = Sigmoid(a) x = Mul(m, g) y = MatMul(x, w) }}",
                  {"v": (10, 1), "w": (10, 12)}, "disagree"),
    "further output": (f"{_ROWS} {{ p, x = Split<axis = 2>(a, halves) y = MatMul(x, w) }}", {"w": (5, 12)}, "Split"),
    "read in a body": ("g (float[2, 5, 10] a, bool b) => (float[] y) { m = MatMul(a, v) h = MatMul(m, w) z = If(b) < "
                       "then_branch = t () => (float[] p) { p = ReduceMean(m) }, "
                       "else_branch = e () => (float[] q) { q = ReduceMax(m) } > y = Add(h, z) }", _SIZES, "body"),
}  # fmt: skip


def arrays(shapes: Shapes) -> dict[str, np.ndarray]:
    """Initializers of these shapes; positive where they have to be."""
    made = {name: np.asarray(normal(*shape, seed=i), np.float32) for i, (name, shape) in enumerate(shapes.items(), 1)}
    for name in {"var", "k", "l"} & set(made):
        made[name] = np.abs(made[name]) + np.float32(0.5)
    return made


def integers(text: str) -> Arrays:
    """Shapes and pads that a text names."""
    known: dict[str, np.ndarray] = {
        "shape": np.array([-1, 8], np.int64),
        "cut": np.array([-1, 2], np.int64),
        "heads": np.array([2, 5, 4, 2], np.int64),
        "open": np.array([5, -1], np.int64),
        "pads": np.array([0, 0, 1, 2, 0, 0, 1, 0], np.int64),
        "channels": np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64),
        "halves": np.array([5, 5], np.int64),
        "one": np.array(1, np.float32),
    }
    return {name: array for name, array in known.items() if f" {name})" in text or f" {name}," in text}
