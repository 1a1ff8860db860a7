"""generate --diversify: clusters by what images look like, and an even draw over them."""

from collections import Counter
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shards import image
from tiny import Recipe, make_checkpoint

from mmsieve.generate import diversity
from mmsieve.generate.diversity import NONE, cluster_samples, draw_evenly, embed_samples
from mmsieve.generate.rendered import Drawing
from mmsieve.images import ImageLimits, decode, fit
from mmsieve.methods.load import load_annotator
from mmsieve.models.features import ImageFeatures
from mmsieve.models.storage import load_classifier
from mmsieve.rendered.scenes import sample_scene
from mmsieve.sample import Sample

labels = st.lists(st.integers(NONE, 6), max_size=80).map(lambda found: np.array(found, np.int32))
seeds = st.integers(0, 2**32)


@given(labels, st.integers(0, 100), seeds)
def test_the_draw_is_as_even_as_the_clusters_allow(labels, count, seed):
    drawn = draw_evenly(labels, count, seed)
    assert len(drawn) == len(set(drawn)) == min(count, int((labels != NONE).sum()))
    sizes = Counter(labels[labels != NONE].tolist())
    taken = Counter(labels[drawn].tolist())
    most = max(taken.values(), default=0)
    for cluster, size in sizes.items():  # used up, or within one of the most
        assert taken[cluster] == size or taken[cluster] >= most - 1


@given(labels, st.integers(0, 100), st.integers(0, 100), seeds)
def test_a_draw_goes_on_where_a_smaller_one_ended(labels, count, more, seed):
    assert draw_evenly(labels, count + more, seed)[:count] == draw_evenly(labels, count, seed)


@given(labels, seeds)
def test_the_names_of_the_clusters_do_not_matter(labels, seed):
    renamed = np.where(labels == NONE, NONE, 6 - labels).astype(np.int32)
    assert set(draw_evenly(labels, 1000, seed)) == set(draw_evenly(renamed, 1000, seed))
    counts = (
        sorted(Counter(some[draw_evenly(some, 9, seed)].tolist()).values())
        for some in (labels, renamed)
    )
    assert next(counts) == next(counts)


def test_another_seed_draws_others():
    labels = np.zeros(1000, np.int32)
    assert set(draw_evenly(labels, 20, 1)) != set(draw_evenly(labels, 20, 2))


KINDS = ("core", "chart", "table")
SHARES = (520, 60, 20)


@pytest.fixture(scope="module")
def tiny() -> ImageFeatures:
    return ImageFeatures(load_annotator("unifilter-tiny").checkpoint.tower, "cpu", "float32")


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    """Very uneven shares of kinds, in the order of the kinds; the key names the kind."""
    kinds = [kind for kind, share in zip(KINDS, SHARES, strict=True) for _ in range(share)]
    return [
        Sample.caption(Drawing().draw(sample_scene(kind, index)), "", f"{kind}-{index}")
        for index, kind in enumerate(kinds)
    ]


def evenness(samples: list[Sample]) -> float:
    """Entropy of the kinds: 1 where every one is as frequent, 0 where there is only one."""
    counts = Counter(sample.key.partition("-")[0] for sample in samples)
    shares = [count / len(samples) for count in counts.values()]
    return -sum(share * log(share) for share in shares) / log(len(KINDS))


def test_the_draw_is_more_even_than_chance_on_drawn_scenes(tiny, scenes, tmp_path):
    labels = cluster_samples(scenes, tiny, 12, seed=3, spool=tmp_path)
    assert set(labels.tolist()) == set(range(12))
    drawn = [scenes[at] for at in draw_evenly(labels, 60, 3)]
    chance = [
        evenness([scenes[at] for at in np.random.default_rng(seed).permutation(len(scenes))[:60]])
        for seed in range(20)
    ]
    assert evenness(drawn) > max(*chance, np.mean(chance) + 0.15)
    assert not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_clusters_however_images_are_batched(
    tiny, scenes, tmp_path, monkeypatch
):
    few = scenes[400:]
    labels = cluster_samples(few, tiny, 5, seed=1, spool=tmp_path)
    monkeypatch.setattr(diversity, "_AT_ONCE", 7)
    assert labels.tolist() == cluster_samples(iter(few), tiny, 5, seed=1, spool=tmp_path).tolist()


def test_many_blocks_find_the_kinds_too(tiny, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(diversity, "_BLOCK", 64)
    labels = cluster_samples(scenes, tiny, 12, seed=3, spool=tmp_path)
    drawn = [scenes[at] for at in draw_evenly(labels, 60, 3)]
    assert evenness(drawn) > evenness(scenes) + 0.15


def test_images_that_can_not_be_used_are_in_no_cluster_and_documents_count_once(tiny, tmp_path):
    pictures = [image(seed) for seed in range(6)]
    samples = [Sample.caption(data, "") for data in pictures]
    samples += [
        Sample.document(["text only"]),
        Sample.caption(b"no image", ""),
        Sample.document([pictures[0], "between", b"no image", pictures[0]]),
    ]
    vectors = list(embed_samples(samples, tiny))
    assert [vector is None for vector in vectors] == [False] * 6 + [True, True, False]
    assert np.allclose(vectors[8], vectors[0], atol=1e-5)
    labels = cluster_samples(samples, tiny, 100, seed=0, spool=tmp_path)
    assert labels[6:8].tolist() == [NONE, NONE]
    assert labels[8] == labels[0]
    assert cluster_samples([], tiny, 3, seed=0, spool=tmp_path).tolist() == []


def test_features_are_those_of_the_classifier_s_own_tower(tiny):
    pixels = np.stack([fit(decode(image(seed), ImageLimits()), tiny.image) for seed in range(3)])
    model = load_classifier(load_annotator("unifilter-tiny").checkpoint)
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * tiny.image.scale
    with torch.inference_mode():
        patches = model.model.vision_tower((batch - 0.5) / 0.5, -1)
    assert np.allclose(tiny.embed(pixels), patches.mean(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_any_tower_gives_vectors(tmp_path, kind):
    make_checkpoint(tmp_path / "model", Recipe(tower=kind))
    tower = load_annotator(str(tmp_path / "model")).checkpoint.tower
    features = ImageFeatures(tower, "cpu", "float32")
    vectors = list(embed_samples([Sample.caption(image(seed), "") for seed in (1, 1, 2)], features))
    assert vectors[0].shape == (features.width,)
    assert np.allclose(vectors[0], vectors[1], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)
