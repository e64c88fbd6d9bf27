"""One number for what a change does to the outputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.stats.output_noise import NOISE_LIMIT, OutputNoise

Array = np.ndarray
_LIMIT_NATS = 0.0025


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    found: Array = e / e.sum(-1, keepdims=True)
    return found


def _divergence(x: Array, y: Array) -> float:
    p, q = _softmax(x.astype(np.float64)), _softmax(y.astype(np.float64))
    return float((p * np.log(p / q)).sum(-1).mean())


def _noise(x: Array, y: Array) -> float:
    return float(np.square(x.astype(np.float64) - y).sum() / np.square(x.astype(np.float64)).sum())


def _pair(seed: int, shape: tuple[int, ...], level: float) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * 3 - 20).astype(np.float32)
    return x, (x + rng.normal(size=shape) * level).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.01, 0.3, 2.0]))
def test_logits_count_by_the_worse_of_noise_and_divergence(seed: int, level: float) -> None:
    x, y = _pair(seed, (2, 5, 50), level)
    found = OutputNoise([{}], [{"logits": x}], {}).ratio([{"logits": y}])
    expected = max(_noise(x, y), _divergence(x, y) / _LIMIT_NATS * NOISE_LIMIT)
    assert found == pytest.approx(expected, rel=1e-5)


def test_large_logits_do_not_hide_that_the_distribution_moved() -> None:
    x, y = _pair(1, (1, 40, 300), 0.5)
    found = OutputNoise([{}], [{"logits": x}], {}).ratio([{"logits": y}])
    assert _noise(x, y) < NOISE_LIMIT < found


def test_probabilities_are_compared_as_they_are() -> None:
    x, y = _pair(2, (6, 30), 0.5)
    given_p, given_q = _softmax(x), _softmax(y)
    found = OutputNoise([{}], [{"y": given_p}], {"y": "Softmax"}).ratio([{"y": given_q}])
    expected = max(_noise(given_p, given_q), _divergence(x, y) / _LIMIT_NATS * NOISE_LIMIT)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["hidden_state", "boxes"])
def test_other_outputs_count_by_noise_alone(name: str) -> None:
    x, y = _pair(3, (2, 4, 64), 0.5)
    assert OutputNoise([{}], [{name: x}], {}).ratio([{name: y}]) == pytest.approx(_noise(x, y))
    assert OutputNoise([{}], [{"logits": x}], None).ratio([{"logits": y}]) == pytest.approx(_noise(x, y))


def test_rows_count_alike_over_calls_of_different_length() -> None:
    pairs = [_pair(seed, (1, length, 20), 0.4) for seed, length in ((4, 3), (5, 30))]
    whole = tuple(np.concatenate(parts, axis=1) for parts in zip(*pairs, strict=True))
    apart = OutputNoise([{}, {}], [{"logits": x} for x, _ in pairs], {}).ratio([{"logits": y} for _, y in pairs])
    assert apart == pytest.approx(_divergence(*whole) / _LIMIT_NATS * NOISE_LIMIT, rel=1e-5)


def test_padded_positions_do_not_count() -> None:
    x, y = _pair(6, (2, 4, 20), 0.4)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    keep = mask.astype(bool)
    spoilt = np.where(keep[:, :, None], y, 1e6).astype(np.float32)
    feeds = {"attention_mask": mask}
    found = OutputNoise([feeds], [{"logits": x, "other": x}], {}).ratio([{"logits": spoilt, "other": spoilt}])
    assert found == pytest.approx(_divergence(x[keep], y[keep]) / _LIMIT_NATS * NOISE_LIMIT, rel=1e-5)


def test_what_cannot_be_compared_is_infinitely_far() -> None:
    x, _ = _pair(7, (2, 20), 0.4)
    noise = OutputNoise([{}], [{"logits": x}], {})
    assert noise.ratio([{"logits": x}]) == 0
    assert noise.ratio([{"logits": x[:1]}]) == np.inf
    assert noise.ratio([{"logits": np.full_like(x, np.nan)}]) == np.inf
