"""train: the recipes' smoke runs, resume, and inputs that are those of scoring."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmsieve
from mmsieve import RequestError, TrainOptions
from mmsieve.cli import main
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.unifilter.model import load_classifier
from mmsieve.synthetic.teacher import caption_group, document_group
from mmsieve.synthetic.training import CLASSES, HeldOutTexts, RenderedCells, RenderedGroups
from mmsieve.training import options, trainer
from mmsieve.training.data import RIGHT, WRONG, collate_groups, prepare_group
from mmsieve.training.initial import write_initial
from mmsieve.training.objectives import QualityObjective
from mmsieve.training.recipe import BaseRecipe, Recipe, Rendered, bundled_recipes, load_recipe

pytestmark = pytest.mark.slow

SMOKE = TrainOptions(smoke=True, quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The checkpoint of the bundled recipe's smoke run."""
    out = tmp_path_factory.mktemp("trained") / "out"
    mmsieve.train_classifier("unifilter-tiny", out=out, options=SMOKE)
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_classifier(load_unifilter(str(folder)).checkpoint).state_dict()


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
    recipe = load_recipe("unifilter-tiny", Recipe, smoke=True)
    write_initial(tmp_path, recipe)
    before, after = tensors(tmp_path), tensors(trained)
    assert before.keys() == after.keys()
    unused = ("post_layernorm", "rotary")
    for name, tensor in after.items():
        same = torch.allclose(before[name].half().float(), tensor.float())
        assert not same or any(part in name for part in unused), name


def test_the_log_of_each_stage_is_kept(trained):
    logs = json.loads((trained / "training.json").read_text("utf-8"))["logs"]
    assert {"level", "captioning", "wrong_words", "loss"} <= logs["classifier"][0].keys()
    assert logs["lesson"][-1]["step"] == 4


def test_the_same_command_again_does_nothing_and_another_is_refused(trained):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    again = mmsieve.train_classifier("unifilter-tiny", out=trained, options=SMOKE)
    assert "done before" in again.summary()
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RequestError, match="another recipe"):
        mmsieve.train_classifier(
            "unifilter-tiny", out=trained, options=TrainOptions(smoke=True, seed=5)
        )


def test_an_interrupted_training_ends_up_where_an_undisturbed_one_does(
    trained, tmp_path, monkeypatch
):
    """Stopped in the middle of the last stage, with its state of some steps before on disk."""
    file = tmp_path / "often.py"
    file.write_text(
        "from mmsieve.training.recipe import Recipe, load_recipe\n"
        "SMOKE = load_recipe('unifilter-tiny', Recipe, smoke=True).changed(\n"
        "    classifier={'save_steps': 2})\n"
    )
    out, stopped = tmp_path / "out", tmp_path / "stopped"
    mmsieve.train_classifier(str(file), out=out, options=SMOKE)
    with monkeypatch.context() as patch:
        patch.setattr(trainer._ProgressCallback, "on_step_end", _stop_after(5))
        with pytest.raises(KeyboardInterrupt):
            mmsieve.train_classifier(str(file), out=stopped, options=SMOKE)
    assert not (stopped / "config.json").exists()
    report = mmsieve.train_classifier(str(file), out=stopped, options=SMOKE)
    assert "stage lesson was done before" in report.summary()
    whole, resumed = tensors(out), tensors(stopped)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def _stop_after(steps: int):
    def stop(self, args, state, control, **kwargs):
        if state.max_steps == 6 and state.global_step == steps:  # the classifier stage
            raise KeyboardInterrupt

    return stop


@pytest.mark.long
def test_a_seed_gives_the_same_weights_to_the_bit(trained, tmp_path):
    mmsieve.train_classifier("unifilter-tiny", out=tmp_path / "out", options=SMOKE)
    again = tensors(tmp_path / "out")
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors(trained).items())


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([caption_group, document_group]))
def test_training_inputs_give_the_scores_of_scoring(bundled, index, make):
    """One pass over a batch of training data, levels sharing images, as if each was scored."""
    annotator, objective, model = bundled
    group = make(11, index)
    prepared = prepare_group(annotator.preparer(), group)
    assert len(prepared.pixels) == len(group.images)
    with torch.inference_mode():
        logits = objective(**collate_groups([[prepared]], annotator.checkpoint.image_tokens))[
            "logits"
        ]
    rows = model.score([group.sample(told) for told in group.texts])
    scores = torch.tensor([row["quality_score"] for row in rows])
    assert torch.allclose(logits, scores, atol=1e-4)


