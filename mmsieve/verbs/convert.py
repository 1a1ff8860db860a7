"""convert: a released checkpoint -> the stock Hugging Face layout."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsieve.errors import RequestError
from mmsieve.locks import working_copy, writing_to
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.folders import bundled_folder
from mmsieve.methods.load import find_folder
from mmsieve.methods.mmssr.checkpoint import open_onevision
from mmsieve.methods.recognise import PublishedFolder, recognise
from mmsieve.methods.stock import RECORD, record_of
from mmsieve.methods.tower import CheckpointFolder
from mmsieve.options import Model, Out, Overwrite, Wait
from mmsieve.outputs import check_folder, is_same_request, read_record, staged
from mmsieve.reports import Report, timed
from mmsieve.runs import note_facts
from mmsieve.stores.paths import place_of


@dataclass(frozen=True, kw_only=True)
class ConvertReport(Report):
    """How a conversion went."""

    def counts(self) -> str:
        """One, always."""
        return "1 model"


@timed
def convert(
    model: Model, *, out: Out, overwrite: Overwrite = False, wait: Wait = False
) -> ConvertReport:
    """Write a scorer, styler or rewriter in the stock Hugging Face layout, for servers.

    vLLM, SGLang and `transformers serve` load the folder without code of its own.

    Parameters
    ----------
    model
        A bundled model (see `models`), a checkpoint's folder, or its Hugging Face id.
    out
        Folder to write: a new one, an empty one, or what convert wrote before.
    """
    given = place_of(out)
    folder = bundled_folder(model) or find_folder(model, "a bundled model, a folder or an id")
    check_folder(given)
    known = recognise(folder)
    checkpoint, write = _converter(known)
    config = record_of(checkpoint)
    with working_copy(given, "convert", wait=wait) as out, writing_to(out, "convert", wait=wait):
        note_facts(fingerprint=config)
        made = read_record(out, RECORD, "convert")
        if made is not None and is_same_request(out, made, config, overwrite) and not overwrite:
            return ConvertReport(out=given, notes=("done before",))
        with staged(out) as staging:
            notes = write(checkpoint, staging)
            (staging / RECORD).write_text(json.dumps(config) + "\n", "utf-8")
    return ConvertReport(out=given, notes=(known.note, *notes))


def _converter(known: PublishedFolder) -> tuple[CheckpointFolder, Callable[[Any, Path], list[str]]]:
    """The checkpoint, and what writes its stock layout and returns notes; imports torch."""
    if known.method == "mmssr":
        from mmsieve.methods.mmssr.model import convert_rater

        return open_onevision(known.folder), convert_rater
    if known.method == "aitqe":
        from mmsieve.methods.aitqe.model import convert_enhancer

        return open_enhancer(known.folder), convert_enhancer
    raise RequestError(f"{known.folder}: no stock class for its kind, {known.note}")
