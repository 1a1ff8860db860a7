"""What a stage on answers reads: drawn examples, or the records of files."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mmsieve.progress import show_progress
from mmsieve.train.answers.data import (
    Checked,
    Entry,
    EntryExamples,
    Examples,
    RenderedExamples,
    check_entries,
    read_entries,
)
from mmsieve.train.answers.recipe import AnswerStage
from mmsieve.train.feed import Feed, FeedOptions
from mmsieve.train.files import split_by_image
from mmsieve.train.options import DataFiles
from mmsieve.train.processes import processes
from mmsieve.train.records import LeftOut, note_records, write_left_out


def open_answers(
    examples: Examples, wanted: AnswerStage, files: DataFiles | None, options: FeedOptions
) -> Feed:
    """The data of a stage: of files where there are some, else what the recipe says is drawn."""
    if files is None:
        assert wanted.rendered is not None
        return Feed(RenderedExamples(examples, wanted.rendered, wanted.batch, options.seed))
    return _from_files(examples, files, options)


def _from_files(examples: Examples, files: DataFiles, options: FeedOptions) -> Feed:
    checked, entries = _checked(files.data, "data", examples, files, options)
    notes = [note_records(files.data, len(checked.lengths), checked.left_out)]
    if files.val is None:
        apart = split_by_image(entries, options.seed)
        held_out = [entry for entry in entries if entry.index in apart]
        entries = [entry for entry in entries if entry.index not in apart]
        notes.append(f"{len(held_out):,} records held out, by image")
    else:
        others, held_out = _checked(files.val, "val", examples, files, options)
        notes.append(note_records(files.val, len(others.lengths), others.left_out))
    if processes().is_main_process:
        write_left_out(options.out, checked.left_out)
    return Feed(
        EntryExamples(examples, entries, files.images),
        [checked.lengths[entry.index] for entry in entries],
        EntryExamples(examples, held_out, files.images) if held_out else None,
        tuple(notes),
    )


def _checked(
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
