"""Changes to the bytes of a serialized model, whatever they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.graph.wire import encode_varint

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Mutator = Callable[[Random, bytes], bytes]

_LENGTHS = (0, 1, 0x7F, 0x80, 1023, 1024, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
_DEEP = 40  # graphs within graphs


def _place(rng: Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _slice(rng: Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 64, 512)))


def flip(rng: Random, data: bytes) -> bytes:
    """Change single bits."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(rng: Random, data: bytes) -> bytes:
    """Put random bytes in the place of others."""
    start, stop = _slice(rng, data)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def truncate(rng: Random, data: bytes) -> bytes:
    """End somewhere."""
    return data[: _place(rng, data)]


def cut_out(rng: Random, data: bytes) -> bytes:
    """Take out a part."""
    start, stop = _slice(rng, data)
    return data[:start] + data[stop:]


def insert(rng: Random, data: bytes) -> bytes:
    """Put in random bytes."""
    place = _place(rng, data)
    return data[:place] + rng.randbytes(rng.choice((1, 2, 8, 1500))) + data[place:]


def duplicate(rng: Random, data: bytes) -> bytes:
    """Repeat a part, in its place or elsewhere."""
    start, stop = _slice(rng, data)
    place = rng.choice((stop, _place(rng, data)))
    return data[:place] + data[start:stop] + data[place:]


def relength(rng: Random, data: bytes) -> bytes:
    """Give something that looks like a field with a length another length."""
    fields = (
        [i for i in range(len(data) - 1) if data[i] & 7 == 2 and 8 <= data[i] < 0x80] if len(data) < 1 << 16 else []
    )
    if not fields:
        return flip(rng, data)
    place = rng.choice(fields) + 1
    length = rng.choice((*_LENGTHS, max(0, data[place] - 1), data[place] + 1))
    return data[:place] + encode_varint(length) + data[place + 1 :]


def rekey(rng: Random, data: bytes) -> bytes:
    """Make a field another one, or of another wire type."""
    fields = [i for i in range(min(len(data), 1 << 16)) if 8 <= data[i] < 0x80 and data[i] & 7 in (0, 2)]
    if not fields:
        return flip(rng, data)
    place = rng.choice(fields)
    return data[:place] + bytes([rng.randrange(32) << 3 | rng.randrange(6)]) + data[place + 1 :]


def nest(rng: Random, data: bytes) -> bytes:
    """Put graphs within graphs into the first node that follows, as the field of a second graph."""
    inner = b""
    for _ in range(rng.randrange(1, _DEEP)):
        for number in (6, 5, 1):
            inner = encode_varint(number << 3 | 2) + encode_varint(len(inner)) + inner
    return data + encode_varint(7 << 3 | 2) + encode_varint(len(inner)) + inner


MUTATORS: tuple[Mutator, ...] = (
    flip, flip, overwrite, truncate, cut_out, insert, duplicate, relength, relength, rekey, nest,
)  # fmt: skip
