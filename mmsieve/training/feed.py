"""What a stage reads: drawn groups and examples, or the records of files, checked and split."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from mmsieve.methods.unifilter.inputs import UniFilterPreparer
from mmsieve.progress import show_progress
from mmsieve.synthetic.training import HeldOutTexts, RenderedGroups
from mmsieve.training.data import (
    CheckedRecords,
    RecordGroups,
    check_records,
    keep_checked,
    split_by_image,
)
from mmsieve.training.options import DataFiles, processes
from mmsieve.training.recipe import AnswerStage, Optimisation
from mmsieve.training.records import LeftOut, note_records, write_left_out
from mmsieve.training.sft import (
    Checked,
    Entry,
    EntryExamples,
    Examples,
    RenderedExamples,
    check_entries,
    read_entries,
)

# What a stage on texts reads: rendered groups, or the records of files


@dataclass(frozen=True)
class Feed:
    """Data sets of a stage; see `mmsieve.train.stages.Stage`."""

    data: Dataset[Any]
    lengths: list[int] | None = None
    held_out: Dataset[Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FeedOptions:
    """How data is read, whatever it is."""

    out: Path
    """Folder of the training."""
    seed: int
    workers: int
    quiet: bool


def open_feed(
    preparer: UniFilterPreparer,
    wanted: Optimisation,
    files: DataFiles | None,
    options: FeedOptions,
) -> Feed:
    """The data of a stage: of files where there are some, else what the recipe says is drawn."""
    if files is not None:
        return _from_files(preparer, files, options)
    assert wanted.rendered is not None
    rendered, seed = wanted.rendered, options.seed
    held_out = HeldOutTexts(preparer, rendered, seed) if rendered.held_out else None
    return Feed(RenderedGroups(preparer, rendered, wanted.batch, seed), held_out=held_out)


def _from_files(preparer: UniFilterPreparer, files: DataFiles, options: FeedOptions) -> Feed:
    checked = _checked(files.data, "data", preparer, files, options)
    notes = [checked.note(files.data)]
    if files.val is not None:
        others = _checked(files.val, "val", preparer, files, options)
        notes.append(others.note(files.val))
        held_out = others.records
        kept = checked.records
        shared = {name for r in held_out for name in r.images} & {
            name for r in kept for name in r.images
        }
        if shared:
            notes.append(f"{len(shared):,} images of {files.val} are in {files.data} too")
    else:
        apart = split_by_image(checked.records, options.seed)
        held_out = tuple(record for record in checked.records if record.index in apart)
        kept = tuple(record for record in checked.records if record.index not in apart)
        notes.append(f"{len(held_out):,} records held out, by image")
    if processes().is_main_process:
        write_left_out(options.out, checked.left_out)
    data = RecordGroups(preparer, kept, files.images, together=True)
    length = {r.index: n for r, n in zip(checked.records, checked.lengths, strict=True)}
    lengths = [max(length[record.index] for record in group) for group in data.groups]
    texts = RecordGroups(preparer, held_out, files.images, together=False) if held_out else None
    return Feed(data, lengths, texts, tuple(notes))


def _checked(
    file: Path, name: str, preparer: UniFilterPreparer, files: DataFiles, options: FeedOptions
) -> CheckedRecords:
    """The first process checks, the others read what it found."""
    quiet = options.quiet or not processes().is_main_process
    with (
        processes().main_process_first(),
        show_progress(f"check {file.name}", 0, quiet, "records") as told,
    ):
        return keep_checked(
            options.out / "stages" / f"{name}.json",
            partial(check_records, file, files.images, preparer, options.workers, told),
        )


# What a stage on answers reads: drawn examples, or the records of files


def open_answers(
    examples: Examples, wanted: AnswerStage, files: DataFiles | None, options: FeedOptions
) -> Feed:
    """The data of a stage: of files where there are some, else what the recipe says is drawn."""
    if files is None:
        assert wanted.rendered is not None
        return Feed(RenderedExamples(examples, wanted.rendered, wanted.batch, options.seed))
    return _from_files_feed(examples, files, options)


def _from_files_feed(examples: Examples, files: DataFiles, options: FeedOptions) -> Feed:
    checked, entries = _checked_feed(files.data, "data", examples, files, options)
    notes = [note_records(files.data, len(checked.lengths), checked.left_out)]
    if files.val is None:
        apart = split_by_image(entries, options.seed)
        held_out = [entry for entry in entries if entry.index in apart]
        entries = [entry for entry in entries if entry.index not in apart]
        notes.append(f"{len(held_out):,} records held out, by image")
    else:
        others, held_out = _checked_feed(files.val, "val", examples, files, options)
        notes.append(note_records(files.val, len(others.lengths), others.left_out))
    if processes().is_main_process:
        write_left_out(options.out, checked.left_out)
    return Feed(
        EntryExamples(examples, entries, files.images),
        [checked.lengths[entry.index] for entry in entries],
        EntryExamples(examples, held_out, files.images) if held_out else None,
        tuple(notes),
    )


def _checked_feed(
    file: Path, name: str, examples: Examples, files: DataFiles, options: FeedOptions
) -> tuple[Checked, list[Entry]]:
    """The first process checks, the others read what it found."""
    quiet = options.quiet or not processes().is_main_process
    place = options.out / "stages" / f"{name}.json"
    with (
        processes().main_process_first(),
        show_progress(f"check {file.name}", 0, quiet, "records") as told,
    ):
        checked = _kept(
            place, lambda: check_entries(file, examples, files.images, options.workers, told)
        )
    entries = [entry for entry in read_entries(file) if isinstance(entry, Entry)]
    return checked, [entry for entry in entries if entry.index in checked.lengths]


def _kept(place: Path, make: Callable[[], Checked]) -> Checked:
    """What is in a file, else what is made now and kept there."""
    if place.is_file():
        kept = json.loads(place.read_text("utf-8"))
        lengths = {int(index): length for index, length in kept["lengths"].items()}
        return Checked(lengths, [LeftOut(**one) for one in kept["left_out"]])
    checked = make()
    part = place.with_suffix(".part")
    part.write_text(json.dumps(asdict(checked)), "utf-8")
    part.replace(place)
    return checked
