"""convert: a released checkpoint -> the stock Hugging Face layout, to be loaded and served."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.methods.load import find_folder
from mmsieve.models.catalog import bundled_folder
from mmsieve.models.enhancer import MODEL_TYPE, open_enhancer
from mmsieve.models.files import read_json

Writer = Callable[[Path, Path], None]
"""Reads a checkpoint folder and writes another."""


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """What was written."""

    out: Path
    seconds: float
    bytes: int
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """What a user should know, the last line with counts, seconds and the output's path."""
        return f"{self.bytes / 1e6:.1f} MB in {self.seconds:.1f} s: {self.out}"


def convert(
    model: str, /, *, out: Path, overwrite: Annotated[bool, Parameter(negative=())] = False
) -> ConvertReport:
    """Write a checkpoint in the layout that transformers, vLLM and SGLang load.

    Parameters
    ----------
    model
        A bundled model, a checkpoint's folder, or its Hugging Face id (owner/name).
    out
        Folder of the converted checkpoint.
    overwrite
        Replace what an earlier conversion wrote there.
    """
    started = time.monotonic()
    allowed = "a bundled model, a folder with config.json and *.safetensors, or a Hugging Face id"
    folder = bundled_folder(model) or find_folder(model, allowed)
    kind = str(read_json(folder / "config.json").get("model_type"))
    if kind not in _WRITERS:
        raise RequestError(
            f"{folder}: model_type {kind!r} is not one that can be converted: {', '.join(_WRITERS)}"
        )
    out = Path(out)
    _check_out(out, folder, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_name(f".{out.name}.{uuid4().hex}.tmp")
    try:
        _WRITERS[kind](folder, staging)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    size = sum(file.stat().st_size for file in out.iterdir())
    return ConvertReport(out=out, seconds=time.monotonic() - started, bytes=size)


def _check_out(out: Path, folder: Path, overwrite: bool) -> None:
    """Refuse a place that holds something, unless it is an earlier conversion's."""
    if out.exists() and out.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise RequestError(f"--out {out}: holds the model itself: choose another folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise RequestError(f"--out {out}: is not empty: choose another, or --overwrite")
        if not (out / "config.json").is_file():
            raise RequestError(f"--out {out}: holds no checkpoint, so it isn't replaced")
    elif out.exists() and not out.is_dir():
        raise RequestError(f"--out {out}: is a file, not a folder")


def _convert_enhancer(folder: Path, out: Path) -> None:
    checkpoint = open_enhancer(folder)  # before torch is imported
    from mmsieve.models.stock import write_stock

    write_stock(checkpoint, out)


_WRITERS: dict[str, Writer] = {MODEL_TYPE: _convert_enhancer}
"""`model_type` of a checkpoint -> what converts it."""