@settings(max_examples=20)
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
    annotator = load_unifilter("unifilter-tiny")
    model = load_classifier(annotator.checkpoint)
    objective = QualityObjective(
        model, annotator.checkpoint.image, load_recipe("unifilter-tiny", Recipe).classifier
    ).eval()
    return annotator, objective, mmsieve.load_model("unifilter-tiny")


def test_steps_can_be_made_again_alone(bundled):
    annotator, _, _ = bundled
    recipe = load_recipe("unifilter-tiny", Recipe, smoke=True)
    groups = RenderedGroups(recipe.classifier.rendered, 4, 3, annotator.preparer())
    once, twice = (collate_groups([groups[2]], 9) for _ in range(2))
    other = collate_groups([groups[1]], 9)
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())
    assert not torch.equal(once["pixels"], other["pixels"][: len(once["pixels"])])


def test_cells_tell_what_is_drawn():
    recipe = load_recipe("unifilter-tiny", Recipe, smoke=True)
    cells = RenderedCells(recipe.lesson.rendered, 8, 1, 72)
    batch = cells.collate([cells[0]])
    assert batch["labels"].shape == (8, 9, len(CLASSES))
    for column, count in enumerate(CLASSES):
        assert 0 <= batch["labels"][..., column].min() <= batch["labels"][..., column].max() < count
    empty = batch["labels"][..., 1] == 0
    patches = batch["pixels"].unfold(1, 24, 24).unfold(2, 24, 24).flatten(1, 2).float()
    spread = patches.flatten(2).std(-1)
    assert spread[empty].max() < spread[~empty].min()


