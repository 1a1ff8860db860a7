"""What a stage on texts reads: rendered groups, or the records of files."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from mmsieve.methods.unifilter_inputs import UniFilterPreparer
from mmsieve.progress import show_progress
from mmsieve.train.files import (
    CheckedRecords,
    RecordGroups,
    check_records,
    keep_checked,
    split_by_image,
)
from mmsieve.train.options import DataFiles
from mmsieve.train.processes import processes
from mmsieve.train.recipe import Optimisation
from mmsieve.train.records import write_left_out
from mmsieve.train.rendered import HeldOutTexts, RenderedGroups


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
