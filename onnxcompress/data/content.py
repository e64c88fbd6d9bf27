"""Pictures, sound and features that look like real ones to a model, made from random numbers.

Pictures: natural images have a power spectrum of about 1/f² (Field, 1987) and edges where things cover each
other (the dead-leaves model; Lee, Mumford and Huang, 2001), and their colour channels agree for the most
part. White noise has none of that: after a few convolutions it is almost constant, so statistics taken on it
mislead. Sound: a stack of harmonics under a slow envelope, as in speech, above a floor of 1/f noise.
"""

from __future__ import annotations

import numpy as np

_LEAVES = 24
_COLOUR = 0.3  # amplitude of what the channels do not share


def smooth_noise(rng: np.random.Generator, height: int, width: int, slope: float = 1.0) -> np.ndarray:
    """Noise with amplitude ``1/f**slope``, mean 0 and standard deviation 1."""
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    flat = np.fft.irfft2(spectrum / np.maximum(f, 1 / max(height, width, 2)) ** slope, s=(height, width))
    return standardized(flat)


def standardized(values: np.ndarray) -> np.ndarray:
    """Shifted to mean 0 and scaled to standard deviation 1 (a constant stays 0)."""
    centred = values - values.mean()
    return np.asarray(centred / max(float(centred.std()), 1e-6))


def picture(rng: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray:
    """(channels, height, width), mean 0 and standard deviation 1 over all; about 99 % within ±3."""
    shared = smooth_noise(rng, height, width)
    layers = np.stack([shared + _COLOUR * smooth_noise(rng, height, width) for _ in range(channels)])
    for _ in range(_LEAVES):
        radius = max(height, width) * 0.3 * rng.power(0.5) + 1
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        tone = rng.standard_normal() + _COLOUR * rng.standard_normal(channels)
        top, left = max(int(y - radius), 0), max(int(x - radius), 0)
        part = layers[:, top : int(y + radius) + 1, left : int(x + radius) + 1]
        rows, columns = np.arange(part.shape[1])[:, None] + top, np.arange(part.shape[2])[None, :] + left
        leaf = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        np.copyto(part, 0.35 * part + tone[:, None, None], where=leaf)
    return standardized(layers)


def sound(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Samples within ±1 of root mean square 0.1, pitched and modulated as speech at 16 kHz is."""
    t = np.arange(samples) / 16000
    pitch = rng.uniform(90, 250) * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(3, 6) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    voice = sum(np.sin(k * phase + rng.uniform(0, 6.28)) / k for k in range(1, 16))
    envelope = 0.55 + 0.45 * np.sin(2 * np.pi * (rng.uniform(2, 5) * t + rng.uniform()))
    floor = smooth_noise(rng, 1, samples, slope=0.5)[0]
    return np.clip(0.1 * standardized(voice * envelope + 0.15 * floor), -1, 1)


def features(rng: np.random.Generator, shape: tuple[int, ...], *, smooth: bool) -> np.ndarray:
    """Standard normal values; ``smooth`` ones vary slowly along the last two axes, as a spectrogram does."""
    if not smooth or len(shape) < 2 or min(shape) == 0:
        return rng.standard_normal(shape)
    planes = int(np.prod(shape[:-2]))
    return np.stack([smooth_noise(rng, *shape[-2:]) for _ in range(planes)]).reshape(shape)
