"""A look at the first samples of all sources, before a model is loaded."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.read import ReadOptions, parse_record
from mmsieve.read.shards import open_shard
from mmsieve.sources import Shard

_SAMPLES = 32
_FIXES = {
    Status.IMAGE_MISSING: "say where images are with --images, or which ones with --image-column",
    Status.TEXT_MISSING: "say where the text is with --text-column, or another --layout",
    Status.JSON_INVALID: "say what it is with --layout",
    Status.CONVERSATION_INVALID: "say what it is with --layout, or --images-first",
}
"""What may mend a fault that all samples have."""


def check_first_samples(shards: Sequence[Shard], read: ReadOptions) -> None:
    """Raise RequestError where none of the first samples can be read, all for one reason.

    Up to 32 samples, spread over the shards, are parsed; none is decoded. Only where an option
    may mend what is wrong is the request refused: single bad samples are rows of the table.
    """
    seen: Counter[Status] = Counter()
    example = ""
    for problem in _first_problems(shards, read):
        if problem is None:
            return
        seen[problem.status] += 1
        example = example or str(problem)
    if len(seen) == 1 and (fix := _FIXES.get(next(iter(seen)))):
        ((status, count),) = seen.items()
        few = f"the only sample is {status}" if count == 1 else f"all of {count:,} are {status}"
        raise RequestError(f"of the first samples {few}: {example}; {fix}")


def _first_problems(shards: Sequence[Shard], read: ReadOptions) -> Iterator[SampleError | None]:
    local = [shard for shard in shards if "://" not in shard.url]  # others are fetched whole
    step = max(1, len(local) // _SAMPLES)
    looked = local[::step][:_SAMPLES]
    for shard in looked:
        try:
            with open_shard(shard, read) as reader:
                for record in islice(reader.records, -(-_SAMPLES // len(looked))):
                    try:
                        parse_record(reader.parse, record)
                    except SampleError as problem:
                        yield problem
                    else:
                        yield None
        except ShardError:  # the run names it
            continue
