"""evaluate: a model against labelled texts -> metrics.json and a printed table."""

import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import Parameter

from mmsieve.annotator import Row, RunnerOptions
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.generate.files import TrainingRecord, parse_training_record, read_training_file
from mmsieve.generate.groups import TextKind, kind_of
from mmsieve.levels import LEVELS
from mmsieve.methods.load import load_annotator
from mmsieve.methods.unifilter import ScoringOptions
from mmsieve.metrics import Metrics, measure
from mmsieve.progress import show_progress
from mmsieve.read import Parse, Record
from mmsieve.shard_job import Progress as Advance
from mmsieve.table import check_folder, make_folder, write_atomically
from mmsieve.workers import Prepared, PreparePool

_CHUNK = 64


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How an evaluation is carried out."""

    images: Path | None = None
    """Folder that the image paths are relative to; by default that of the file."""
    workers: int = 0
    """Processes that decode and tokenise (0: in the main one)."""
    batch_tokens: int | None = None
    """Tokens of a batch, those of images included; by default what suits the device."""
    limit: int | None = None
    """Evaluate the first so many texts."""
    dry_run: bool = False
    """Check the request, say what would be evaluated, and stop."""
    quiet: bool = False
    """No progress; only the table."""


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """How an evaluation went."""

    out: Path
    seconds: float
    overall: Metrics | None = None
    by_kind: dict[str, Metrics] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: a text that can't be scored is counted in `statuses`."""

    def summary(self) -> str:
        """The numbers, the last line with counts, seconds and the output's path."""
        lines = list(self.notes)
        if self.overall is not None:
            lines += _table({"all": self.overall, **self.by_kind})
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        return "\n".join([*lines, f"{counts or 'nothing'} in {self.seconds:.1f} s: {self.out}"])


def evaluate(
    *,
    model: str,
    data: Path,
    out: Path,
    scoring: ScoringOptions | None = None,
    run: EvaluateOptions | None = None,
) -> EvaluateReport:
    """Compare a model's scores with the levels of labelled texts.

    Parameters
    ----------
    model
        A bundled model (see `models`), a checkpoint's folder, or its Hugging Face id.
    data
        A training file: a JSON list of {"image": ..., "text": ..., "label": 0-3}.
    out
        Folder of metrics.json.
    """
    started = time.monotonic()
    options, data, out = run or EvaluateOptions(), Path(data), Path(out)
    _check(options, out)
    texts = read_training_file(data)[: options.limit]
    _check_labels(texts, data)
    annotator = load_annotator(model, scoring)
    if options.dry_run:
        note = f"would evaluate {len(texts)} texts of {data}"
        return EvaluateReport(out=out, seconds=time.monotonic() - started, notes=(note,))
    pool = PreparePool(annotator.preparer(), options.workers, keep_metadata=False)
    runner = annotator.runner(RunnerOptions(annotator.device, options.batch_tokens))
    parse = partial(parse_training_record, options.images or data.parent)
    rows: list[Row | SampleError | None] = [None] * len(texts)
    try:
        with show_progress("evaluate", len(texts), options.quiet, "texts") as advance:
            stream = _items(_prepared(pool, parse, texts), rows, advance)
            for index, row in runner.run(stream):
                rows[index] = row
                advance(1, 1)
    finally:
        pool.close()
    report = _report(texts, rows, out, started)
    _write(report, {"model": model, "data": str(data), "fingerprint": annotator.fingerprint})
    return report


