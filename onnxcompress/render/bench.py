"""A benchmark as tables: models by settings, then what operators and layers take, before against after."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, Tone, row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onnxcompress.benching.facts import Bench, Profile, Row, Setting
    from onnxcompress.runtime.interleaving import Speedup
    from onnxcompress.runtime.layer_times import Share

COLUMNS = (
    "model", "device", "threads", "batch", "sequence", "calls", "units", "p50_ms", "p95_ms", "speedup", "speedup_low",
    "speedup_high", "items_per_call", "throughput_per_s", "load_ms", "peak_bytes", "base_bytes", "size_bytes",
)  # fmt: skip
_LONGEST_NAME = 60
_TOP = 12  # rows of a profile
_MIB = 1 << 20
_SMALL_MS = 0.0005  # of which the profiler, which counts microseconds, knows nothing


def blocks(found: Bench, *, verbose: bool = False) -> tuple[Block, ...]:
    """The whole page but the last line."""
    return tuple(_blocks(found, verbose))


def _blocks(found: Bench, verbose: bool) -> Iterator[Block]:
    yield _main(found)
    yield Lines("", tuple(Cell(text) for text in _remarks(found)))
    for setting in found.settings if verbose else found.settings[:1]:
        profiles = [p for p in found.profiles if p.setting == setting]
        if profiles:
            top = None if verbose else _TOP
            where = describe(setting, found.settings)
            yield _profile(f"operators, {where}", "operator", profiles, [p.operators for p in profiles], top)
            yield _profile(f"layers, {where}", "layer", profiles, [p.layers for p in profiles], top)
    if found.profiles and len(found.settings) > 1 and not verbose:
        yield Lines("", (Cell("what operators take in the other settings: --verbose or --json", "faint"),))
    if found.notes:
        yield Lines("notes", tuple(Cell(words.safe(note)) for note in found.notes))


def _main(found: Bench) -> Table:
    sized = [word for word in ("batch", "sequence") if any(getattr(s, word) is not None for s in found.settings)]
    unit = "items/s" if all(r.items_per_call is not None for r in found.rows) else "calls/s"
    several = len(found.models) > 1
    header = ["model", "threads", *sized, "p50", "p95", *["speed-up"] * several, unit]
    header += ["load", "peak"] if _weighed(found) else []
    rows = []
    for item in found.rows:
        sizes = [_or_dash(getattr(item.setting, word)) for word in sized]
        cells: list[str | Cell] = [words.safe(item.model, 60), str(item.setting.threads), *sizes]
        cells += [words.milliseconds(item.latency_ms.p50), words.milliseconds(item.latency_ms.p95)]
        cells += [_speedup(item.speedup)] * several
        cells.append(_rate(item.throughput_per_s))
        if _weighed(found):
            cells += ["-" if item.load_ms is None else words.milliseconds(item.load_ms), _mib(item.peak_bytes)]
        rows.append(row(*cells))
    title = f"{found.settings[0].device}, {_data(found)}"
    return Table(title, tuple(header), tuple(rows), frozenset(range(1, len(header))))


def _weighed(found: Bench) -> bool:
    return any(r.load_ms is not None for r in found.rows)


def _data(found: Bench) -> str:
    made_up = "synthetic inputs, as no data was given"
    return made_up if found.data == "synthetic" else f"calls from {words.safe(found.data)}"


def _or_dash(size: int | None) -> str:
    return "-" if size is None else str(size)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / _MIB:.0f} MiB"


def _speedup(found: Speedup | None) -> Cell:
    if found is None:
        return Cell("reference", "faint")
    tone: Tone = "good" if found.low > 1 else "bad" if found.high < 1 else "plain"
    return Cell(_factors(found), tone)


def _factors(found: Speedup) -> str:
    return f"{found.ratio:.2f}x ({found.low:.2f} to {found.high:.2f})"


def _remarks(found: Bench) -> Iterator[str]:
    shapes = next(iter(found.settings)).shapes
    shown = ", ".join(f"{words.safe(n, 40)} {'x'.join(map(str, s)) or 'scalar'}" for n, s in list(shapes.items())[:4])
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    yield f"inputs{' of the first setting' if len(found.settings) > 1 else ''}: {shown or 'none'}{more}"
    if len(found.models) > 1:
        yield f"speed-up over {words.safe(found.models[0].name, 60)}, with its 95 % interval; above 1 is faster"
    if found.profiles:
        yield "operators: by the runtime's profiler, which itself takes time at every node: shares say more than totals"
    bases = [r.base_bytes for r in found.rows if r.base_bytes is not None]
    if bases:
        yield f"load and peak: in a process of its own, of which {_mib(min(bases))} are the runtime without a model"


def describe(setting: Setting, among: Sequence[Setting]) -> str:
    """A setting in words; sizes that never differ are left out, but never the threads."""
    parts = [words.plural(setting.threads, "thread")]
    for word in ("batch", "sequence"):
        if getattr(setting, word) is not None and len({getattr(s, word) for s in among}) > 1:
            parts.append(f"{word} {getattr(setting, word)}")
    return ", ".join(parts)


# ------------------------------------------------------------------------- profiles


def _profile(
    title: str, kind: str, profiles: Sequence[Profile], parts: Sequence[Sequence[Share]], top: int | None
) -> Table:
    """One row a name, the slowest in any model first; beside each time, what took it."""
    by_name = [{share.name: share for share in shares} for shares in parts]
    names = sorted(set().union(*by_name), key=lambda n: -max(known[n].ms for known in by_name if n in known))
    ops = kind == "layer"
    rows = [_shares_row(name, [known.get(name) for known in by_name], ops=ops) for name in names[:top]]
    if top is not None and len(names) > top:
        rest = [sum(known[n].ms for n in names[top:] if n in known) for known in by_name]
        cells = [c for ms in rest for c in (_ms(ms), "")]
        rows.append(row(f"{len(names) - top} more: --verbose or --json", *cells, *_gain(rest)))
    totals = [profile.total_ms for profile in profiles]
    rows.append(row("all", *[c for ms in totals for c in (_ms(ms), "")], *_gain(totals)))
    second = "operators" if ops else "nodes"
    header = [kind, *[h for p in profiles for h in (words.safe(p.model, 32), second)]]
    header += ["speed-up"] if len(profiles) == 2 else []
    texts = {2 + 2 * i for i in range(len(profiles))} if ops else set()
    runs = min(profile.runs for profile in profiles)
    numeric = frozenset(range(1, len(header))) - texts
    return Table(f"{title}: ms of a run, median of {words.plural(runs, 'run')}", tuple(header), tuple(rows), numeric)


def _shares_row(name: str, shares: Sequence[Share | None], *, ops: bool) -> tuple[Cell, ...]:
    cells = []
    for share in shares:
        if share is None:
            cells += ["-", "-"]
        else:
            cells += [_ms(share.ms), words.safe(_operators(share.ops), 40) if ops else str(share.nodes)]
    alike = ops or len({share.nodes for share in shares if share}) == 1
    times = [share.ms if share and alike else 0.0 for share in shares]
    return row(_tail(words.safe(name)), *cells, *_gain(times))


def _tail(name: str) -> str:
    """The end of a long name, in which the names of one model differ."""
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


def _operators(ops: Sequence[str]) -> str:
    return ", ".join(ops[:2]) + (f" and {len(ops) - 2} more" if len(ops) > 2 else "")


def _ms(value: float) -> str:
    return f"{value:.3f}"


def _gain(times: Sequence[float]) -> list[str]:
    if len(times) != 2:
        return []
    return [f"{times[0] / times[1]:.2f}x" if min(times) > _SMALL_MS else "-"]


# ------------------------------------------------------------------------- the last line, and CSV


def closing(found: Bench) -> str:
    """``onnxcompress: PASSED 2 models, 1 setting: model.int8.onnx 1.31x faster (1.27 to 1.35) with 1 thread``."""
    count = f"{words.plural(len(found.models), 'model')}, {words.plural(len(found.settings), 'setting')}"
    parts = [_verdict(m.name, [r for r in found.rows if r.model == m.name], found.settings) for m in found.models[1:]]
    if not parts:
        first = found.rows[0]
        parts = [f"{words.safe(first.model, 60)} p50 {words.milliseconds(first.latency_ms.p50)}, {_where(found)}"]
    made_up = " on synthetic inputs" if found.data == "synthetic" else ""
    return f"onnxcompress: PASSED {count}{made_up}: {'; '.join(parts)}"


def _where(found: Bench) -> str:
    return describe(found.rows[0].setting, found.settings)


def _verdict(name: str, rows: Sequence[Row], settings: Sequence[Setting]) -> str:
    known = [(r.speedup, r.setting) for r in rows if r.speedup is not None]
    if len(known) == 1:
        return f"{words.safe(name, 60)} {_word(known[0][0])}"
    worst, best = (pick(known, key=lambda k: k[0].ratio) for pick in (min, max))
    least = f"{worst[0].ratio:.2f}x ({describe(worst[1], settings)})"
    return f"{words.safe(name, 60)} {least} to {best[0].ratio:.2f}x ({describe(best[1], settings)})"


def _word(found: Speedup) -> str:
    bounds = f"({found.low:.2f} to {found.high:.2f})"
    if found.high < 1:
        return f"SLOWER: {found.ratio:.2f}x {bounds}"
    return f"{found.ratio:.2f}x faster {bounds}" if found.low > 1 else f"as fast: {found.ratio:.2f}x {bounds}"


def to_csv(found: Bench) -> str:
    """One line a model and setting, below the names of the columns; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    sizes = {model.name: model.facts.size_bytes for model in found.models}
    writer.writerows(_csv_row(item, sizes[item.model]) for item in found.rows)
    return out.getvalue()


def _csv_row(item: Row, size_bytes: int) -> Iterable[object]:
    where, speedup = item.setting, item.speedup
    factors = (speedup.ratio, speedup.low, speedup.high) if speedup else (None, None, None)
    return (
        words.safe(item.model), where.device, where.threads, where.batch, where.sequence, item.calls, item.units,
        item.latency_ms.p50, item.latency_ms.p95, *factors, item.items_per_call, item.throughput_per_s,
        item.load_ms, item.peak_bytes, item.base_bytes, size_bytes,
    )  # fmt: skip
