"""generate: a teacher's texts of known quality over images -> training data."""

import json
import shutil
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.generation.files import IMAGES, POOL, SHARDS, TRAIN, VAL
from mmsieve.generation.options import (
    AssessmentsOptions,
    GenerateOptions,
    RatingsOptions,
    TeacherOptions,
)
from mmsieve.generation.run import FILES, GenerationRequest, generate
from mmsieve.generation.tasks.assessments import AssessmentTask
from mmsieve.generation.tasks.ratings import RatingTask
from mmsieve.generation.tasks.task import GenerationTask
from mmsieve.generation.tasks.texts import CaptionTask, DocumentTask
from mmsieve.read.records import ReadOptions
from mmsieve.registry import DrawingTeacher, find_teacher
from mmsieve.tables import check_folder, make_folder, write_atomically

_CLAIM = "generate.json"


@dataclass(frozen=True, kw_only=True)
class GenerateReport:
    """How a generation went."""

    unit = ""

    out: Path
    seconds: float
    written: dict[str, int] = field(default_factory=dict)
    """File -> its records."""
    noun: str = "texts"
    """What its records are, in words."""
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
        counts = [f"{count} {self.noun} in {name}" for name, count in self.written.items()]
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
    return _generate(CaptionTask(), sources, Path(out), options, asking, read)


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
    return _generate(DocumentTask(), sources, Path(out), options, asking, read)


def generate_assessments(
    *sources: str,
    out: Path,
    options: GenerateOptions,
    judging: AssessmentsOptions | None = None,
    asking: TeacherOptions | None = None,
    read: ReadOptions | None = None,
) -> GenerateReport:
    """Judge captions on six scales and rewrite poor ones: a good and a bad one of every image.

    Parameters
    ----------
    sources
        Tars, Parquet files, folders, globs or URLs with caption pairs. None for --teacher rendered.
    out
        Folder of train.json, val.json and the images.
    """
    judging = judging or AssessmentsOptions()
    judging.check()
    _only_drawn(options, judging)
    return _generate(AssessmentTask(judging), sources, Path(out), options, asking, read)


def generate_ratings(
    *sources: str,
    out: Path,
    options: GenerateOptions,
    rating: RatingsOptions | None = None,
    asking: TeacherOptions | None = None,
    read: ReadOptions | None = None,
) -> GenerateReport:
    """Rate instruction samples, from 0 to 5 for each capability, and name their styles.

    Parameters
    ----------
    sources
        Files of instruction samples, folders, globs or URLs. None for --teacher rendered.
    out
        Folder of train.json, val.json and the images; of qas.json too, the samples as a pool that
        nobody has rated, where they are drawn.
    """
    rating = rating or RatingsOptions()
    _only_drawn(options, rating)
    return _generate(RatingTask(rating), sources, Path(out), options, asking, read)


def _generate(
    task: GenerationTask,
    sources: tuple[str, ...],
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions | None,
    read: ReadOptions | None,
) -> GenerateReport:
    started = time.monotonic()
    asking, read = asking or TeacherOptions(), read or ReadOptions()
    options.check()
    teacher = find_teacher(options.teacher)
    if teacher is not None:
        if sources:
            raise RequestError(
                f"{sources[0]}: --teacher {options.teacher} draws its images: no SOURCE"
            )
        _only_defaults(asking, read)
        report = _draw(teacher, task, out, options)
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
        report = _ask(task, sources, out, options, asking, read)
    return replace(report, seconds=time.monotonic() - started)


def _only_drawn(options: GenerateOptions, group: AssessmentsOptions | RatingsOptions) -> None:
    if options.teacher == "rendered":
        _only_defaults(group)


def _only_defaults(
    *groups: TeacherOptions | ReadOptions | AssessmentsOptions | RatingsOptions,
) -> None:
    for group in groups:
        _same(group, type(group)(), "is for --teacher anthropic:MODEL and openai:MODEL")


def _same(group: object, allowed: object, reason: str) -> None:
    """Raise RequestError for the first option that isn't as it has to be."""
    for known in fields(group):  # type: ignore[arg-type]
        if getattr(group, known.name) != getattr(allowed, known.name):
            raise RequestError(f"--{known.name.replace('_', '-')} {reason}")


def _ask(
    task: GenerationTask,
    sources: tuple[str, ...],
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions,
    read: ReadOptions,
) -> GenerateReport:
    """Have a teacher write over the images of sources."""
    request = GenerationRequest(
        task=task,
        teacher=options.teacher,
        sources=sources,
        count=options.count,
        seed=options.seed,
        val_fraction=options.val_fraction,
        read=read,
        options=asking,
    )
    request.check()
    check_folder(out)
    if options.dry_run:
        return GenerateReport(out=out, seconds=0, notes=request.estimate())
    _ = request.connection  # raises where there is no key, which an estimate doesn't need
    claim = request.config()
    if _is_done(out, claim, options.overwrite):
        return GenerateReport(out=out, seconds=0, notes=("done before",))
    if options.overwrite or not (out / _CLAIM).is_file():
        _clear(out, FILES)
    _write_claim(out, claim, {}, complete=False)
    result = generate(request, out, options.quiet)
    written = result.collected.written
    _write_claim(out, claim, written, complete=not result.failed)
    return GenerateReport(
        out=out,
        seconds=0,
        noun=task.noun,
        written=written,
        rejects=result.collected.rejects,
        spent=result.spent,
        notes=result.notes,
        failed=result.failed,
    )


def _draw(
    teacher: DrawingTeacher, task: GenerationTask, out: Path, options: GenerateOptions
) -> GenerateReport:
    """Have a teacher draw and write."""
    teacher.check(task, options)
    check_folder(out)
    claim = {
        "what": task.name,
        **task.settings(),
        **asdict(replace(options, overwrite=False, dry_run=False, quiet=False)),
    }
    if _is_done(out, claim, options.overwrite) or options.dry_run:
        note = "would write" if options.dry_run else "done before:"
        scenes = teacher.count_drawn(task, options)
        notes = (f"{note} {options.count} {task.name} over the images of {scenes} scenes",)
        return GenerateReport(out=out, seconds=0, notes=notes)
    _clear(out)
    written, tars = teacher.draw(task, out, options)
    _write_claim(out, claim, written)
    return GenerateReport(out=out, seconds=0, noun=task.noun, written=written, tars=tars)


def _write_claim(
    out: Path, claim: dict[str, object], written: dict[str, int], complete: bool = True
) -> None:
    stored = {"request": claim, "written": written, "complete": complete}
    text = json.dumps(stored, indent=2) + "\n"
    write_atomically(out / _CLAIM, lambda path: path.write_text(text, "utf-8") and None)


def _clear(out: Path, others: tuple[str, ...] = ()) -> None:
    """Remove what an earlier generation left, and only that."""
    make_folder(out)
    for name in (_CLAIM, TRAIN, VAL, POOL, *others):
        (out / name).unlink(missing_ok=True)
    for name in (IMAGES, SHARDS):
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
