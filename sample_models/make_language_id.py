"""Trains language-id: which of twenty languages a short text is in, by a small transformer encoder.

Data: the translated messages (.po files) of Django and Wagtail, both under the BSD 3-Clause licence, taken
from their wheels on PyPI. A message is in one part only, in all its translations: the hash of the English
original decides.

Run with the packages of requirements.txt in this folder: python sample_models/make_language_id.py
It downloads the two wheels with pip and takes some seven minutes on one core. The same versions on the same
kind of processor give the same model.
"""

from __future__ import annotations

import ast
import hashlib
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import tokenizers
import torch
from torch import nn

FOLDER = pathlib.Path(__file__).parent
NAME = "language-id"
WHEELS = ("django==5.2.19", "wagtail==8.0.1")
# The labels, in this order; a language may have several regional catalogues.
LANGUAGES = {
    "cs": ["cs"], "da": ["da"], "de": ["de"], "el": ["el"], "en": ["en"], "es": ["es"], "fi": ["fi"],
    "fr": ["fr"], "hu": ["hu"], "it": ["it"], "lt": ["lt"], "nb": ["nb"], "nl": ["nl"], "pl": ["pl"],
    "pt": ["pt_BR", "pt_PT", "pt"], "ro": ["ro"], "ru": ["ru"], "sv": ["sv"], "tr": ["tr"], "uk": ["uk"],
}  # fmt: skip
VOCABULARY, WIDTH, HEADS, HIDDEN, LAYERS, LONGEST = 640, 128, 4, 384, 2, 48
STEPS, BATCH = 4000, 64
EVALUATION_PER_LANGUAGE, CALIBRATION_PER_LANGUAGE = 30, 8

Samples = dict[str, list[tuple[str, int]]]

# ------------------------------------------------------------------------------------------------------- text


def messages(catalogue: str) -> Iterator[tuple[str, str]]:
    """(original, translation) of each singular entry of a .po file."""
    quoted = r'((?:[ \t]*"(?:[^"\\\n]|\\.)*"\n)+)'
    for original, translation in re.findall(rf"^msgid{quoted}msgstr{quoted}", catalogue, re.MULTILINE):
        yield unquoted(original), unquoted(translation)


def unquoted(lines: str) -> str:
    """The text of the quoted lines of an entry; their escapes are those of a Python string."""
    return "".join(ast.literal_eval(line.strip()) for line in lines.splitlines())


def plain(text: str) -> str:
    """The words of a message: no placeholders, tags, addresses or digits; enough of them, or nothing."""
    text = re.sub(r"%\(\w+\)[a-z]|%[a-z]|\{[^}]*\}|<[^>]*>|&\w+;|\S*(?:://|\w\.\w|_)\S*|\d+", " ", text)
    text = re.sub(r"[^\w\s',.!?;:-]", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(re.findall(r"[^\W\d_]", text)) >= 16 else ""


def part(original: str) -> str:
    """One message in six is for evaluation, whatever its translation."""
    return "eval" if hashlib.sha256(original.encode()).digest()[0] % 6 == 0 else "train"


def collect(folder: pathlib.Path) -> Samples:
    """Every distinct text of every language, with its label."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *WHEELS],
        check=True,
    )
    found: dict[str, dict[str, tuple[str, int]]] = {"train": {}, "eval": {}}
    locales = {locale: label for label, names in enumerate(LANGUAGES.values()) for locale in names}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                locale = re.search(r"/locale/(\w+)/LC_MESSAGES/\w+\.po$", name)
                if locale is None or locale[1] not in locales:
                    continue
                for original, translation in messages(archive.read(name).decode()):
                    add(found[part(original)], original, translation, locales[locale[1]])
    for text in found["eval"].keys() & found["train"].keys():
        del found["eval"][text]
    return {key: sorted(texts.values()) for key, texts in found.items()}


def add(texts: dict[str, tuple[str, int]], original: str, translation: str, label: int) -> None:
    """Takes a translation, and the original as English; one that was left untranslated teaches nothing."""
    english = list(LANGUAGES).index("en")
    for text, language in ((plain(original), english), (plain(translation), label)):
        if text and (language == english or text != plain(original)):
            texts.setdefault(text.casefold(), (text, language))


def tokenizer_for(texts: list[str]) -> tokenizers.Tokenizer:
    """Byte-pair encoding of lower-case text, learnt from the training part alone."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["[PAD]", "[UNK]"], limit_alphabet=250, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def encode(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(batch, sequence) of token ids and of the mask, padded to the longest text."""
    encoded = tokenizer.encode_batch(texts)
    return (
        np.array([e.ids for e in encoded], np.int64),
        np.array([e.attention_mask for e in encoded], np.int64),
    )


# ------------------------------------------------------------------------------------------------------ model


class Layer(nn.Module):
    """Self-attention and a feed-forward pair, each added to what it read, normalised first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention, self.norm_hidden = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.output = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.drop = nn.Dropout(0.1)

    def attention(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.reshape(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        weight = torch.softmax(query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5 + bias, dim=-1)
        return self.output((weight @ value).transpose(1, 2).reshape(x.shape))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = x + self.drop(self.attention(self.norm_attention(x), bias))
        return x + self.drop(self.down(nn.functional.gelu(self.up(self.norm_hidden(x)))))


class Encoder(nn.Module):
    """Token and position embeddings, layers, the mean over the tokens that count, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LANGUAGES))
        self.drop = nn.Dropout(0.1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.float()
        bias = (1.0 - mask)[:, None, None, :] * -10000.0
        x = self.drop(self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1])))
        for layer in self.layers:
            x = layer(x, bias)
        counted = mask[:, :, None]
        return self.head((self.norm(x) * counted).sum(1) / counted.sum(1))


