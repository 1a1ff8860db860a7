"""convert: a released checkpoint -> the stock Hugging Face layout."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.locks import writing_to
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.folders import bundled_folder, hash_files
from mmsieve.methods.load import find_folder
from mmsieve.methods.recognise import PublishedFolder, recognise
from mmsieve.options import Overwrite, Wait
from mmsieve.outputs import check_folder, is_same_request, read_record, staged
from mmsieve.reports import Report, timed

_RECORD = "convert.json"
"""What a folder was converted from."""


@dataclass(frozen=True, kw_only=True)
class ConvertReport(Report):
    """How a conversion went."""

    def counts(self) -> str:
        """One, always."""
        return "1 model"


@timed
def convert(
    model: str, *, out: Path, overwrite: Overwrite = False, wait: Wait = False
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
    out = Path(out)
    folder = bundled_folder(model) or find_folder(model, "a bundled model, a folder or an id")
    check_folder(out)
    known = recognise(folder)
    write = _converter(known)
    files = {*known.tensors.values(), folder / "config.json"}
    config = {"model": hash_files(files)}
    with writing_to(out, "convert", wait=wait):
        made = read_record(out, _RECORD, "convert")
        if made is not None and is_same_request(out, made, config, overwrite) and not overwrite:
            return ConvertReport(out=out, notes=("done before",))
        with staged(out) as staging:
            notes = write(staging)
            (staging / _RECORD).write_text(json.dumps(config) + "\n", "utf-8")
    return ConvertReport(out=out, notes=(known.note, *notes))


def _converter(known: PublishedFolder) -> Callable[[Path], list[str]]:
    """What writes the checkpoint's stock layout and returns notes; each imports torch."""
    if known.method == "mmssr":
        from mmsieve.methods.mmssr.model import convert_rater

        return partial(convert_rater, known.folder)
    if known.method == "aitqe":
        checkpoint = open_enhancer(known.folder)
        from mmsieve.methods.aitqe.model import write_stock

        return partial(write_stock, checkpoint)
    raise RequestError(f"{known.folder}: no stock class for its kind, {known.note}")
