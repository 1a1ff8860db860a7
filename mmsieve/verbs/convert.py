"""convert: a released checkpoint -> the stock Hugging Face layout."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsieve.errors import RequestError
from mmsieve.locks import writing_to
from mmsieve.methods.aitqe.checkpoint import is_enhancer, open_enhancer
from mmsieve.methods.folders import bundled_folder, read_json, tensor_files
from mmsieve.methods.load import find_folder
from mmsieve.methods.mmssr.checkpoint import is_onevision, open_onevision
from mmsieve.methods.stock import RECORD, record_of
from mmsieve.methods.tower import CheckpointFolder
from mmsieve.options import Overwrite, Wait
from mmsieve.outputs import check_folder, is_same_request, read_record, staged
from mmsieve.reports import Report, timed


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
    checkpoint, write = _converter(folder)
    config = record_of(checkpoint)
    with writing_to(out, "convert", wait=wait):
        made = read_record(out, RECORD, "convert")
        if made is not None and is_same_request(out, made, config, overwrite) and not overwrite:
            return ConvertReport(out=out, notes=("done before",))
        with staged(out) as staging:
            notes = write(checkpoint, staging)
            (staging / RECORD).write_text(json.dumps(config) + "\n", "utf-8")
    return ConvertReport(out=out, notes=tuple(notes))


def _converter(folder: Path) -> tuple[CheckpointFolder, Callable[[Any, Path], list[str]]]:
    """The checkpoint, and what writes its stock layout and returns notes; imports torch."""
    config, tensors = read_json(folder / "config.json"), tensor_files(folder)
    if is_onevision(config, tensors):
        from mmsieve.methods.mmssr.model import convert_rater

        return open_onevision(folder), convert_rater
    if is_enhancer(config, tensors):
        from mmsieve.methods.aitqe.model import convert_enhancer

        return open_enhancer(folder), convert_enhancer
    kind = config.get("model_type")
    raise RequestError(f"{folder}: no stock class for its kind ({kind!r}): nothing to convert to")
