"""Numbers and names as people read them."""

from __future__ import annotations

import doctest
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.render import words


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(words).failed == 0


@given(st.text(), st.none() | st.integers(3, 50))
def test_safe_text_is_one_printable_line(text: str, limit: int | None) -> None:
    shown = words.safe(text, limit)
    assert not any(unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" for c in shown)
    assert limit is None or len(shown) <= limit


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert words.safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nonnxcompress: PASSED", "a\\nonnxcompress: PASSED"),
        ("abc\u202egnp", "abc\\u202egnp"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("\udcff", "\\udcff"),
        ("größe/重み", "größe/重み"),
    ],
)
def test_what_could_repaint_the_screen_is_spelt_out(text: str, shown: str) -> None:
    assert words.safe(text) == shown


def test_long_names_keep_both_ends() -> None:
    assert words.safe("encoder/layer.0/attention/query", 11) == "encod…query"


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1_048_575, "1.00 MiB"), (99.95 * 2**20, "100 MiB"),
     (90_810_000, "86.6 MiB"), (3 * 2**40, "3.00 TiB")],
)  # fmt: skip
def test_sizes(size: float, shown: str) -> None:
    assert words.size(size) == shown


@given(st.floats(1, 1e15))
def test_a_size_can_be_read_back(size: float) -> None:
    number, unit = words.size(size).split()
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert float(number) * scale == pytest.approx(size, rel=0.006 if unit != "B" else 1, abs=0.5)


@pytest.mark.parametrize(
    ("value", "shown"), [(math.inf, "exact"), (math.nan, "not defined"), (31.25, "31.2 dB"), (200.0, "exact")]
)
def test_decibels(value: float, shown: str) -> None:
    assert words.decibels(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.9, "0.9000"), (0.99991, "0.999910"), (0.99999999, "1.000000"), (math.nan, "not defined")],
)
def test_cosine(value: float, shown: str) -> None:
    assert words.cosine(value) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(12, "12"), (999_999, "999,999"), (22_713_216, "22.7 M"), (7e9, "7.00 G")]
)
def test_counts(number: int, shown: str) -> None:
    assert words.count(int(number)) == shown
