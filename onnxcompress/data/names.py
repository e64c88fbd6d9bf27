"""What the name of an input says of its role, as exporters name things."""

from __future__ import annotations

import re
from typing import Literal

TextRole = Literal["ids", "mask", "types", "positions"]

_TEXT: dict[TextRole, re.Pattern[str]] = {
    "positions": re.compile(r"position|pos_ids"),
    "types": re.compile(r"token_type|segment|type_ids"),
    "mask": re.compile(r"mask"),
    "ids": re.compile(r"(^|_)(ids?|tokens?)$|input_ids|token_ids|^(input_?)?(tokens?|text|words?)$"),
}

LENGTH = re.compile(r"(^|[_.])(x_?)?(len|lens|length|lengths|seqlens?)$|seq_?len|_lens?$|lengths?$")
STATE = re.compile(r"past|cache|state|memory|(^|_)mems?(_|$|\d)|^(h|c|hx|cx|h_?[0n]|c_?[0n]|hidden|cell)(_in)?$")
RATE = re.compile(r"^sr$|sample_?rate|sampling_?rate")
TIMESTEP = re.compile(r"time_?steps?$|^t$")
AUDIO = re.compile(r"audio|wav|waveform|speech|signal|sound|input_values|pcm")
IMAGE_SIZE = re.compile(r"(im|img|image|images|target|orig)_?(shape|size|info)s?|target_sizes")
SCALE = re.compile(r"scale|speed|ratio|temperature|factor")
FLAG = re.compile(r"use_|is_|enable|flag|training|branch")

BATCH_DIM = re.compile(r"^(n|b|bs)$|batch")
PAST_DIM = re.compile(r"past|cache")
TOTAL_DIM = re.compile(r"total")
HEIGHT_DIM = re.compile(r"^h$|height")
WIDTH_DIM = re.compile(r"^w$|width")
CHANNEL_DIM = re.compile(r"^c$|channel")
SAMPLES_DIM = re.compile(r"samples|audio|wav")
FRAMES_DIM = re.compile(r"time|frames|^t$")
SEQUENCE_DIM = re.compile(r"seq|token|length|text")


def text_role(name: str) -> TextRole | None:
    """The part of a tokenizer's output that an input of this name takes."""
    lowered = name.lower()
    return next((role for role, pattern in _TEXT.items() if pattern.search(lowered)), None)