def window(text: str, rng: random.Random) -> str:
    """A run of whole words of a text: the model must do with three words as with thirty."""
    words = text.split()
    count = rng.randint(min(3, len(words)), len(words))
    start = rng.randint(0, len(words) - count)
    return " ".join(words[start : start + count])


def train(samples: list[tuple[str, int]], tokenizer: tokenizers.Tokenizer) -> Encoder:
    """AdamW with one cosine cycle, every language drawn equally often."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = random.Random(0)
    by_language = [[text for text, label in samples if label == k] for k in range(len(LANGUAGES))]
    model = Encoder()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        labels = [rng.randrange(len(LANGUAGES)) for _ in range(BATCH)]
        ids, mask = encode(tokenizer, [window(rng.choice(by_language[k]), rng) for k in labels])
        logits = model(torch.from_numpy(ids), torch.from_numpy(mask))
        loss = nn.functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return model.eval()


# ----------------------------------------------------------------------------------------------------- output


def export(model: Encoder, ids: np.ndarray, mask: np.ndarray) -> pathlib.Path:
    """ONNX at opset 17, both axes free."""
    path = FOLDER / f"{NAME}.onnx"
    axes = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        model,
        (torch.from_numpy(ids[:2]), torch.from_numpy(mask[:2])),
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(path, full_check=True)
    return path


def pick(samples: list[tuple[str, int]], per_language: int, seed: int) -> list[tuple[str, int]]:
    """The same number of texts of each language, in an order that mixes them."""
    rng = random.Random(seed)
    by_language = ([s for s in samples if s[1] == k] for k in range(len(LANGUAGES)))
    chosen = [s for texts in by_language for s in rng.sample(texts, per_language)]
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples = collect(pathlib.Path(folder))
    tokenizer = tokenizer_for([text for text, _ in samples["train"]])
    model = train(samples["train"], tokenizer)

    evaluation = pick(samples["eval"], EVALUATION_PER_LANGUAGE, seed=1)
    ids, mask = encode(tokenizer, [text for text, _ in evaluation])
    labels = np.array([label for _, label in evaluation], np.int64)
    path = export(model, ids, mask)
    np.savez_compressed(FOLDER / f"{NAME}.eval.npz", input_ids=ids, attention_mask=mask, labels=labels)
    tokenizer.no_padding()
    fitting = [s for s in samples["train"] if not tokenizer.encode(s[0]).overflowing]
    tokenizer.save(str(FOLDER / f"{NAME}.tokenizer.json"))
    calibration = pick(fitting, CALIBRATION_PER_LANGUAGE, seed=2)
    (FOLDER / f"{NAME}.calib.txt").write_text("".join(f"{text}\n" for text, _ in calibration), encoding="utf-8")

    (logits,) = ort.InferenceSession(path).run(None, {"input_ids": ids, "attention_mask": mask})
    right = int((logits.argmax(1) == labels).sum())
    print(f"{path.name}: {path.stat().st_size} bytes, {right} of {len(labels)} right")


if __name__ == "__main__":
    main()
