"""generate: a teacher's texts of known quality over images -> training data."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter

from mmsieve import outputs
from mmsieve.engine.ray import RayEngine, check_installed
from mmsieve.errors import RequestError
from mmsieve.generation.files import IMAGES, POOL, SHARDS, TRAIN, VAL
from mmsieve.generation.options import (
    AssessmentsOptions,
    GenerateOptions,
    RatingsOptions,
    TeacherOptions,
)
from mmsieve.generation.preparing import Prepare, prepare_here, prepare_on_ray
from mmsieve.generation.run import FILES, GenerationRequest, generate
from mmsieve.generation.tasks import GenerationTask
from mmsieve.generation.tasks.assessments import AssessmentTask
from mmsieve.generation.tasks.ratings import RatingTask
from mmsieve.generation.tasks.texts import CaptionTask, DocumentTask
from mmsieve.keywords import flat_options
from mmsieve.locks import working_copy, writing_to
from mmsieve.options import Options, Out
from mmsieve.patience import Patience
from mmsieve.read import ReadOptions
from mmsieve.registry import DrawingTeacher, find_teacher
from mmsieve.reports import NOTHING, Report, timed
from mmsieve.runs import note_facts
from mmsieve.stores.paths import place_of
from mmsieve.wording import counted

_RECORD = "generate.json"
_SWITCHES = {"overwrite": False, "dry_run": False, "quiet": False}
"""They change nothing that is made; they stand in the config since its first version."""
_DRAWN = ("texts_per_image", "family", "blank_images", "shards", "shard_size")
_CLUSTER = ("engine", "ray_address", "patience")


@dataclass(frozen=True, kw_only=True)
class GenerateReport(Report):
    """How a generation went."""

    unit: ClassVar[str] = ""

    written: dict[str, int] = field(default_factory=dict)
    """File -> its records."""
    noun: str = "texts"
    """What its records are, in words."""
    tars: int = 0
    rejects: int = 0
    """Images without texts, in rejects.jsonl with the reason."""
    spent: str | None = None
    """Tokens, and dollars where the price is known, of this run and those before it."""

    def counts(self) -> str:
        """Records by file, tars, rejects and what they cost."""
        counts = [f"{counted(count, self.noun)} in {name}" for name, count in self.written.items()]
        counts += [counted(self.tars, "tars")] if self.tars else []
        counts += [counted(self.rejects, "rejects")] if self.rejects else []
        counts += [self.spent] if self.spent else []
        return ", ".join(counts) or NOTHING


@flat_options
def generate_captions(
    *sources: str,
    out: Out,
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
    return _generate(CaptionTask(), sources, place_of(out), options, asking, read)


@flat_options
def generate_documents(
    *sources: str,
    out: Out,
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
    return _generate(DocumentTask(), sources, place_of(out), options, asking, read)


@flat_options
def generate_assessments(
    *sources: str,
    out: Out,
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
    return _generate(
        AssessmentTask(judging), sources, place_of(out), options, asking, read, judging
    )


@flat_options
def generate_ratings(
    *sources: str,
    out: Out,
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
    return _generate(RatingTask(rating), sources, place_of(out), options, asking, read, rating)


@timed
def _generate(
    task: GenerationTask,
    sources: tuple[str, ...],
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions | None,
    read: ReadOptions | None,
    *others: Options,
) -> GenerateReport:
    with working_copy(out, "generate", wait=options.wait, dry_run=options.dry_run) as place:
        report = _generate_here(task, sources, place, options, asking, read, *others)
    return replace(report, out=out)


def _generate_here(
    task: GenerationTask,
    sources: tuple[str, ...],
    out: Path,
    options: GenerateOptions,
    asking: TeacherOptions | None,
    read: ReadOptions | None,
    *others: Options,
) -> GenerateReport:
    asking, read = asking or TeacherOptions(), read or ReadOptions()
    teacher = find_teacher(options.teacher)
    if teacher is None:
        _refuse(options, "is for --teacher rendered", _DRAWN)
        request = GenerationRequest(
            task=task,
            teacher=options.teacher,
            sources=sources,
            count=options.count,
            seed=options.seed,
            val_fraction=options.val_fraction,
            read=read,
            options=asking,
            patience=options.patience,
        )
        return _ask(request, out, options)
    if sources:
        raise RequestError(f"{sources[0]}: --teacher {options.teacher} draws its images: no SOURCE")
    asked = "is for --teacher anthropic:MODEL and openai:MODEL"
    for group in (*others, asking, read):
        _refuse(group, asked)
    _refuse(options, asked, _CLUSTER)
    return _draw(teacher, task, out, options)


def _refuse(group: Any, reason: str, names: Sequence[str] = ()) -> None:
    """Raise RequestError for the first option (by default of all) that isn't its default."""
    for known in fields(group):
        if (known.name in names or not names) and getattr(group, known.name) != known.default:
            raise RequestError(f"--{known.name.replace('_', '-')} {reason}")


