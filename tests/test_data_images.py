"""Images become what the model takes, by one convention."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.data import DataOptions, load
from onnxcompress.errors import DataError, UsageError
from onnxcompress.graph.interface import Dim, ValueSpec

if TYPE_CHECKING:
    from pathlib import Path

Image = pytest.importorskip("PIL.Image")


def spec(dtype: object, *shape: Dim) -> list[ValueSpec]:
    return [ValueSpec("x", np.dtype(dtype), 1, shape)]  # type: ignore[call-overload]


NCHW = spec(np.float32, "n", 3, 4, 6)


def save(path: Path, colour: tuple[int, ...] | int = (255, 128, 0), size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[len(colour) if isinstance(colour, tuple) else 1]
    Image.new(mode, size, colour).save(path)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (NCHW, (1, 3, 4, 6)),
        (spec(np.float32, 1, 4, 6, 3), (1, 4, 6, 3)),
        (spec(np.float16, 3, 4, 6), (3, 4, 6)),
        (spec(np.float32, "n", 1, 4, 6), (1, 1, 4, 6)),
        (spec(np.float32, "n", 4, 4, 6), (1, 4, 4, 6)),
    ],
)
def test_shape_and_type_are_read_from_the_model(
    tmp_path: Path, inputs: list[ValueSpec], expected: tuple[int, ...]
) -> None:
    save(tmp_path / "a.png")
    made = load(tmp_path, inputs).first()["x"]
    assert made.shape == expected
    assert made.dtype == inputs[0].dtype
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_pixels_are_scaled_to_one_then_normalized(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    options = DataOptions(mean=(0.5, 0.25, 0.0), std=(0.5,))
    made = load(tmp_path, NCHW, options).first()["x"]
    expected = (np.array([255, 128, 0]) / 255 - [0.5, 0.25, 0]) / 0.5
    assert np.allclose(made[0, :, 1, 1], expected, atol=1e-6)


def test_integer_inputs_get_raw_pixels(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    made = load(tmp_path, spec(np.uint8, "n", 4, 6, 3)).first()["x"]
    assert made[0, 0, 0].tolist() == [255, 128, 0]
    with pytest.raises(UsageError, match="raw pixels"):
        load(tmp_path, spec(np.uint8, "n", 4, 6, 3), DataOptions(mean=(0.5,)))


def test_scaled_to_cover_and_cut_at_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 3:9] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert load(tmp_path, NCHW).first()["x"].min() == 1.0
    save(tmp_path / "a.png", size=(60, 40))
    assert load(tmp_path, NCHW).first()["x"].shape == (1, 3, 4, 6)


def test_sixteen_bits_a_pixel(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 257 * 100, np.uint16)).save(tmp_path / "a.png")
    made = load(tmp_path, spec(np.uint8, "n", 1, 4, 6)).first()["x"]
    assert set(made.ravel().tolist()) == {100}


def test_turned_as_the_camera_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 6), (9, 9, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    made = load(tmp_path, spec(np.uint8, "n", 3, 4, 6)).first()["x"]
    assert set(made.ravel().tolist()) == {9}


def test_open_sizes_need_an_option_and_fixed_ones_refuse_another(tmp_path: Path) -> None:
    save(tmp_path / "a.bmp")
    free = spec(np.float32, "n", 3, "h", "w")
    with pytest.raises(UsageError) as caught:
        load(tmp_path, free)
    assert "--size" in caught.value.hint
    assert load(tmp_path, free, DataOptions(size=(8, 10))).first()["x"].shape == (1, 3, 8, 10)
    with pytest.raises(UsageError, match="8x10 is not that of the model"):
        load(tmp_path, NCHW, DataOptions(size=(8, 10)))


def test_the_layout_is_asked_for_where_the_shape_does_not_tell(tmp_path: Path) -> None:
    save(tmp_path / "a.webp")
    free, size = spec(np.float32, "n", None, None, None), (4, 6)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, free, DataOptions(size=size))
    assert "--layout" in caught.value.hint
    assert load(tmp_path, free, DataOptions(size=size, layout="nhwc")).first()["x"].shape == (1, 4, 6, 3)


@pytest.mark.parametrize(
    "inputs",
    [spec(np.float32, "n", 10), spec(np.float32, "n", 8, 4, 6), [*NCHW, *NCHW], spec(np.int8, 1, 3, 4, 6)],
)
def test_models_that_take_no_image(tmp_path: Path, inputs: list[ValueSpec]) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(DataError):
        load(tmp_path, inputs, DataOptions(layout="nchw"))


@pytest.mark.parametrize(
    ("folders", "expected"),
    [(("2", "10", "7"), [10, 2, 7]), (("dog", "cat", "10"), [0, 1, 2]), (("one",), None)],
)
def test_class_folders_are_labels(tmp_path: Path, folders: tuple[str, ...], expected: list[int] | None) -> None:
    for folder in folders:
        save(tmp_path / folder / "a.png")
    labels = load(tmp_path, NCHW).labels
    assert (None if labels is None else labels.tolist()) == expected


def test_labels_of_their_own_come_before_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save(tmp_path / "images" / folder / "x.png")
    np.save(tmp_path / "l.npy", np.array([5, 6]))
    labels = load(tmp_path / "images", NCHW, DataOptions(labels=tmp_path / "l.npy")).labels
    assert labels is not None
    assert labels.tolist() == [5, 6]
    np.save(tmp_path / "l.npy", np.array([5]))
    with pytest.raises(DataError, match="1 labels for 2 images"):
        load(tmp_path / "images", NCHW, DataOptions(labels=tmp_path / "l.npy"))


def test_images_beside_folders_are_no_classes(tmp_path: Path) -> None:
    for place in ("a/x.png", "b/x.png", "x.png"):
        save(tmp_path / place)
    dataset = load(tmp_path, NCHW)
    assert len(dataset) == 3
    assert dataset.labels is None


def test_a_fixed_batch(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / f"{i}.png", (i, i, i))
    dataset = load(tmp_path, spec(np.uint8, 2, 3, 4, 6))
    assert [f["x"][:, 0, 0, 0].tolist() for f in dataset] == [[0, 1], [2, 3]]
    assert "1 of 5 images" in dataset.notes[0]
    with pytest.raises(DataError, match="5 images, but the model takes 8"):
        load(tmp_path, spec(np.uint8, 8, 3, 4, 6))


def test_broken_and_absurd_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"a\.png is no readable image"):
        load(tmp_path, NCHW)
    save(tmp_path / "a.png", size=(60, 40))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="no readable image"):
        load(tmp_path, NCHW)
    (tmp_path / "a.png").write_bytes(data)
    for limit in (2000, 1000):  # Pillow warns above its limit, and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match="absurdly many pixels"):
            load(tmp_path, NCHW)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, NCHW)
    assert "onnxcompress[images]" in caught.value.hint
