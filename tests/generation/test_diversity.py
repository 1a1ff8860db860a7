"""generate --diversify: clusters by what images look like, and an even draw over them."""

import json
import re
import sys
from collections import Counter
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsieve
from mmsieve import GenerateOptions, RequestError
from mmsieve.generation import diversity
from mmsieve.generation.diversity import NONE, cluster_images, draw_evenly, embed, open_features
from mmsieve.generation.options import TeacherOptions
from mmsieve.images import ImageLimits, decode, fit
from mmsieve.methods.base import ImageFeatures
from mmsieve.methods.load import find_model
from mmsieve.methods.unifilter.checkpoint import open_checkpoint
from mmsieve.methods.unifilter.model import load_classifier
from mmsieve.sample import Image, Sample
from mmsieve.synthetic.scenes import sample_scene
from mmsieve.synthetic.teacher import Drawing
from tests.helpers.shards import image, write_tar
from tests.helpers.teacher_server import TeacherServer
from tests.helpers.tiny import Recipe, make_checkpoint

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
    return ImageFeatures(open_features("unifilter-tiny"), "cpu", "float32")


def clusters(samples, features, count: int, seed: int) -> np.ndarray:
    shown = (sample.images for sample in samples)
    return cluster_images(shown, features, count, seed, lambda samples, size: None)


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


def test_the_draw_is_more_even_than_chance_on_drawn_scenes(tiny, scenes):
    labels = clusters(scenes, tiny, 12, 3)
    assert set(labels.tolist()) == set(range(12))
    drawn = [scenes[at] for at in draw_evenly(labels, 60, 3)]
    chance = [
        evenness([scenes[at] for at in np.random.default_rng(seed).permutation(len(scenes))[:60]])
        for seed in range(20)
    ]
    assert evenness(drawn) > max(*chance, np.mean(chance) + 0.15)


def test_the_same_seed_gives_the_same_clusters_however_images_are_batched(
    tiny, scenes, monkeypatch
):
    few = scenes[400:]
    labels = clusters(few, tiny, 5, 1)
    monkeypatch.setattr(diversity, "_AT_ONCE", 7)
    assert labels.tolist() == clusters(iter(few), tiny, 5, 1).tolist()


def test_many_blocks_find_the_kinds_too(tiny, scenes, monkeypatch):
    monkeypatch.setattr(diversity, "_BLOCK", 64)
    labels = clusters(scenes, tiny, 12, 3)
    drawn = [scenes[at] for at in draw_evenly(labels, 60, 3)]
    assert evenness(drawn) > evenness(scenes) + 0.15


def test_images_that_can_not_be_used_are_in_no_cluster_and_documents_count_once(tiny):
    pictures = [image(seed) for seed in range(6)]
    samples = [Sample.caption(data, "") for data in pictures]
    samples += [
        Sample.document(["text only"]),
        Sample.caption(b"no image", ""),
        Sample.document([pictures[0], "between", b"no image", pictures[0]]),
    ]
    vectors = list(embed([sample.images for sample in samples], tiny))
    assert [vector is None for vector in vectors] == [False] * 6 + [True, True, False]
    assert np.allclose(vectors[8], vectors[0], atol=1e-5)
    labels = clusters(samples, tiny, 100, 0)
    assert labels[6:8].tolist() == [NONE, NONE]
    assert labels[8] == labels[0]
    assert clusters([], tiny, 3, 0).tolist() == []


def test_features_are_those_of_the_classifier_s_own_tower(tiny):
    pixels = np.stack([fit(decode(image(seed), ImageLimits()), tiny.image) for seed in range(3)])
    model = load_classifier(open_checkpoint(find_model("unifilter-tiny")))
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * tiny.image.scale
    with torch.inference_mode():
        patches = model.model.vision_tower((batch - 0.5) / 0.5, -1)
    assert np.allclose(tiny.embed(pixels), patches.mean(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("where", ["inside", "alone"])
@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_any_tower_gives_vectors(tmp_path, kind, where):
    make_checkpoint(tmp_path / "model", Recipe(tower=kind))
    place = {"inside": tmp_path / "model", "alone": tmp_path / "towers" / f"{kind}-tiny"}[where]
    features = ImageFeatures(open_features(str(place)), "cpu", "float32")
    vectors = list(embed([(Image(image(seed)),) for seed in (1, 1, 2)], features))
    assert vectors[0] is not None and vectors[0].shape == (features.width,)
    assert np.allclose(vectors[0], vectors[1], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)


def generate(server: TeacherServer, source: Path, out: Path, **asked) -> mmsieve.GenerateReport:
    options = GenerateOptions(teacher="openai:m", count=240, seed=3, quiet=True)
    wanted = {"diversify": 12, "diversify_model": "unifilter-tiny"} | asked
    asking = TeacherOptions(base_url=f"{server.url}/v1", **wanted)
    return mmsieve.generate_captions(str(source), out=out, options=options, asking=asking)


def test_the_verb_draws_evenly_and_a_rerun_has_the_same_images(tmp_path, scenes):
    members = [(f"{sample.key}.png", sample.images[0].data) for sample in scenes]
    members[7:7] = [("broken.png", b"no image")]
    write_tar(tmp_path / "in" / "0.tar", members[:300])
    write_tar(tmp_path / "in" / "1.tar", members[300:])
    with TeacherServer(lambda ask: good(ask.key)) as server:
        report = generate(server, tmp_path / "in", tmp_path / "out")
        assert not report.failed
        asked = set(server.asked)
        (tmp_path / "out" / "generate.json").unlink()
        plan = (tmp_path / "out" / "plan.json").read_bytes()
        generate(server, tmp_path / "in", tmp_path / "again")
        assert set(server.asked) == asked
        assert (tmp_path / "again" / "plan.json").read_bytes() == plan
    (note,) = report.notes
    assert note.startswith("diversify: 600 of 601 samples in 12 clusters of ")
    records = json.loads((tmp_path / "out" / "train.json").read_text("utf-8"))
    taken = {record["provenance"]["key"] for record in records}
    by_key = {sample.key: sample for sample in scenes}
    assert len(taken) == 60
    assert evenness([by_key[key] for key in taken]) > evenness(scenes) + 0.15


def good(name: str) -> dict[str, object]:
    return {
        "positive": f"A red square, {name}.",
        "changed": {"property": "colour", "right": "red", "wrong": "blue"},
        "hard_negative": f"A blue square, {name}.",
        "medium_negative": f"Some squares, {name}, and a dog.",
        "easy_negative": f"The train to {name} leaves.",
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"diversify": 1}, "--diversify 1: must be at least 2"),
        ({"diversify": None}, "--diversify-model: is for --diversify K"),
        ({"diversify_model": "nowhere"}, "no model 'nowhere'"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_read(tmp_path, asked, said):
    write_tar(tmp_path / "in.tar", [("a.png", image())])
    with (
        TeacherServer(lambda ask: good(ask.key)) as server,
        pytest.raises(RequestError, match=re.escape(said)),
    ):
        generate(server, tmp_path / "in.tar", tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_missing_scikit_learn_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    write_tar(tmp_path / "in.tar", [("a.png", image())])
    with (
        TeacherServer(lambda ask: good(ask.key)) as server,
        pytest.raises(RequestError, match=re.escape("pip install 'mmsieve[teachers]'")),
    ):
        generate(server, tmp_path / "in.tar", tmp_path / "out")
