"""Models by name: those in the package, the released ones known to work, and baselines."""

from dataclasses import dataclass
from pathlib import Path

_BUNDLED = Path(__file__).parent.parent / "bundled"


@dataclass(frozen=True)
class Known:
    """A checkpoint that a user can name."""

    name: str
    verb: str
    """What it is for."""
    size: str
    """Weights, and what they take on disk."""
    licence: str
    trained_on: str
    """Where its training texts come from: some licences forbid to learn from a model's answers."""

    @property
    def folder(self) -> Path | None:
        """Where it lies in the package; None for one that has to be fetched."""
        folder = _BUNDLED / self.name
        return folder if folder.is_dir() else None


_RENDERED = "rendered scenes only: for trying things, not for photographs"
_CLAUDE = "texts that Claude 3 or 3.5 wrote: mind its terms"

CATALOG = (
    Known("unifilter-tiny", "score", "1.9 M weights, 3.8 MB", "Apache-2.0", _RENDERED),
    Known("aitqe-tiny", "enhance", "2.1 M weights, 4.2 MB", "Apache-2.0", _RENDERED),
    Known("mmssr-tiny-scorer", "rate", "2.0 M weights, 4.0 MB", "Apache-2.0", _RENDERED),
    Known("mmssr-tiny-styler", "rate", "2.0 M weights, 4.0 MB", "Apache-2.0", _RENDERED),
    Known(
        "weizhiwang/UniFilter-Qwen2.5-1.5B", "score", "2.0 B weights, about 4 GB", "MIT", _CLAUDE
    ),
    Known("weizhiwang/UniFilter-Qwen3-0.6B", "score", "1.0 B weights, about 2 GB", "MIT", _CLAUDE),
    Known(
        "HymanH/AITQE",
        "enhance",
        "8.0 B weights, about 16 GB",
        "Apache-2.0",
        "judgements and rewrites by GPT-4o: mind its terms",
    ),
    Known(
        "mengyaolyu/mmssr-7b-scorer",
        "rate",
        "8.0 B weights, about 16 GB",
        "see its card",
        "ratings by GPT-4o: mind its terms",
    ),
    Known(
        "mengyaolyu/mmssr-7b-styler",
        "rate",
        "8.0 B weights, about 16 GB",
        "see its card",
        "styles named by GPT-4o: mind its terms",
    ),
)
"""Licences and sources as on the checkpoints' cards and in their repositories: Victorwz/UniFilter,
hanhuang22/AITQE, lyumengyao/mmssr."""


BASELINES = {
    "clip:MODEL": "similarity of image and text by a CLIP or SigLIP, a folder or Hugging Face id",
    "rules": "DataComp's basic filter: words, characters, image size, aspect ratio, English",
    "text-only:MODEL": "a classifier of the above shown a blank image",
    "image-only:MODEL": "a classifier of the above shown no text",
}
"""Other scorers by name (`mmsieve.methods.load`), and what each gives."""


def bundled_folder(name: str) -> Path | None:
    """The folder of a bundled model; None where there is none of this name."""
    return next((known.folder for known in CATALOG if known.name == name), None)


def bundled_names(verb: str | None = None) -> list[str]:
    """The names of the bundled models: those for a verb, or all."""
    models = [known for known in CATALOG if known.folder is not None]
    return [known.name for known in models if verb in (None, known.verb)]
