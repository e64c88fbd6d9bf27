"""A text file, one sample per line, turned into the inputs of a model by its tokenizer.

Blank lines are no samples. Lines are cut at the model's fixed length, or else at 128 tokens, and padded only
where the length is fixed or several lines make a batch.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.data import labels as labelling
from onnxcompress.data.bounded import read_bounded
from onnxcompress.data.dataset import Dataset, Feeds
from onnxcompress.data.fit import describe, fit, fixed
from onnxcompress.data.names import TextRole, text_role
from onnxcompress.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tokenizers import Encoding, Tokenizer

    from onnxcompress.data.options import DataOptions
    from onnxcompress.graph.interface import ValueSpec

MAX_TOKENS = 128
_MOST_TEXT = 64 << 20  # bytes
_MOST_TOKENIZER = 256 << 20  # bytes; a vocabulary of 256,000 takes 33 million
_LONGEST_LINE = 1 << 20  # characters; all of a line is tokenized before it is cut
_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")


@dataclass(frozen=True)
class Target:
    """What the model wants of a text; ``length`` is None where it is open."""

    roles: dict[str, TextRole]
    batch: int
    length: int | None


def load_text(path: Path, inputs: Sequence[ValueSpec], options: DataOptions) -> Dataset:
    """The lines of a text file, as many a call as the model's fixed batch size says."""
    target = _target(inputs)
    tokenizer = _tokenizer(options, target.length or MAX_TOKENS)
    pad = _pad_id(tokenizer)
    lines = _lines(path)
    calls = len(lines) // target.batch
    if calls == 0:
        raise DataError(
            f"{path} holds {len(lines)} lines, but the model takes {target.batch} at a time",
            "Give more lines.",
        )

    def read(i: int) -> Feeds:
        chosen = lines[i * target.batch : (i + 1) * target.batch]
        encodings = _encoded(tokenizer, chosen, f"{path}, call {i}")
        if not max(len(e.ids) for e in encodings):
            raise DataError(f"{path}, call {i}: the tokenizer gives no tokens for it", "Leave that line out.")
        return fit(_arrays(encodings, target, inputs, pad), inputs, f"{path}, call {i}")

    notes: tuple[str, ...] = ()
    if left := len(lines) - calls * target.batch:
        notes = (f"{left} of {len(lines)} lines are left over, since the model takes {target.batch} at a time.",)
    if options.labels is None:
        return Dataset(str(path), calls, read, notes=notes)
    labels = labelling.read_labels(options.labels)
    if len(labels) != len(lines):
        raise DataError(f"there are {len(labels)} labels for {len(lines)} lines in {path}", "Give one per line.")
    return Dataset(str(path), calls, read, labels[: calls * target.batch], (target.batch,) * calls, notes)


def _target(inputs: Sequence[ValueSpec]) -> Target:
    roles: dict[str, TextRole] = {}
    for spec in inputs:
        role = text_role(spec.name)
        if role is None or spec.shape is None or len(spec.shape) != 2 or spec.dtype is None:
            raise DataError(
                f"the model takes {spec.name!r}, {describe(spec)}, which a tokenizer does not give",
                "Give its inputs as .npz files.",
            )
        roles[spec.name] = role
        if list(roles.values()).count(role) > 1:
            raise DataError(f"the model takes {role} of several texts", "Give its inputs as .npz files.")
    if "ids" not in roles.values():
        raise DataError("the model takes no token ids", "Give its inputs as .npz files.")
    shapes = [[fixed(d) for d in spec.shape or ()] for spec in inputs]
    batch = next((s[0] for s in shapes if s[0]), 1)
    return Target(roles, batch, next((s[1] for s in shapes if s[1]), None))


def _tokenizer(options: DataOptions, length: int) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError("reading text needs tokenizers", "Run: pip install 'onnxcompress[text]'") from error
    path = options.tokenizer
    if path is None:
        raise UsageError("a text file needs a tokenizer", "Say --tokenizer tokenizer.json.")
    if not path.is_file():
        raise UsageError(f"the tokenizer {path} does not exist", "Give the tokenizer.json of the model.")
    if path.stat().st_size > _MOST_TOKENIZER:
        raise DataError(f"{path} is far too large for a tokenizer", "Give the tokenizer.json of the model.")
    with _faults(f"{path} is no tokenizer", "Give the tokenizer.json of the model."):
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.enable_truncation(length)
        tokenizer.no_padding()
    return tokenizer


def _encoded(tokenizer: Tokenizer, lines: Sequence[str], where: str) -> list[Encoding]:
    with _faults(f"{where}: the tokenizer fails", "Leave that line out, or give the tokenizer.json of the model."):
        return list(tokenizer.encode_batch(list(lines)))


@contextlib.contextmanager
def _faults(what: str, hint: str) -> Iterator[None]:
    """Whatever the library raises: plain Exception, and where it panics what is not even that."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise DataError(f"{what} ({str(error)[:300]})", hint) from error


def _pad_id(tokenizer: Tokenizer) -> int:
    ids = (tokenizer.token_to_id(token) for token in _PADDING)
    return next((int(i) for i in ids if i is not None), 0)


def _lines(path: Path) -> list[str]:
    try:
        text = read_bounded(path, _MOST_TEXT)
        lines = [line for line in (text or b"").decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable UTF-8 text ({error})", "Save it as UTF-8.") from error
    if text is None:
        raise DataError(f"{path} is larger than {_MOST_TEXT >> 20} MiB", "A few hundred lines are enough.")
    if not lines:
        raise DataError(f"{path} holds no text", "Give one sample per line.")
    if max(map(len, lines)) > _LONGEST_LINE:
        raise DataError(f"{path} has a line of {max(map(len, lines))} characters", "Give one sample per line.")
    return lines


def _arrays(encodings: Sequence[Encoding], target: Target, inputs: Sequence[ValueSpec], pad: int) -> Feeds:
    length = target.length or max(len(e.ids) for e in encodings)

    def table(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
        return np.array([[*row[:length], *[fill] * (length - len(row))] for row in rows], np.int64)

    made = {
        "ids": table([e.ids for e in encodings], pad),
        "mask": table([e.attention_mask for e in encodings], 0),
        "types": table([e.type_ids for e in encodings], 0),
        "positions": np.tile(np.arange(length), (len(encodings), 1)),
    }
    return {s.name: made[target.roles[s.name]].astype(s.dtype) for s in inputs}
