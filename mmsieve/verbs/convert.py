"""convert: a released checkpoint -> the stock Hugging Face layout."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mmsieve.errors import RequestError
from mmsieve.methods.load import find_folder
from mmsieve.models.catalog import bundled_folder
from mmsieve.models.files import read_json, tensor_files
from mmsieve.models.onevision import is_onevision

Convert: TypeAlias = Callable[[Path, Path], list[str]]


def _convert_rater(folder: Path, out: Path) -> list[str]:
    from mmsieve.models.convert_rater import convert_rater  # imports torch

    return convert_rater(folder, out)


_KINDS: tuple[tuple[Callable[[dict[str, Any], dict[str, Path]], bool], Convert], ...] = (
    (is_onevision, _convert_rater),
)
"""Whether config and tensors are of a kind, and what converts it."""


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """How a conversion went."""

    out: Path
    seconds: float
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty."""

    def summary(self) -> str:
        """What a user should know, the last line with count, seconds and the folder's path."""
        return "\n".join([*self.notes, f"1 model in {self.seconds:.1f} s: {self.out}"])


def convert(model: str, *, out: Path) -> ConvertReport:
    """Write a scorer, styler or rewriter in the stock Hugging Face layout, for servers.

    vLLM, SGLang and `transformers serve` load the folder without code of its own.

    Parameters
    ----------
    model
        A bundled model (see `models`), a checkpoint's folder, or its Hugging Face id.
    out
        Folder to write; it must not hold a model yet.
    """
    started = time.monotonic()
    out = Path(out)
    folder = bundled_folder(model) or find_folder(model, "a bundled model, a folder or an id")
    if (out / "config.json").exists():
        raise RequestError(f"{out} holds a model: choose another --out")
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file: --out is a folder")
    config, tensors = read_json(folder / "config.json"), tensor_files(folder)
    for is_kind, converter in _KINDS:
        if is_kind(config, tensors):
            notes = converter(folder, out)
            return ConvertReport(out=out, seconds=time.monotonic() - started, notes=tuple(notes))
    kind = config.get("model_type")
    raise RequestError(f"{folder}: no stock class for its kind ({kind!r}): nothing to convert to")