def _ask(request: GenerationRequest, out: Path, options: GenerateOptions) -> GenerateReport:
    request.check()
    outputs.check_folder(out)
    if options.dry_run:
        return GenerateReport(out=out, dry_run=True, notes=request.estimate())
    _ = request.connection  # raises where there is no key, which an estimate doesn't need
    config = request.config()
    with writing_to(out, "generate", wait=options.wait):
        note_facts(fingerprint=config)
        state = _state(out, config, options.overwrite)
        if state == "done":
            return GenerateReport(out=out, notes=("done before",))
        prepare = _way_to_prepare(options, at_once=state == "new")
        _begin(out, config, state == "new")
        result = generate(request, out, options.quiet, prepare)
        _write_record(out, config, result.written, complete=not result.failed)
    return GenerateReport(
        out=out,
        noun=request.task.noun,
        written=result.written,
        rejects=result.rejects,
        spent=result.spent,
        notes=result.notes,
        failed=result.failed,
    )


def _way_to_prepare(options: GenerateOptions, at_once: bool) -> Prepare:
    """How requests are prepared; raises RequestError.

    A cluster is joined `at_once`, or when there is something to prepare: what was begun may only
    have to be collected.
    """
    if options.engine != "ray":
        return prepare_here
    check_installed()
    join = cache(lambda: RayEngine(options.ray_address, None, Patience(options.patience)))
    if at_once:
        join()
    return partial(prepare_on_ray, join)


def _draw(
    teacher: DrawingTeacher, task: GenerationTask, out: Path, options: GenerateOptions
) -> GenerateReport:
    teacher.check(task, options)
    outputs.check_folder(out)
    others = (*_SWITCHES, *_CLUSTER, "wait")
    wanted = {name: value for name, value in asdict(options).items() if name not in others}
    config = {"what": task.name, **task.settings(), **wanted, **_SWITCHES}
    with writing_to(out, "generate", wait=options.wait, dry_run=options.dry_run):
        note_facts(fingerprint=config)
        if _state(out, config, options.overwrite) == "done" or options.dry_run:
            note = "would write" if options.dry_run else "done before:"
            scenes = counted(teacher.count_drawn(task, options), "scenes")
            note += f" {counted(options.count, task.name)} over the images of {scenes}"
            return GenerateReport(out=out, dry_run=options.dry_run, notes=(note,))
        _begin(out, config, clear=True)
        written, tars = teacher.draw(task, out, options)
        _write_record(out, config, written)
    return GenerateReport(out=out, noun=task.noun, written=written, tars=tars)


@dataclass(frozen=True)
class GenerationRecord:
    """What generate.json says."""

    request: dict[str, Any]
    complete: bool = True
    """By default as in records of the first version."""
    clearing: bool = False


_STORED = TypeAdapter(GenerationRecord)


def _state(
    out: Path, config: dict[str, object], overwrite: bool
) -> Literal["new", "begun", "done"]:
    """How far this generation got; RequestError where something else is there."""
    stored: GenerationRecord | None = outputs.read_record(out, _RECORD, "generate", _STORED)
    if stored is None or overwrite:
        return "new"
    outputs.is_same_request(out, stored.request, config)
    if stored.clearing:
        return "new"
    return "done" if stored.complete else "begun"


def _begin(out: Path, config: dict[str, object], clear: bool) -> None:
    """Say what is going to be there, and only then remove what an earlier generation left."""
    outputs.make_folder(out)
    if clear:
        _write_record(out, config, {}, complete=False, clearing=True)
        outputs.remove_own(out, (TRAIN, VAL, POOL, *FILES, IMAGES, SHARDS))
    _write_record(out, config, {}, complete=False)


def _write_record(
    out: Path,
    config: dict[str, object],
    written: dict[str, int],
    complete: bool = True,
    **more: bool,
) -> None:
    stored = {"request": config, "written": written, "complete": complete, **more}
    outputs.write_text(out / _RECORD, json.dumps(stored, indent=2) + "\n")