RECIPE = """from mmsieve.training.recipe import *
RECIPE = Recipe(name="x", start=Architecture({start}), classifier=ClassifierStage({stage}))
"""


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("unknown", "unifilter-qwen2.5-0.5b"),
        ("1 +", "SyntaxError"),
        ("x = 1", "it sets no RECIPE"),
        (RECIPE.format(start="", stage="batch=1, learning_rate=0"), "learning_rate"),
        (RECIPE.format(start="speed=1", stage="batch=1, learning_rate=1"), "speed"),
        (RECIPE.format(start="", stage="batch=1, learning_rate=1"), "needs --data"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(tmp_path, capsys, recipe, says):
    name = recipe
    if recipe != "unknown":
        name = str(tmp_path / "recipe.py")
        Path(name).write_text(recipe)
    assert says in refusal(capsys, ["classifier", name, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def refusal(capsys, words: list[str]) -> str:
    """The one line that a wrong request ends with."""
    with pytest.raises(SystemExit) as exit_:
        main(["train", *words])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--images", "x"], "--images goes with --data"),
        (["--data", "missing.json"], "no such file"),
        (["--language-model", "x"], "starts from no language model"),
        (["--start-from", "missing"], "no model 'missing'"),
        (["--wandb"], "wandb: pip install wandb"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "wandb" else object())
    out = ["--out", str(tmp_path / "out")]
    assert says in refusal(capsys, ["classifier", "unifilter-tiny", *out, *words])


def test_every_bundled_recipe_says_what_it_needs():
    for name, bundled in bundled_recipes().items():
        assert load_recipe(name, BaseRecipe) == bundled.recipe
        assert load_recipe(name, BaseRecipe, smoke=True) == bundled.smoke
        assert bundled.recipe.name == bundled.smoke.name == name
        assert bundled.about.startswith(f"{name}: ")
        for part in ("Command:", "Hardware:", "Time:", "Expected:"):
            assert part in bundled.about, name


def test_a_recipe_file_of_an_earlier_version_is_refused_in_one_line(tmp_path, capsys) -> None:
    """Its modules were `mmsieve.train.recipe` and `mmsieve.train.recipes`."""
    file = tmp_path / "mine.py"
    file.write_text("from mmsieve.train.recipe import Recipe\n")
    with pytest.raises(SystemExit) as done:
        main(["train", "classifier", str(file), "--out", str(tmp_path / "out")])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "mine.py" in line
    assert "mmsieve.training" in line


def test_the_control_is_the_same_training_of_blank_images():
    blank, whole = (
        load_recipe("unifilter-tiny-blank", Recipe),
        load_recipe("unifilter-tiny", Recipe),
    )
    assert blank.classifier.rendered.blank_images
    seen = whole.classifier.rendered.model_copy(update={"blank_images": True})
    assert whole.changed(name=blank.name, classifier={"rendered": seen}) == blank


@pytest.mark.long
def test_two_stages_give_a_classifier(tmp_path):
    """The projector's stage touches the projector alone; the classifier goes on from it."""
    first = tmp_path / "projector"
    mmsieve.train_projector("unifilter-tiny", out=first, options=SMOKE)
    logs = json.loads((first / "training.json").read_text("utf-8"))["logs"]
    assert logs.keys() == {"lesson", "projector"}
    recipe = load_recipe("unifilter-tiny", Recipe, smoke=True)
    write_initial(tmp_path / "start", recipe)
    before, after = tensors(tmp_path / "start"), tensors(first)
    for name, tensor in after.items():
        same = torch.allclose(before[name].half().float(), tensor.float())
        assert same != ("mm_projector" in name) or "vision_tower" in name, name
    report = mmsieve.train_classifier(
        "unifilter-tiny", out=tmp_path / "out", start_from=first, options=SMOKE
    )
    assert report.out == tmp_path / "out"
    claim = json.loads((tmp_path / "out" / "training.json").read_text("utf-8"))
    assert claim["logs"].keys() == {"classifier"}
    assert len(claim["start_from"]) == 16
    after = tensors(tmp_path / "out")
    assert not torch.allclose(before["score.weight"].float(), after["score.weight"].float())


@pytest.mark.long
def test_cross_entropy_gives_expected_levels(tmp_path):
    file = tmp_path / "levels.py"
    file.write_text(
        "from mmsieve.training.recipe import Recipe, Rendered, load_recipe\n"
        "SMOKE = load_recipe('unifilter-tiny', Recipe, smoke=True).changed(\n"
        "    start={'labels': 4, 'image_fit': 'pad', 'patch_size': 12, 'image_tokens': 9},\n"
        "    classifier={'rendered': Rendered(groups=24, aspect=1.5, held_out=2)},\n"
        ")\n"
    )
    out = tmp_path / "out"
    mmsieve.train_classifier(str(file), out=out, options=SMOKE)
    log = json.loads((out / "training.json").read_text("utf-8"))["logs"]["classifier"]
    (looked,) = [entry for entry in log if "eval_accuracy" in entry]
    preparer = load_unifilter(str(out)).preparer()
    assert preparer.fit == "pad"
    assert preparer.image_tokens == 9
    unseen = HeldOutTexts(preparer, Rendered(groups=24, aspect=1.5, held_out=2), seed=1)
    model = mmsieve.load_model(str(out))
    rows = model.score([group.sample(told) for group in unseen.texts for told in group.texts])
    levels = [told.label for group in unseen.texts for told in group.texts]
    right = sum(row["quality_level"] == level for row, level in zip(rows, levels, strict=True))
    assert abs(right / len(rows) - looked["eval_accuracy"]) < 0.13  # float16 weights may tip one
    assert all(0 <= row["quality_score"] <= 3 for row in rows)


def test_a_folder_of_something_else_is_left_alone(trained, tmp_path):
    shutil.copy(trained / "config.json", tmp_path / "config.json")
    for overwrite in (False, True):
        with pytest.raises(RequestError, match="not made by train"):
            options = TrainOptions(overwrite=overwrite)
            mmsieve.train_classifier("unifilter-tiny", out=tmp_path, options=options)


def test_a_dry_run_says_what_would_be_trained(tmp_path):
    options = TrainOptions(dry_run=True)
    report = mmsieve.train_classifier("unifilter-tiny", out=tmp_path / "out", options=options)
    assert "would train" in report.summary()
    assert not (tmp_path / "out").exists()
