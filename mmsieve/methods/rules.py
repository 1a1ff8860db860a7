"""Rules: DataComp's basic filter (arXiv 2304.14108, section 4), one column per rule, no model.

The bounds are those of the published filter (mlfoundations/datacomp, baselines/apply_filter.py;
its text says "below" for the aspect ratio, its code lets 3 pass). What differs on purpose:

- English is what py3langid says, where it is installed, and else isn't asked for: fastText's
  model, which DataComp used, is a download of its own under a licence of its own. Both err on
  short texts, and not on the same ones. The fingerprint tells which it was.
- Sizes are those of the image at hand, DataComp's those of the original before its resizing:
  in tars that img2dataset has made smaller, sides below 200 pixels are the tool's doing.
- A document has to pass as a whole: its texts, joined by newlines, are the caption, and every
  image that can be used has to be large and square enough; the columns hold the worst.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pyarrow as pa

from mmsieve.engine.annotator import Annotator, Row, Runner, RunnerOptions
from mmsieve.errors import SampleError, Status
from mmsieve.images import ImageLimits, read_size
from mmsieve.methods.base import caption_image, read_usable
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.sample import Image, Sample, Text

MIN_WORDS, MIN_CHARACTERS, MIN_SIDE, MAX_ASPECT_RATIO = 3, 6, 200, 3.0
LANGUAGE = "en"

SCHEMA = pa.schema(
    [
        ("quality_score", pa.float32()),
        ("num_words", pa.int32()),
        ("num_characters", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("aspect_ratio", pa.float32()),
        ("language", pa.string()),
        ("passes_words", pa.bool_()),
        ("passes_characters", pa.bool_()),
        ("passes_size", pa.bool_()),
        ("passes_aspect_ratio", pa.bool_()),
        ("passes_language", pa.bool_()),
        ("num_images", pa.int32()),
        ("num_skipped_images", pa.int32()),
    ]
)
"""1 where every rule is passed, else 0; words by white space; pixels of the image (of a document's
with the shortest side); longer by shorter side; ISO 639-1, null where it was not looked at."""

_DETECTOR = "py3langid"
_NO_DETECTOR = f"not looked at: {_DETECTOR} is not installed (pip install 'mmsieve[language]')"
_UNREAD = ("image_fit", "max_text_tokens", "plain_text", "apply_orientation", "fast_images")
"""Options of scoring that mean nothing here."""


@dataclass(frozen=True)
class RulesPreparer:
    """All of the work: text statistics, and image sizes from the files' headers."""

    detects: bool
    """Whether languages are looked at."""
    limits: ImageLimits

    def prepare(self, sample: Sample) -> Row:
        """The row of a sample; raises SampleError where a rule can't be applied."""
        texts = [part.text for part in sample.parts if isinstance(part, Text)]
        if not texts:
            raise SampleError(Status.TEXT_MISSING, f"a {sample.kind} without text")
        text = "\n".join(texts)
        words = len(text.split())
        language = _detect(text) if self.detects else None
        sizes, skipped = self._sizes(sample)
        width, height = min(sizes, key=min)
        ratio = max(max(size) / min(size) for size in sizes)
        row: Row = {
            "num_words": words,
            "num_characters": len(text),
            "language": language,
            "passes_words": words >= MIN_WORDS,
            "passes_characters": len(text) >= MIN_CHARACTERS,
            "passes_language": language == LANGUAGE if self.detects else None,
            "width": width,
            "height": height,
            "aspect_ratio": ratio,
            "passes_size": min(width, height) >= MIN_SIDE,
            "passes_aspect_ratio": ratio <= MAX_ASPECT_RATIO,
            "num_images": len(sizes),
            "num_skipped_images": skipped,
        }
        passed = all(value is not False for name, value in row.items() if name.startswith("passes"))
        return row | {"quality_score": float(passed)}

    def _sizes(self, sample: Sample) -> tuple[list[tuple[int, int]], int]:
        """Sizes of the images that count, and how many of a document's can't be read."""
        if sample.kind == "caption":
            return [self._size(caption_image(sample))], 0
        return read_usable(sample.images, self._size)

    def _size(self, image: Image) -> tuple[int, int]:
        return read_size(image.data, self.limits, image.frame)


@dataclass
class RulesRunner:
    """Hands on what was prepared: rules need no device."""

    notes: dict[str, str]

    def run(self, items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Row | SampleError]]:
        """The rows, in order."""
        yield from items


class Rules(Annotator):
    """The rules as an annotator."""

    spread = 0
    schema = SCHEMA

    def __init__(self, options: ScoringOptions) -> None:
        """Raises RequestError for options that mean nothing here."""
        options.refuse(_UNREAD, "rules")
        self._limits = options.image_limits
        self._detector = _installed()
        if self._detector is None:
            self.notes = (f"language {_NO_DETECTOR}",)
        self.fingerprint = {
            "method": "datacomp basic rules 1",
            "language": self._detector or "not looked at",
            "image_limits": str(options.image_limits),
        }

    def preparer(self) -> RulesPreparer:
        """The CPU half."""
        return RulesPreparer(self._detector is not None, self._limits)

    def runner(self, options: RunnerOptions) -> Runner:
        """Nothing to load."""
        return RulesRunner({"device": "none", "language": self._detector or _NO_DETECTOR})


def _installed() -> str | None:
    """Name and version of the language detector, or None."""
    try:
        return f"{_DETECTOR} {metadata.version(_DETECTOR)}"
    except metadata.PackageNotFoundError:
        return None


def _detect(text: str) -> str | None:
    """The language of a text; None where it has no letters."""
    if not any(letter.isalpha() for letter in text):
        return None
    import py3langid

    return str(py3langid.classify(text)[0])
