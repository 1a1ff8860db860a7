"""generate: a teacher's texts of known quality over images -> training data."""

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.generate.files import IMAGES, TRAIN, VAL, TrainingFiles
from mmsieve.generate.groups import Group
from mmsieve.generate.lesson import Lesson
from mmsieve.generate.options import TeacherOptions
from mmsieve.generate.prompts import What
from mmsieve.generate.rendered import Drawing, caption_group, document_group
from mmsieve.generate.shards import write_shards
from mmsieve.levels import LEVELS
from mmsieve.progress import show_progress
from mmsieve.read import ReadOptions
from mmsieve.rendered.scenes import WORLDS
from mmsieve.sample import Sample
from mmsieve.shard_job import Progress as Advance
from mmsieve.table import check_folder, make_folder, write_atomically

_CLAIM = "generate.json"
_SHARDS = "shards"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What to generate, and where it goes."""

    teacher: str
    """Who writes the texts. rendered: draws scenes and writes over them, truth known.
    anthropic:MODEL or openai:MODEL: over the images of SOURCE."""
    count: int
    """Texts to write, train and val together, four over every image."""
    texts_per_image: Literal[1, 4] = 4
    """4: one of each level over every image (or every document's images), as training wants it.
    1: one of a random level, as in a pool to filter; rendered only."""
    seed: int = 0
    """The same seed gives the same images and texts."""
    val_fraction: float = 0.0
    """Part of the images whose texts go to val.json."""
    family: Literal["core", "many", "chart", "table"] = "core"
    """Kind of rendered scenes; the bundled models know the core ones."""
    blank_images: bool = False
    """Draw nothing: a control of what the texts alone give away; rendered only."""
    shards: bool = False
    """Also write the texts as samples in tars, in `shards`, with their level as metadata; rendered
    only."""
    shard_size: int = 1000
    """Samples of a tar."""
    overwrite: bool = False
    """Start again, also where the folder holds other training data, which is removed."""
    dry_run: bool = False
    """Say what would be written, and stop."""
    quiet: bool = False
    """No progress; only the summary."""

    def check(self) -> None:
        """Raise RequestError for what can't be meant."""
        for name in ("count", "shard_size"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise RequestError(f"--{flag} {getattr(self, name)}: must be at least 1")
        if self.texts_per_image not in (1, len(LEVELS)):
            raise RequestError(f"--texts-per-image {self.texts_per_image}: is 1 or {len(LEVELS)}")
        if not 0 <= self.val_fraction <= 1:
            raise RequestError(f"--val-fraction {self.val_fraction}: must be from 0 to 1")
        if self.seed < 0:
            raise RequestError(f"--seed {self.seed}: must be 0 or more")
        if self.family not in WORLDS:
            raise RequestError(f"--family {self.family}: not one of {', '.join(WORLDS)}")


@dataclass(frozen=True, kw_only=True)
class GenerateReport:
    """How a generation went."""

    unit = ""

    out: Path
    seconds: float
    written: dict[str, int] = field(default_factory=dict)
    """File -> its texts."""
    tars: int = 0
    rejects: int = 0
    """Images without texts, in rejects.jsonl with the reason."""
    spent: str | None = None
    """Tokens, and dollars where the price is known, of this run and those before it."""
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """What isn't done -> why; the rendered teacher never fails at a text."""

    def summary(self) -> str:
        """What a user should know, the last line with counts, seconds and the output's path."""
        counts = [f"{count} texts in {name}" for name, count in self.written.items()]
        counts += [f"{self.tars} tars"] if self.tars else []
        counts += [f"{self.rejects} rejects"] if self.rejects else []
        counts += [self.spent] if self.spent else []
        last = f"{', '.join(counts) or 'nothing written'} in {self.seconds:.1f} s: {self.out}"
        return "\n".join([*self.notes, last])


def generate_captions(
    *sources: str,
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions | None = None,
    read: ReadOptions | None = None,
) -> GenerateReport:
    """Write captions at the four quality levels over single images.

    Parameters
    ----------
    sources
        Tars, Parquet files, JSONL files, folders, globs or URLs with images, or folders of image
        files; their texts are not read. None for --teacher rendered.
    out
        Folder of train.json, val.json and the images.
    """
    return _generate("captions", sources, Path(out), options, asking, read)


def generate_documents(
    *sources: str,
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions | None = None,
    read: ReadOptions | None = None,
) -> GenerateReport:
    """Write whole documents at the four quality levels around several images.

    Parameters
    ----------
    sources
        Tars, Parquet files, JSONL files, folders, globs or URLs with images, or folders of image
        files, each (sub)folder a document; their texts are not read. None for --teacher rendered.
    out
        Folder of train.json, val.json and the images.
    """
    return _generate("documents", sources, Path(out), options, asking, read)


def _generate(
    what: What,
    sources: tuple[str, ...],
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions | None,
    read: ReadOptions | None,
) -> GenerateReport:
    started = time.monotonic()
    asking, read = asking or TeacherOptions(), read or ReadOptions()
    options.check()
    if options.teacher == "rendered":
        if sources:
            raise RequestError(f"{sources[0]}: --teacher rendered draws its images: no SOURCE")
        _only_defaults(asking, read, reason="is for --teacher anthropic:MODEL and openai:MODEL")
        report = _draw(what, out, options)
    else:
        common = GenerateOptions(
            teacher=options.teacher,
            count=options.count,
            seed=options.seed,
            val_fraction=options.val_fraction,
            overwrite=options.overwrite,
            dry_run=options.dry_run,
            quiet=options.quiet,
        )
        _same(options, common, "is for --teacher rendered")
        report = _ask(what, sources, out, options, asking, read)
    return replace(report, seconds=time.monotonic() - started)


def _only_defaults(*groups: TeacherOptions | ReadOptions, reason: str) -> None:
    for group in groups:
        _same(group, type(group)(), reason)


def _same(group: object, allowed: object, reason: str) -> None:
    """Raise RequestError for the first option that isn't as it has to be."""
    for known in fields(group):  # type: ignore[arg-type]
        if getattr(group, known.name) != getattr(allowed, known.name):
            raise RequestError(f"--{known.name.replace('_', '-')} {reason}")


def _ask(
    what: What,
    sources: tuple[str, ...],
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions,
    read: ReadOptions,
) -> GenerateReport:
    """Have a teacher write over the images of sources."""
    lesson = Lesson(
        what=what,
        teacher=options.teacher,
        sources=sources,
        count=options.count,
        seed=options.seed,
        val_fraction=options.val_fraction,
        read=read,
        options=asking,
    )
    lesson.check()
    check_folder(out)
    from mmsieve.generate.teaching import FILES, estimate, teach

    if options.dry_run:
        return GenerateReport(out=out, seconds=0, notes=estimate(lesson))
    _ = lesson.connection  # raises where there is no key, which an estimate doesn't need
    claim = lesson.claim()
    if _is_done(out, claim, options.overwrite):
        return GenerateReport(out=out, seconds=0, notes=("done before",))
    if options.overwrite or not (out / _CLAIM).is_file():
        _clear(out, FILES)
    _write_claim(out, claim, {}, complete=False)
    taught = teach(lesson, out, options.quiet)
    written = taught.collected.written
    _write_claim(out, claim, written, complete=not taught.failed)
    return GenerateReport(
        out=out,
        seconds=0,
        written=written,
        rejects=taught.collected.rejects,
        spent=taught.spent,
        failed=taught.failed,
    )


MakeGroup = Callable[[int, int, Drawing], Group]


def _draw(what: What, out: Path, options: GenerateOptions) -> GenerateReport:
    """Have the rendered teacher draw and write."""
    if what == "documents" and not WORLDS[options.family].has_things:
        raise RequestError(f"--family {options.family}: documents are written over core or many")
    make: MakeGroup = caption_group if what == "captions" else document_group
    check_folder(out)
    groups = -(-options.count // options.texts_per_image)
    claim = {"what": what, **asdict(replace(options, overwrite=False, dry_run=False, quiet=False))}
    if _is_done(out, claim, options.overwrite) or options.dry_run:
        note = "would write" if options.dry_run else "done before:"
        notes = (f"{note} {options.count} {what} over the images of {groups} scenes",)
        return GenerateReport(out=out, seconds=0, notes=notes)
    _clear(out)
    files, tars = TrainingFiles(out), 0
    with show_progress(what, options.count, options.quiet, "texts") as advance:
        samples = _samples(_pieces(make, groups, options), files, advance)
        if options.shards:
            tars = write_shards(samples, out / _SHARDS, options.shard_size)
        else:
            deque(samples, maxlen=0)
    written = files.finish()
    _write_claim(out, claim, written)
    return GenerateReport(out=out, seconds=0, written=written, tars=tars)


def _write_claim(
    out: Path, claim: dict[str, object], written: dict[str, int], complete: bool = True
) -> None:
    stored = {"request": claim, "written": written, "complete": complete}
    text = json.dumps(stored, indent=2) + "\n"
    write_atomically(out / _CLAIM, lambda path: path.write_text(text, "utf-8") and None)


def _clear(out: Path, others: tuple[str, ...] = ()) -> None:
    """Remove what an earlier generation left, and only that."""
    make_folder(out)
    for name in (_CLAIM, TRAIN, VAL, *others):
        (out / name).unlink(missing_ok=True)
    for name in (IMAGES, _SHARDS):
        shutil.rmtree(out / name, ignore_errors=True)


def _is_done(out: Path, claim: dict[str, object], overwrite: bool) -> bool:
    """Whether the folder holds just this; raises RequestError where it holds something else."""
    file = out / _CLAIM
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if not file.is_file() and not (out / IMAGES).is_dir():  # images alone: it was interrupted
        raise RequestError(f"--out {out}: not empty, and not made by generate; choose another")
    if overwrite or not file.is_file():
        return False
    stored = json.loads(file.read_text("utf-8"))
    if stored["request"] != claim:
        raise RequestError(
            f"--out {out}: holds other training data; choose another, or --overwrite"
        )
    return bool(stored.get("complete", True))


Piece = tuple[Group, bool]
"""A group with the texts that are wanted, and whether they are for validation."""


def _pieces(make: MakeGroup, groups: int, options: GenerateOptions) -> Iterator[Piece]:
    rng = np.random.default_rng((options.seed, 7))
    val = set(rng.permutation(groups)[: round(groups * options.val_fraction)].tolist())
    levels = rng.integers(len(LEVELS), size=groups)
    drawing = Drawing(family=options.family, blank=options.blank_images)
    for index in range(groups):
        group = make(options.seed, index, drawing)
        texts = group.texts[: options.count - index * len(LEVELS)]
        if options.texts_per_image == 1:
            texts = group.texts[levels[index] :][:1]
        yield replace(group, texts=texts), index in val


def _samples(pieces: Iterator[Piece], files: TrainingFiles, advance: Advance) -> Iterator[Sample]:
    """Write the groups to the training files, and give each text as a sample."""
    for group, is_val in pieces:
        files.add(group, is_val)
        for index, told in enumerate(group.texts):
            key = f"{group.key}-{index}"
            truth = {"uid": key, "level": int(told.label)}
            yield replace(group.sample(told), key=key, metadata=truth)
        advance(len(group.texts), len(group.texts))
