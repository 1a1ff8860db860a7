"""What the rendered teacher draws: images, and the records of a training file over them."""

from dataclasses import dataclass
from typing import Any

from mmsieve.sample import Sample


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a training file, and the same as a sample of a source, for shards."""

    fields: dict[str, Any]
    """Without its id."""
    sample: Sample
    """Without its key."""
    item: dict[str, Any] | None = None
    """The same as an item of a pool of instructions, with nothing known about it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images and all the records over them."""

    key: str
    images: tuple[bytes, ...]
    """PNG files."""
    records: tuple[Record, ...]
