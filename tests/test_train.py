"""train classifier: the recipe's smoke run, resume, and inputs that are those of scoring."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmsieve
from mmsieve import RequestError
from mmsieve.cli import main
from mmsieve.generate.rendered import caption_group, document_group
from mmsieve.methods.load import load_annotator
from mmsieve.models.storage import load_classifier
from mmsieve.train import stages
from mmsieve.train.cells import CLASSES, RenderedCells, collate_cells
from mmsieve.train.data import RIGHT, WRONG, RenderedGroups, collate, prepare_group
from mmsieve.train.objectives import QualityObjective
from mmsieve.train.recipe import load_recipe
from mmsieve.train.start import write_start


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The checkpoint of the bundled recipe's smoke run."""
    out = tmp_path_factory.mktemp("trained") / "out"
    mmsieve.train_classifier("unifilter-tiny", out=out, smoke=True, quiet=True)
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_classifier(load_annotator(str(folder)).checkpoint).state_dict()


def test_a_smoke_run_gives_a_checkpoint_that_scores(trained):
    model = mmsieve.load_model(str(trained))
    image = caption_group(1, 1).images[0]
    row = model.score([mmsieve.Sample.caption(image, "A red circle.")])[0]
    assert row["status"] == "ok"
    config = json.loads((trained / "config.json").read_text("utf-8"))
    assert config["model_type"] == "llava_qwen3"
    assert config["torch_dtype"] == "float16"
    names = {path.name for path in trained.iterdir()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names == wanted | {"training.json"}


def test_training_changes_every_part_of_the_model(trained, tmp_path):
    recipe = load_recipe("unifilter-tiny", smoke=True)
    write_start(tmp_path, recipe.architecture, recipe.seed)
    before, after = tensors(tmp_path), tensors(trained)
    assert before.keys() == after.keys()
    unused = ("post_layernorm", "rotary")
    for name, tensor in after.items():
        same = torch.allclose(before[name].half().float(), tensor.float())
        assert not same or any(part in name for part in unused), name


def test_the_log_of_each_stage_is_kept(trained):
    logs = json.loads((trained / "training.json").read_text("utf-8"))["logs"]
    assert {"level", "captioning", "wrong_words", "loss"} <= logs["joint"][0].keys()
    assert logs["tower"][-1]["step"] == 4


def test_the_same_command_again_does_nothing_and_another_is_refused(trained):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    again = mmsieve.train_classifier("unifilter-tiny", out=trained, smoke=True, quiet=True)
    assert "done before" in again.summary()
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RequestError, match="another recipe"):
        mmsieve.train_classifier("unifilter-tiny", out=trained, smoke=True, seed=5)


def test_an_interrupted_training_ends_up_where_an_undisturbed_one_does(
    trained, tmp_path, monkeypatch
):
    """Stopped in the middle of the last stage, with its state of some steps before on disk."""
    recipe = (Path(stages.__file__).parent / "recipes" / "unifilter-tiny.toml").read_text("utf-8")
    file = tmp_path / "often.toml"
    file.write_text(recipe.replace("[smoke.joint]", "[smoke.joint]\nsave_steps = 2"))
    out, stopped = tmp_path / "out", tmp_path / "stopped"
    mmsieve.train_classifier(str(file), out=out, smoke=True, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(stages._Steps, "on_step_end", _stop_after(5))
        with pytest.raises(KeyboardInterrupt):
            mmsieve.train_classifier(str(file), out=stopped, smoke=True, quiet=True)
    assert not (stopped / "config.json").exists()
    report = mmsieve.train_classifier(str(file), out=stopped, smoke=True, quiet=True)
    assert "stage tower was done before" in report.summary()
    whole, resumed = tensors(out), tensors(stopped)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def _stop_after(steps: int):
    def stop(self, args, state, control, **kwargs):
        if state.max_steps == 6 and state.global_step == steps:  # the joint stage
            raise KeyboardInterrupt

    return stop


def test_a_seed_gives_the_same_weights_to_the_bit(trained, tmp_path):
    mmsieve.train_classifier("unifilter-tiny", out=tmp_path / "out", smoke=True, quiet=True)
    again = tensors(tmp_path / "out")
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors(trained).items())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([caption_group, document_group]))
def test_training_inputs_give_the_scores_of_scoring(bundled, index, make):
    """One pass over a batch of training data, levels sharing images, as if each was scored."""
    annotator, objective, model = bundled
    group = make(11, index)
    prepared = prepare_group(annotator.preparer(), group)
    assert len(prepared.pixels) == len(group.images)
    with torch.inference_mode():
        logits = objective(**collate([[prepared]], annotator.checkpoint.image_tokens))["logits"]
    rows = model.score([group.sample(told) for told in group.texts])
    scores = torch.tensor([row["quality_score"] for row in rows])
    assert torch.allclose(logits, scores, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([caption_group, document_group]))
