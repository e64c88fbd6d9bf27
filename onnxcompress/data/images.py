"""A folder of images as calls of a model with one image input.

What happens to a picture: turned as its EXIF data say, converted to as many channels as the model takes (1
gray, 3 RGB, 4 RGBA), scaled until it covers the wanted size and cut at the centre (bilinear; a picture of the
right size is left as it is), pixels scaled to 0..1, then ``(x - mean) / std``. Integer inputs get the raw
pixels 0..255.

Labels without ``--labels``: where every image lies in one of at least two class folders, the class is the
folder's name as a number, or else the place of the folder among the sorted names.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.data import labels as labelling
from onnxcompress.data.dataset import Dataset, Feeds
from onnxcompress.data.fit import describe, fit, fixed, kind
from onnxcompress.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from onnxcompress.data.options import DataOptions
    from onnxcompress.graph.interface import ValueSpec

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF")  # no others, whatever the name says: Ghostscript would run for EPS
_LONGEST_SIDE = 65_535  # pixels, the most that a JPEG has
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Target:
    """What the model wants of a picture: ``batch`` is None for an input without a batch axis."""

    spec: ValueSpec
    dtype: np.dtype
    batch: int | None
    channels: int
    height: int
    width: int
    channels_first: bool


def find_images(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def load_images(path: Path, inputs: Sequence[ValueSpec], options: DataOptions) -> Dataset:
    """The images in a folder (or one image file), as many a call as the model's fixed batch size says."""
    try:
        import PIL.Image
    except ImportError as error:
        raise UsageError("reading images needs pillow", "Run: pip install 'onnxcompress[images]'") from error
    del PIL
    paths = [path] if path.is_file() else find_images(path)
    target = _target(inputs, options)
    normalization = _normalization(target, options)
    per = target.batch or 1
    calls = len(paths) // per
    if calls == 0:
        raise DataError(f"{path} holds {len(paths)} images, but the model takes {per} at a time", "Give more images.")

    def read(i: int) -> Feeds:
        pictures = [_prepared(p, target, normalization) for p in paths[i * per : (i + 1) * per]]
        array = pictures[0] if target.batch is None else np.stack(pictures)
        return fit({target.spec.name: array}, inputs, f"{path}, call {i}")

    labels, notes = _labels(path, paths, options)
    if left := len(paths) - calls * per:
        notes += (f"{left} of {len(paths)} images are left over, since the model takes {per} at a time.",)
    if labels is None:
        return Dataset(str(path), calls, read, notes=notes)
    return Dataset(str(path), calls, read, labels[: calls * per], (per,) * calls, notes)


# ------------------------------------------------------------------------------- what the model wants


def _target(inputs: Sequence[ValueSpec], options: DataOptions) -> Target:
    spec = inputs[0] if len(inputs) == 1 else None
    if spec is None or spec.dtype is None or spec.shape is None or len(spec.shape) not in (3, 4):
        wanted = ", ".join(f"{s.name!r}: {describe(s)}" for s in inputs)
        raise DataError(f"images do not fit the model, which takes {wanted}", "Give its inputs as .npz files.")
    dims = [fixed(d) for d in spec.shape]
    batch = (dims[0] or 1) if len(dims) == 4 else None
    first = _channels_first(dims[-3:], spec, options)
    channels, height, width = dims[-3:] if first else (dims[-1], dims[-3], dims[-2])
    if (channels or 3) not in MODES:
        raise DataError(
            f"the input {spec.name!r} has {channels} channels, which no image has",
            f"It is {describe(spec)}; give .npz files, or the other --layout.",
        )
    height, width = _size(height, width, spec, options)
    return Target(spec, spec.dtype, batch, channels or 3, height, width, first)


def _channels_first(dims: Sequence[int | None], spec: ValueSpec, options: DataOptions) -> bool:
    if options.layout != "auto":
        return options.layout == "nchw"
    first, last = dims[0] in (1, 3), dims[-1] in (1, 3)
    if not first and not last:  # RGBA is rare, so a size of 4 counts only where nothing else does
        first, last = dims[0] == 4, dims[-1] == 4
    if first == last:
        raise UsageError(
            f"the input {spec.name!r}, {describe(spec)}, does not tell where its channels are",
            "Say --layout nchw or --layout nhwc.",
        )
    return first


def _size(height: int | None, width: int | None, spec: ValueSpec, options: DataOptions) -> tuple[int, int]:
    if options.size is not None:
        if (height or options.size[0], width or options.size[1]) != options.size:
            raise UsageError(
                f"the size {options.size[0]}x{options.size[1]} is not that of the model",
                f"The input {spec.name!r} is {describe(spec)}; leave --size out.",
            )
        return options.size
    if not height or not width:
        raise UsageError(
            f"the input {spec.name!r}, {describe(spec)}, takes images of any size",
            "Say --size HEIGHTxWIDTH, such as --size 224x224.",
        )
    return height, width


def _normalization(target: Target, options: DataOptions) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and std per channel; None for integer inputs, which get raw pixels."""
    if kind(target.dtype) == "int":
        if options.mean or options.std:
            raise UsageError(
                f"the input {target.spec.name!r} takes raw pixels ({target.dtype.name})",
                "Leave --mean and --std out.",
            )
        if np.dtype(target.dtype) == np.int8:
            raise DataError(f"the input {target.spec.name!r} is int8", "Give its values as .npz files.")
        return None
    mean = np.array(options.mean or (0.0,), np.float32)
    std = np.array(options.std or (1.0,), np.float32)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, target.channels):
            raise UsageError(f"--{name} has {len(values)} values", f"Give one, or one for each of {target.channels}.")
    return mean, std


# ------------------------------------------------------------------------------- pictures


def _prepared(path: Path, target: Target, normalization: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    pixels = _pixels(path, target)
    if normalization is not None:
        mean, std = normalization
        pixels = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    if target.channels_first:
        pixels = pixels.transpose(2, 0, 1)
    return pixels.astype(target.dtype)


def _pixels(path: Path, target: Target) -> np.ndarray:
    """Height × width × channels, 0..255."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                if max(opened.size) > _LONGEST_SIDE:
                    raise Image.DecompressionBombError
                picture = _converted(ImageOps.exif_transpose(opened), MODES[target.channels])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} has absurdly many pixels", "Scale it down, or leave it out.") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError) as error:
        raise DataError(f"{path} is no readable image ({error})", "Leave it out, or save it again.") from error
    size = (target.width, target.height)
    if picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(target.height, target.width, target.channels)


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        picture = Image.fromarray((np.asarray(picture, np.float64) / 257).clip(0, 255).astype(np.uint8))
    return picture.convert(mode)


def _labels(folder: Path, paths: Sequence[Path], options: DataOptions) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if options.labels is not None:
        labels = labelling.read_labels(options.labels)
        if len(labels) != len(paths):
            raise DataError(
                f"there are {len(labels)} labels for {len(paths)} images in {folder}",
                "Give one label per image.",
            )
        return labels, ()
    if folder.is_file():
        return None, ()
    places = [p.relative_to(folder).parts for p in paths]
    classes = sorted({place[0] for place in places})
    if any(len(place) != 2 for place in places) or len(classes) < 2:
        return None, ()
    numbered = all(c.isdecimal() for c in classes)
    index = {c: int(c) if numbered else i for i, c in enumerate(classes)}
    how = "folder names" if numbered else "sorted folder names"
    return np.array([index[place[0]] for place in places]), (f"Labels are the {how}: {len(classes)} classes.",)
