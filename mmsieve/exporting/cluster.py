"""An export's files written on a Ray cluster: whoever asks for them notes them."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mmsieve.engine.crew import Actor, Failure
from mmsieve.engine.ray import SHARED, RayEngine
from mmsieve.errors import MmsieveError
from mmsieve.exporting.exporter import Exporter, named
from mmsieve.exporting.pictures import ImageCopies
from mmsieve.exporting.plan import ExportFile
from mmsieve.exporting.tars import ExportEntry
from mmsieve.progress import Advance


@dataclass(frozen=True)
class _Asked:
    """A file to write, and the digest of what it depends on."""

    file: ExportFile
    identity: str

    @property
    def name(self) -> str:
        """The file's."""
        return self.file.name


@dataclass
class _Written:
    """What came of a file; stands for the journal, to which only one machine may add."""

    entries: list[ExportEntry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pictures: ImageCopies | None = None

    def add(self, entry: ExportEntry) -> set[str]:
        """Keep what is to be noted."""
        self.entries.append(entry)
        return set()


class _ExportActor(Actor):
    """An Exporter on a node, without a journal."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def run(self, asked: _Asked) -> _Written:
        """Write a file."""
        before = self._exporter.pictures  # what came of each file alone, or all would come again
        pictures = None if before is None else ImageCopies(before.out)
        written = _Written(pictures=pictures)
        exporter = replace(self._exporter, journal=written, pictures=pictures)
        try:
            written.problems = exporter.write(asked.file, asked.identity)
        except OSError as error:  # ends the run, as it does on one machine
            where = f"on {socket.gethostname()}"
            raise MmsieveError(
                f"--out {exporter.out}: can't be written {where}: {error}"
            ) from error
        return written


def mirror_on_ray(
    exporter: Exporter, files: Sequence[tuple[ExportFile, str]], ray: RayEngine, advance: Advance
) -> dict[str, str]:
    """One file per source, as `Exporter.mirror` does; returns what failed of which.

    A file is noted once it is there. Whoever is killed in between writes it again: entries of
    other identities stop an export before, and those that aren't complete are done again.
    """
    failed: dict[str, str] = {}
    make = partial(_ExportActor, replace(exporter, journal=_Written()))
    for asked, written in ray.run_each(make, [_Asked(*each) for each in files]):
        if isinstance(written, Failure):
            nothing = ExportEntry(
                unit=asked.file.unit, identity=asked.identity, tars=(), complete=False
            )
            written = _Written([nothing], [written.problem])
        for entry in written.entries:
            _check_there(exporter.out, entry)
            exporter.note(entry)
        if exporter.pictures is not None and written.pictures is not None:
            exporter.pictures.add(written.pictures)
        failed |= named(asked.file.label, written.problems)
        advance(asked.file.count, asked.file.size)
    return failed


def _check_there(out: Path, entry: ExportEntry) -> None:
    """Raise MmsieveError where a file that a node has written isn't seen here."""
    for tar in entry.tars:
        path = out / tar.name
        if not path.is_file() or path.stat().st_size != tar.bytes:
            raise MmsieveError(f"{path}: a node has written it elsewhere: {SHARED}")
