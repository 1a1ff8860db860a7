"""Diversity: images by kind, and an even draw over the kinds.

As UniFilter's training images were chosen (arXiv 2510.15162, figure 1), so that what the web has
most of does not fill the sample. The published text names neither embeddings nor the number of
clusters; here they are a vision tower's averaged patch features, and whatever K is asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain, islice
from math import ceil
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from mmsieve.devices import Device, Dtype, Memory, resolve_device, resolve_dtype, share_cores
from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.generation.plan import Draw, ImageSource, count_samples
from mmsieve.images import ImageLimits, ImageSpec, Pixels, decode, fit
from mmsieve.methods.folders import read_json
from mmsieve.methods.load import find_model
from mmsieve.methods.memory import estimate_tower
from mmsieve.methods.tower import Tower, open_tower
from mmsieve.methods.unifilter.checkpoint import BACKBONES, open_checkpoint
from mmsieve.progress import Advance, show_progress
from mmsieve.sample import Image

if TYPE_CHECKING:
    from mmsieve.methods.base import ImageFeatures


Labels: TypeAlias = npt.NDArray[np.int32]
"""The cluster of every sample, from 0; NONE where it has no image that can be used."""

NONE = -1

_AT_ONCE = 256  # samples whose pixels are in memory together
_BLOCK = 4096  # rows of a step of k-means; more where there are more clusters than half of that
_STEPS = 40
_PASSES = 2  # K-means sees the data as often, and takes at least so many steps

_Vector: TypeAlias = npt.NDArray[np.float32]


def draw_evenly(labels: Labels, count: int, seed: int) -> list[int]:
    """`count` samples, as many of every cluster as it has and the others allow.

    Clusters give one sample each, round by round, in an order that differs from round to round;
    a small one is used up, and samples of no cluster are never drawn. Gives positions in `labels`
    as they are drawn: the first N of a draw are the draw of N.
    """
    usable = np.flatnonzero(labels != NONE)
    chance = np.random.default_rng((seed, 11)).permutation(len(usable))
    by_cluster = np.lexsort((chance, labels[usable]))
    ordered = labels[usable][by_cluster]
    rounds = np.empty(len(usable), np.int64)
    rounds[by_cluster] = np.arange(len(usable)) - np.searchsorted(ordered, ordered)
    drawn: list[int] = usable[np.lexsort((chance, rounds))][:count].tolist()
    return drawn


def even_draw(labels: Labels, seed: int) -> Draw:
    """A draw of every sample: evenly over the clusters, then those of none."""
    return lambda count: [
        *draw_evenly(labels, count, seed),
        *np.flatnonzero(labels == NONE).tolist(),
    ]


def describe(labels: Labels) -> str:
    """How large the clusters are, in a line."""
    _, sizes = np.unique(labels[labels != NONE], return_counts=True)
    least, most = (int(sizes.min()), int(sizes.max())) if len(sizes) else (0, 0)
    return (
        f"diversify: {sizes.sum():,} of {len(labels):,} samples in {len(sizes):,} clusters "
        f"of {least:,} to {most:,}"
    )


def open_features(model: str) -> Tower:
    """The vision tower of a SigLIP, a CLIP or a quality classifier; raises RequestError."""
    if find_spec("sklearn") is None:
        raise RequestError("--diversify needs scikit-learn: pip install 'mmsieve[teachers]'")
    folder = find_model(model)
    if read_json(folder / "config.json").get("model_type") in BACKBONES:
        return open_checkpoint(folder).tower
    return open_tower(folder)


def estimate_features(tower: Tower) -> Memory:
    """What looking at the images will take."""
    return estimate_tower(tower, *_where())


def _where() -> tuple[Device, Dtype]:
    device = resolve_device()
    return device, resolve_dtype("auto", device)


def cluster_sources(
    sources: Sequence[ImageSource], tower: Tower, clusters: int, seed: int, quiet: bool
) -> Labels:
    """The kind of every sample of all sources in their order; what can't be read is in none.

    Raises RequestError where the tower's weights don't fit.
    """
    share_cores()
    from mmsieve.methods.base import ImageFeatures

    device, dtype = _where()
    features = ImageFeatures(tower, device, dtype)
    counts = [count_samples(source, {}) for source in sources]
    shown = chain.from_iterable(map(_all_images, sources, counts))
    with show_progress("diversify", sum(counts), quiet) as advance:
        return cluster_images(shown, features, clusters, seed, advance)


def _all_images(source: ImageSource, count: int) -> Iterator[tuple[Image, ...]]:
    """The images of each sample of a source, none for one that can't be read."""
    at = 0
    with suppress(ShardError):  # the plan, which reads it too, says so
        for sample in source.read(set(range(count))):
            yield from ((),) * (sample.index - at)
            at = sample.index + 1
            yield sample.images
    yield from ((),) * (count - at)


def cluster_images(
    shown: Iterable[Sequence[Image]],
    features: "ImageFeatures",
    clusters: int,
    seed: int,
    advance: Advance,
) -> Labels:
    """The kind of every sample by its images, a document's kind by the mean of them.

    Their vectors go to a temporary file, so memory is bounded by a block of them.
    """
    with TemporaryFile() as file:
        usable = []
        for vector in embed(shown, features):
            usable.append(vector is not None)
            if vector is not None:
                file.write(vector.tobytes())
            advance(1, 1)
        file.flush()
        labels = np.full(len(usable), NONE, np.int32)
        if any(usable):
            vectors = np.memmap(file, np.float32, "r").reshape(-1, features.width)
            labels[np.array(usable)] = _cluster(vectors, clusters, seed)
    return labels


def embed(shown: Iterable[Sequence[Image]], features: "ImageFeatures") -> Iterator[_Vector | None]:
    """A vector [width] per sample, whose images are given; None where none can be used."""
    rest = iter(shown)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(rest, _AT_ONCE)):
            images = [image for sample in chunk for image in sample]
            pixels = list(pool.map(lambda image: _pixels(image, features.image), images))
            ready = [square for square in pixels if square is not None]
            vectors: Iterator[_Vector] = iter(features.embed(np.stack(ready)) if ready else ())
            rows = iter([None if square is None else next(vectors) for square in pixels])
            for sample in chunk:
                own: list[_Vector] = [row for row in islice(rows, len(sample)) if row is not None]
                yield np.stack(own).mean(0) if own else None


def _pixels(image: Image, spec: ImageSpec) -> Pixels | None:
    try:
        return fit(decode(image.data, ImageLimits(), image.frame), spec)
    except SampleError:
        return None


def _cluster(vectors: npt.NDArray[np.float32], clusters: int, seed: int) -> Labels:
    """The cluster of every row [rows, width], by k-means on blocks of rows drawn at random."""
    from sklearn.cluster import MiniBatchKMeans

    rows, count = len(vectors), min(clusters, len(vectors))
    block = max(_BLOCK, 2 * count)
    model = MiniBatchKMeans(count, random_state=seed, batch_size=block)
    steps = max(_STEPS, _PASSES * ceil(rows / block))
    for at in islice(_blocks(rows, block, np.random.default_rng((seed, 12))), steps):
        model.partial_fit(_unit(vectors[at]))
    labels = np.empty(rows, np.int32)
    for start in range(0, rows, block):
        part = slice(start, start + block)
        labels[part] = model.predict(_unit(vectors[part]))
    return labels


def _blocks(rows: int, block: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of a block at a time, all of them in every pass, without end."""
    while True:
        for part in np.array_split(rng.permutation(rows), max(1, rows // block)):
            yield np.sort(part)  # in the file's order


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows at length 1, so that their distance is the angle between them."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
