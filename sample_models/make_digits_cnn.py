"""Trains digits-cnn: handwritten digits of 8 x 8 pixels, by a residual network with depthwise layers.

Data: the UCI handwritten digits (E. Alpaydin and C. Kaynak, CC BY 4.0) as shipped in scikit-learn: 1797
images. Every third is held out: those 599 are the evaluation file, and no training step sees them.

Run with the packages of requirements.txt in this folder: python sample_models/make_digits_cnn.py
About half a minute on one core. The same versions on the same kind of processor give the same model.
"""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnxruntime as ort
import torch
from sklearn.datasets import load_digits
from torch import nn

FOLDER = pathlib.Path(__file__).parent
NAME = "digits-cnn"
EPOCHS = 60
CALIBRATION_IMAGES = 128


class Block(nn.Module):
    """x + pointwise(depthwise(pointwise(x))): the inverted residual of MobileNetV2 with a factor of two."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def network() -> nn.Module:
    """Convolutions 8 x 8 -> 4 x 4, residual blocks at both sizes, a hidden layer and ten logits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        Block(64),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 96),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(96, 10),
    )


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each batch moved by up to one pixel up, down, left or right."""
    dy, dx = (int(v) for v in torch.randint(-1, 2, (2,), generator=generator))
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    return padded[:, :, 1 + dy : 9 + dy, 1 + dx : 9 + dx]


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """AdamW with one cosine cycle."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = network()
    steps = EPOCHS * (len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=generator)[: steps // EPOCHS * 64].split(64):
            loss = nn.functional.cross_entropy(model(shifted(images[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    digits = load_digits()
    images = (digits.images[:, None] / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    held_out = np.arange(len(images)) % 3 == 0
    model = train(torch.from_numpy(images[~held_out]), torch.from_numpy(labels[~held_out]))

    path = FOLDER / f"{NAME}.onnx"
    # PRESERVE keeps the BatchNormalization nodes, as many models in the field have them.
    torch.onnx.export(
        model,
        (torch.from_numpy(images[:1]),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )
    onnx.checker.check_model(path, full_check=True)
    np.savez_compressed(FOLDER / f"{NAME}.eval.npz", image=images[held_out], labels=labels[held_out])
    np.savez_compressed(FOLDER / f"{NAME}.calib.npz", image=images[~held_out][:CALIBRATION_IMAGES])
    (logits,) = ort.InferenceSession(path).run(None, {"image": images[held_out]})
    right = int((logits.argmax(1) == labels[held_out]).sum())
    print(f"{path.name}: {path.stat().st_size} bytes, {right} of {held_out.sum()} right")


if __name__ == "__main__":
    main()