def test_targets_stand_at_the_words_they_judge(bundled, index, make):
    annotator, _, _ = bundled
    preparer = annotator.preparer()
    group = make(12, index)
    for told, row in zip(group.texts, prepare_group(preparer, group).rows, strict=True):
        tokenizer = preparer.tokenizer.build()
        for value, spans in ((RIGHT, told.right), (WRONG, told.wrong)):
            words = [told.text[start:end] for start, end in spans]
            ids = row.ids[row.facts == value].tolist()
            assert len(ids) == len(words)
            for word, token in zip(words, ids, strict=True):
                assert word.endswith(tokenizer.decode([token]).strip())


@pytest.fixture(scope="module")
def bundled():
    """The bundled model as an annotator, as an objective, and ready to score."""
    annotator = load_annotator("unifilter-tiny")
    model = load_classifier(annotator.checkpoint)
    objective = QualityObjective(model, annotator.checkpoint.image, 1.0, 1.0).eval()
    return annotator, objective, mmsieve.load_model("unifilter-tiny")


def test_steps_can_be_made_again_alone(bundled):
    annotator, _, _ = bundled
    recipe = load_recipe("unifilter-tiny", smoke=True)
    groups = RenderedGroups(annotator.preparer(), recipe.joint, 3)
    once, twice = (collate([groups[2]], 9) for _ in range(2))
    other = collate([groups[1]], 9)
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())
    assert not torch.equal(once["pixels"], other["pixels"][: len(once["pixels"])])


def test_cells_tell_what_is_drawn():
    recipe = load_recipe("unifilter-tiny", smoke=True)
    batch = collate_cells([RenderedCells(recipe.tower, 1, 72)[0]])
    assert batch["labels"].shape == (recipe.tower.batch, 9, len(CLASSES))
    for column, count in enumerate(CLASSES):
        assert 0 <= batch["labels"][..., column].min() <= batch["labels"][..., column].max() < count
    empty = batch["labels"][..., 1] == 0
    patches = batch["pixels"].unfold(1, 24, 24).unfold(2, 24, 24).flatten(1, 2).float()
    spread = patches.flatten(2).std(-1)
    assert spread[empty].max() < spread[~empty].min()


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("unknown", "one of unifilter-tiny"),
        ("name = 'x'", "tower"),
        ("name = 'x'\n[tower]\ngroups = 0\nbatch = 1\nlearning_rate = 1", "groups"),
        ("nonsense", "recipe.toml"),
        ("name = 'x'\n[tower]\ngroups = 1\nbatch = 1\nlearning_rate = 1\nspeed = 1", "speed"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(tmp_path, capsys, recipe, says):
    name = recipe
    if recipe != "unknown":
        name = str(tmp_path / "recipe.toml")
        Path(name).write_text(recipe)
    with pytest.raises(SystemExit) as exit_:
        main(["train", "classifier", name, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


def test_a_recipe_may_change_another_one():
    blank, whole = load_recipe("unifilter-tiny-blank"), load_recipe("unifilter-tiny")
    assert blank.joint.blank_images
    changed = {"joint": {"blank_images": False}, "name": "unifilter-tiny"}
    joint = blank.joint.model_copy(update=changed["joint"])
    assert blank.model_copy(update=changed | {"joint": joint}) == whole


def test_a_folder_of_something_else_is_left_alone(trained, tmp_path):
    shutil.copy(trained / "config.json", tmp_path / "config.json")
    for overwrite in (False, True):
        with pytest.raises(RequestError, match="not made by train"):
            mmsieve.train_classifier("unifilter-tiny", out=tmp_path, overwrite=overwrite)


def test_a_dry_run_says_what_would_be_trained(tmp_path):
    report = mmsieve.train_classifier("unifilter-tiny", out=tmp_path / "out", dry_run=True)
    assert "would train" in report.summary()
    assert not (tmp_path / "out").exists()
