"""Which shards of a run have their table already, and under which names tables are written.

A table knows its source file by address, size, time of change and content. So it is found again
when another folder among the SOURCEs moves the common parent, when the file was copied or moved,
and not when the file was edited or another one took its name.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmsieve import tables
from mmsieve.engine.job import ShardJob
from mmsieve.errors import RequestError
from mmsieve.identity import FileIdentity, identify, is_same_file
from mmsieve.outputs import check_unused, is_same_request, made_otherwise, not_ours
from mmsieve.sources import Shard
from mmsieve.tables import Header

_THREADS = 16


def settle_names(
    shards: Sequence[Shard], job: ShardJob, overwrite: bool
) -> tuple[list[Shard], dict[str, Header]]:
    """The shards under the names of the tables that they have in `out`, or else under their own.

    Beside them the headers of all tables that are there, by name.
    Raises RequestError where `out` holds a table that another request made, or another file's
    table under a shard's name, unless they may be overwritten.
    """
    files = tables.table_files(job.out)
    if not files:
        check_unused(job.out)
    with ThreadPoolExecutor(_THREADS) as pool:
        read = partial(_check_header, job, overwrite)
        headers = dict(zip(files, pool.map(read, files.values()), strict=True))
        by_place: dict[tuple[str, int], str] = {}
        by_size: dict[tuple[int, int], list[str]] = defaultdict(list)
        for known, header in headers.items():
            if header.source is not None:
                by_place[header.source.address, header.start] = known
                by_size[header.size, header.start].append(known)
        names = [by_place.get((shard.address, shard.start)) for shard in shards]
        left = {name: headers[name] for name in headers.keys() - set(names)}

        def find(shard: Shard) -> str | None:
            """The table of the same bytes, found elsewhere before."""
            alike = [name for name in by_size[shard.size, shard.start] if name in left]
            if not alike:
                return None
            own = identify(shard.url)
            return next((n for n in alike if own.is_same(_identity(left[n]))), None)

        unknown = [shard for shard, name in zip(shards, names, strict=True) if name is None]
        found = dict(zip((shard.name for shard in unknown), pool.map(find, unknown), strict=True))
    taken: set[str] = set()
    settled = []
    for shard, placed in zip(shards, names, strict=True):
        name = placed or found[shard.name]
        if name is None or name in taken:  # two files of the same bytes are two shards
            name = shard.name
            if not overwrite:
                _check_free(job.out, shard, headers.get(name))
        taken.add(name)
        settled.append(replace(shard, name=name))
    return settled, headers


def _check_header(job: ShardJob, overwrite: bool, path: Path) -> Header:
    found = tables.existing_file(path)
    if found is None:
        raise not_ours(path, "is gone again")
    header, schema = found
    is_same_request(path, header.fingerprint, job.fingerprint, overwrite)
    # The columns are part of the fingerprint, but stand in each file once only, as its schema
    if not overwrite and not schema.equals(job.schema):
        raise made_otherwise(path, ["schema"])
    return header


def _identity(header: Header) -> FileIdentity:
    assert header.source is not None  # by_size has no others
    return header.source


def _check_free(out: Path, shard: Shard, header: Header | None) -> None:
    if header is not None and header.source is not None:
        raise RequestError(
            f"{out}: {shard.name} is the table of {header.source.address}, another file than "
            f"{shard.url}: name both together, or choose another --out"
        )


def not_done(shards: Sequence[Shard], headers: Mapping[str, Header]) -> list[Shard]:
    """The shards without a whole table of the file as it is now; `headers` are of all tables."""
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(_is_done, shards, (headers.get(shard.name) for shard in shards))
        return [shard for shard, is_done in zip(shards, done, strict=True) if not is_done]


def _is_done(shard: Shard, header: Header | None) -> bool:
    if header is None or not (header.complete or _is_same_trial(header, shard)):
        return False
    if header.source is None or header.size != shard.size:
        return header.size == shard.size
    return is_same_file(shard.url, shard.size, header.source)


def _is_same_trial(header: Header, shard: Shard) -> bool:
    return header.problem is None and header.limit == shard.limit
