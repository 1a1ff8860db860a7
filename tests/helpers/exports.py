"""What the tests of export share."""

import tarfile
from pathlib import Path
from typing import Any

import polars as pl
from webdataset import tariterators

from mmsieve.read import ReadOptions
from mmsieve.verbs.export import ExportOptions, ExportReport, export
from mmsieve.verbs.filter import CutOptions, filter
from tests.helpers.shards import captions, write_tar
from tests.helpers.tables import read_decisions, score_sources


def decide(*sources: Path, out: Path, fraction: float = 0.5, **options: Any) -> Path:
    """Score and filter sources; returns the decisions."""
    scores = score_sources(*sources, out=out.parent / f"{out.name}-scores", **options)
    filter(str(scores), out=out, cut=CutOptions(top_fraction=fraction), quiet=True)
    return out


def run(*sources: Path, decisions: Path, out: Path, **options: Any) -> ExportReport:
    reading = {n: options.pop(n) for n in ("images", "image_column", "layout") if n in options}
    return export(
        *map(str, sources),
        decisions=decisions,
        out=out,
        read=ReadOptions(**reading),
        run=ExportOptions(quiet=True, **options),
    )


def members(path: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of a tar's members, in order."""
    with tarfile.open(path) as archive:
        files = [info for info in archive if info.isreg()]
        return [(info.name, archive.extractfile(info).read()) for info in files]  # type: ignore[union-attr]


def raw_members(path: Path) -> dict[str, bytes]:
    """Name -> a member's blocks, its header included."""
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        ends = [(i.name, i.offset, i.offset_data + -(-i.size // 512) * 512) for i in archive]
    return {name: data[start:stop] for name, start, stop in ends}


def kept_keys(decisions: Path, shard: str | None = None) -> list[str]:
    rows = read_decisions(decisions).filter("keep")
    return rows.filter(pl.lit(True) if shard is None else pl.col("shard") == shard)["key"].to_list()


def key_of(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def read_wds(path: Path) -> list[dict[str, Any]]:
    """The samples as the webdataset package finds them; it leaves closing the file to others."""
    with path.open("rb") as file:
        found = tariterators.tar_file_expander([{"url": str(path), "stream": file}])
        return [dict(sample) for sample in tariterators.group_by_keys(found)]


def make_two_tars(folder: Path) -> Path:
    """A folder with 00000.tar of 30 captions, and sub/00001.tar of 20 with the same keys."""
    write_tar(folder / "00000.tar", captions(30))
    write_tar(folder / "sub" / "00001.tar", captions(20))
    return folder