def _check(options: EvaluateOptions, out: Path) -> None:
    """Refuse what can't be meant, from the request alone."""
    for name, least in (("limit", 1), ("batch_tokens", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise RequestError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    check_folder(out)


def _check_labels(texts: Sequence[TrainingRecord], data: Path) -> None:
    if not texts:
        raise RequestError(f"{data}: no texts in it")
    for index, text in enumerate(texts):
        if text.label not in LEVELS:
            raise RequestError(f"{data}: {index}: label {text.label:g} is not a level 0-3")


def _prepared(
    pool: PreparePool, parse: Parse, texts: Sequence[TrainingRecord]
) -> Iterator[Prepared]:
    """What the pool makes of the texts, in order, a bounded number of chunks ahead."""
    ahead: deque[Future[list[Prepared]]] = deque()
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        records = [Record(str(start + i), {"text": text}) for i, text in enumerate(chunk)]
        ahead.append(pool.submit(parse, records))
        while len(ahead) > 2 * pool.workers:
            yield from ahead.popleft().result()
    for future in ahead:
        yield from future.result()


def _items(
    prepared: Iterator[Prepared], rows: list[Row | SampleError | None], advance: Advance
) -> Iterator[tuple[int, Any]]:
    """The runner's stream; what can't be scored goes to `rows` at once."""
    for index, one in enumerate(prepared):
        if one.problem is None:
            yield index, one.item
        else:
            rows[index] = one.problem
            advance(1, 1)


def _report(
    texts: Sequence[TrainingRecord],
    rows: Sequence[Row | SampleError | None],
    out: Path,
    started: float,
) -> EvaluateReport:
    scored = [
        (kind_of(text.text), row["quality_score"], int(text.label))
        for text, row in zip(texts, rows, strict=True)
        if isinstance(row, dict)
    ]
    problems = [row.status.value for row in rows if isinstance(row, SampleError)]
    kinds = sorted({kind for kind, _, _ in scored})
    return EvaluateReport(
        out=out,
        seconds=time.monotonic() - started,
        overall=_measure(scored, kinds) if scored else None,
        by_kind={kind: _measure(scored, [kind]) for kind in kinds},
        statuses=dict(Counter([Status.OK.value] * len(scored) + problems)),
    )


def _measure(scored: list[tuple[TextKind, float, int]], kinds: Sequence[str]) -> Metrics:
    chosen = [(score, level) for kind, score, level in scored if kind in kinds]
    scores, levels = zip(*chosen, strict=True)
    return measure(np.array(scores, np.float64), np.array(levels, np.int64))


def _write(report: EvaluateReport, origin: dict[str, Any]) -> None:
    overall = report.overall.as_dict() if report.overall is not None else {}
    by_kind = {kind: metrics.as_dict() for kind, metrics in report.by_kind.items()}
    values = {**overall, "by_kind": by_kind, "statuses": report.statuses, **origin}
    text = json.dumps(values, indent=2) + "\n"
    make_folder(report.out)
    write_atomically(report.out / "metrics.json", partial(_write_text, text))


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")


def _table(metrics: dict[str, Metrics]) -> list[str]:
    """A column per kind: the paper's numbers, then the confusion of all texts."""
    head = f"{'':<12}" + "".join(f"{name:>12}" for name in metrics)
    lines = [head, f"{'texts':<12}" + "".join(f"{one.count:>12}" for one in metrics.values())]
    for name in ("accuracy", "precision", "recall", "f1"):
        values = "".join(f"{getattr(one, name):>12.4f}" for one in metrics.values())
        lines.append(f"{name:<12}{values}")
    for level in LEVELS:
        values = "".join(f"{one.f1_per_level[level]:>12.4f}" for one in metrics.values())
        lines.append(f"{f'f1 level {level}':<12}{values}")
    lines.append(f"{'mse':<12}" + "".join(f"{one.mse:>12.4f}" for one in metrics.values()))
    spearman = ("-" if m.spearman is None else f"{m.spearman:.4f}" for m in metrics.values())
    lines.append(f"{'spearman':<12}" + "".join(f"{value:>12}" for value in spearman))
    for name, one in metrics.items():
        lines.append(f"confusion, {name} (rows: true level 0-3, columns: predicted)")
        lines += ["  " + "".join(f"{count:>8}" for count in row) for row in one.confusion]
    return lines
