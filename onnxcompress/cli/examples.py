"""Examples for the help of each command: a command line, and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One command line, as it is typed."""

    line: str
    says: str


EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "quantize": (
        Example("onnxcompress quantize model.onnx", "Weights of 8 bits, verified on synthetic inputs."),
        Example(
            "onnxcompress quantize model.onnx --data calls --min-sqnr 25 --max-size 27%",
            "With calibration data and budgets: exit code 1 where they do not hold.",
        ),
        Example(
            "onnxcompress quantize models -o small --jobs 2 --report '{stem}.html'",
            "Every model of a folder, two at a time, each with a report of its own.",
        ),
        Example("onnxcompress quantize - -o - < model.onnx > small.onnx", "Through a pipe."),
    ),
    "prune": (
        Example(
            "onnxcompress prune model.onnx --data calls --sparsity 0.7",
            "Seven of ten weights go; the file stores the others.",
        ),
        Example(
            "onnxcompress prune model.onnx --data calls --sparsity 0.9 --recover",
            "The weights that stay are trained to give what the original gives.",
        ),
        Example(
            "onnxcompress prune model.onnx --data calls --structure all --min-speedup 1.5",
            "Channels, neurons and heads are cut out, as few as that speed needs.",
        ),
    ),
    "factorize": (
        Example(
            "onnxcompress factorize model.onnx --data calls --params 0.6",
            "Six of ten parameters stay in the layers that become products.",
        ),
        Example(
            "onnxcompress factorize model.onnx --data calls --min-sqnr 20",
            "As much goes as that fidelity allows.",
        ),
    ),
    "finetune": (
        Example(
            "onnxcompress finetune pruned.onnx --data train.npz --eval-data eval.npz",
            "On the labels in train.npz, judged on others; zeros stay zero.",
        ),
        Example(
            "onnxcompress finetune model.onnx --data calls --labels y.npy --minutes 10",
            "With labels of their own, and what ten minutes allow.",
        ),
    ),
    "distill": (
        Example(
            "onnxcompress distill big.onnx small.onnx --data calls",
            "The small model learns to give what the big one gives.",
        ),
        Example(
            "onnxcompress distill big.onnx small.onnx --data calls --match h2=h6 --transfer",
            "A hidden value is matched, and weights begin as the teacher's.",
        ),
    ),
    "merge": (
        Example("onnxcompress merge a.onnx b.onnx -o soup.onnx", "The mean of the weights of models of one origin."),
        Example(
            "onnxcompress merge a.onnx b.onnx c.onnx --search --data calls --labels y.npy",
            "The shares that score best on labelled data.",
        ),
        Example(
            "onnxcompress merge a.onnx b.onnx --ensemble outputs", "Both in one graph, with the mean of what they give."
        ),
    ),
    "simplify": (
        Example("onnxcompress simplify model.onnx -o clean.onnx", "The same function in fewer nodes."),
        Example("onnxcompress simplify *.onnx -o clean --no-verify", "Several models, results in a folder."),
    ),
    "compress": (
        Example("onnxcompress compress model.onnx --recipe encoder --data calls", "A recipe that ships with the tool."),
        Example(
            "onnxcompress compress model.onnx --recipe mine.toml --keep-steps",
            "One of your own; the models between its steps are kept.",
        ),
    ),
    "verify": (
        Example("onnxcompress verify model.onnx model.int8.onnx", "Fidelity, latency and size, on synthetic inputs."),
        Example(
            "onnxcompress verify a.onnx b.onnx --min-cosine 0.999 --junit checks.xml",
            "Held to a budget, with the verdict for a build server.",
        ),
    ),
    "reproduce": (
        Example(
            "onnxcompress reproduce model.int8.onnx --from model.onnx --data calls",
            "The same bytes again, or exit code 1 and what differs.",
        ),
    ),
    "sensitivity": (
        Example(
            "onnxcompress sensitivity model.onnx --data calls --bits 4 --seconds 60",
            "Which layers bear 4 bits least, and what to exclude.",
        ),
    ),
    "compare": (
        Example("onnxcompress compare model.onnx model.int8.onnx --data calib", "Where along the graph they part."),
        Example("onnxcompress compare a.onnx b.onnx --min-sqnr 30 --report c.html", "Exit with 1 below; a drawing."),
    ),
    "inspect": (
        Example("onnxcompress inspect model.onnx", "One page: size, work, memory, layers, prospects."),
        Example("onnxcompress inspect model.onnx --layers --sort macs --top 20", "The layers that compute most."),
    ),
    "bench": (
        Example(
            "onnxcompress bench model.onnx model.int8.onnx --threads 1,4 --batch 1,8",
            "Both models on four settings, in turns.",
        ),
        Example("onnxcompress bench model.onnx --profile --csv -", "Where the time goes; rows to standard output."),
    ),
    "doctor": (Example("onnxcompress doctor --json machine.json", "What is fast here, for people and for programs."),),
    "recipe": (Example("onnxcompress recipe list", "The recipes that ship with the tool."),),
    "recipe list": (Example("onnxcompress recipe list", "Their names, and what each is for."),),
    "recipe show": (Example("onnxcompress recipe show edge-cnn", "Its steps, with comments."),),
    "recipe init": (Example("onnxcompress recipe init fast -o mine.toml", "A recipe to change."),),
    "recipe check": (Example("onnxcompress recipe check mine.toml", "Errors with their lines; nothing runs."),),
    "recipe schema": (Example("onnxcompress recipe schema -o recipe.schema.json", "For an editor."),),
}
