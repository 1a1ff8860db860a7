"""convert: a released checkpoint -> the stock Hugging Face layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmsieve.errors import RequestError
from mmsieve.methods.aitqe.checkpoint import is_enhancer, open_enhancer
from mmsieve.methods.folders import bundled_folder, read_json, tensor_files
from mmsieve.methods.load import find_folder
from mmsieve.methods.mmssr.checkpoint import is_onevision
from mmsieve.outputs import check_empty, staged
from mmsieve.reports import Report, timed

Convert: TypeAlias = Callable[[Path, Path], list[str]]


def _convert_rater(folder: Path, out: Path) -> list[str]:
    from mmsieve.methods.mmssr.model import convert_rater  # imports torch

    return convert_rater(folder, out)


def _convert_enhancer(folder: Path, out: Path) -> list[str]:
    checkpoint = open_enhancer(folder)
    from mmsieve.methods.aitqe.model import write_stock  # imports torch

    return write_stock(checkpoint, out)


_KINDS: tuple[tuple[Callable[[dict[str, Any], dict[str, Path]], bool], Convert], ...] = (
    (is_onevision, _convert_rater),
    (is_enhancer, _convert_enhancer),
)
"""Whether config and tensors are of a kind, and what converts it."""


@dataclass(frozen=True, kw_only=True)
class ConvertReport(Report):
    """How a conversion went."""

    def counts(self) -> str:
        """One, always."""
        return "1 model"


@timed
def convert(model: str, *, out: Path) -> ConvertReport:
    """Write a scorer, styler or rewriter in the stock Hugging Face layout, for servers.

    vLLM, SGLang and `transformers serve` load the folder without code of its own.

    Parameters
    ----------
    model
        A bundled model (see `models`), a checkpoint's folder, or its Hugging Face id.
    out
        Folder to write; it must not be there yet, or be empty.
    """
    out = Path(out)
    folder = bundled_folder(model) or find_folder(model, "a bundled model, a folder or an id")
    check_empty(out)
    config, tensors = read_json(folder / "config.json"), tensor_files(folder)
    for is_kind, converter in _KINDS:
        if is_kind(config, tensors):
            with staged(out) as staging:
                notes = converter(folder, staging)
            return ConvertReport(out=out, notes=tuple(notes))
    kind = config.get("model_type")
    raise RequestError(f"{folder}: no stock class for its kind ({kind!r}): nothing to convert to")
