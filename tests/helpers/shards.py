"""Makes the shards that tests read: tars, Parquet and JSONL files, whole and broken."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmsieve.errors import SampleError, ShardError
from mmsieve.read import ReadOptions, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sample import Sample
from mmsieve.sources import find_files

Members = Iterable[tuple[str, bytes]]


def image(seed: int = 0, format: str = "JPEG", size: tuple[int, int] = (8, 8)) -> bytes:
    """A small image file; another seed, other pixels."""
    file = io.BytesIO()
    colour = (37 * seed % 256, 91 * seed % 256, 173 * seed % 256)
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def caption(key: str, text: str = "A red square.", **metadata: Any) -> list[tuple[str, bytes]]:
    """The members of a caption pair."""
    seed = sum(key.encode())
    found = {"uid": key, **metadata}
    return [
        (f"{key}.jpg", image(seed)),
        (f"{key}.txt", text.encode()),
        (f"{key}.json", json.dumps(found).encode()),
    ]


def captions(count: int) -> list[tuple[str, bytes]]:
    """The members of so many caption pairs, in order."""
    return [m for n in range(count) for m in caption(f"{n:04d}", f"Square number {n}.")]


def tar_bytes(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members (name, bytes), just as they come."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    """A tar file of members (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def write_jsonl(path: Path, documents: Iterable[Mapping[str, Any]]) -> Path:
    """A JSONL file, one document a line."""
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def write_parquet(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    types: Mapping[str, pa.DataType] | None = None,
    **options: Any,
) -> Path:
    """A Parquet file of columns, of declared types where those can't be told from the values."""
    arrays = {n: pa.array(values, (types or {}).get(n)) for n, values in columns.items()}
    pq.write_table(pa.table(arrays), path, **options)
    return path


class Read(NamedTuple):
    """What reading a source gives, over all its shards."""

    samples: list[Sample]
    """Those that could be parsed."""
    statuses: list[str]
    """`ok` or the reason, for every row."""
    keys: list[str]
    problems: list[str]
    """Of shards that could not be read to their end."""


def read(source: Path | str, **options: Any) -> Read:
    """Read a source as an engine does, and check that no row is lost."""
    found = Read([], [], [], [])
    asked = ReadOptions(**options)
    for shard in split_files(find_files([str(source)]).files, asked):
        rows = count = 0
        try:
            with open_shard(shard, asked) as reader:
                count = reader.count
                for record in reader.records:
                    rows += 1
                    found.keys.append(record.key)
                    try:
                        found.samples.append(parse_record(reader.parse, record))
                        found.statuses.append("ok")
                    except SampleError as error:
                        assert "\n" not in str(error)
                        found.statuses.append(error.status.value)
            assert rows == count
        except ShardError as error:
            found.problems.append(str(error))
            assert rows <= count
    return found
