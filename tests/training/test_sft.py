"""train rater, train enhancer: smoke runs, files, resume; inputs and losses are those of asking."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mmsieve
from mmsieve import GenerateOptions, RequestError, Sample, TrainOptions
from mmsieve.cli import main
from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.methods.aitqe.answers import KEYS
from mmsieve.synthetic.instructions import instruction
from mmsieve.synthetic.teacher import Drawing
from mmsieve.synthetic.training import draw_examples
from mmsieve.training import trainer
from mmsieve.training.data import SftExample, collate_examples
from mmsieve.training.objectives import SftObjective
from mmsieve.training.recipe import EnhancerRecipe, RaterRecipe, load_recipe
from mmsieve.training.training import EnhancerTraining, RaterTraining, TrainableModel

pytestmark = pytest.mark.slow

SMOKE = TrainOptions(smoke=True, quiet=True)
DRAWING = Drawing()


def rater_recipe(folder: Path, **changes: str) -> str:
    """A recipe file; the values are Python."""
    changed = ", ".join(f"{name}={value}" for name, value in changes.items())
    file = folder / "recipe.py"
    file.write_text(
        "from mmsieve.training.recipe import RaterRecipe, load_recipe\n"
        "tiny = load_recipe('mmssr-tiny-scorer', RaterRecipe, smoke=True)\n"
        f"SMOKE = tiny.changed({changed})\n"
    )
    return str(file)


@pytest.fixture(scope="module")
def rater(tmp_path_factory) -> Path:
    """A smoke run of one model for ratings and styles."""
    folder = tmp_path_factory.mktemp("rater")
    recipe = rater_recipe(folder, answers="('ratings', 'styles')")
    mmsieve.train_rater(recipe, out=folder / "out", options=SMOKE)
    return folder / "out"


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("enhancer") / "out"
    mmsieve.train_enhancer("aitqe-tiny", out=out, options=SMOKE)
    return out


@pytest.fixture(scope="module")
def rated(tmp_path_factory) -> Path:
    """Rated samples as `generate` writes them."""
    out = tmp_path_factory.mktemp("rated") / "data"
    mmsieve.generate_ratings(out=out, options=GenerateOptions(teacher="rendered", count=6))
    return out


@pytest.fixture(scope="module")
def assessed(tmp_path_factory) -> Path:
    """Assessed captions as `generate` writes them."""
    out = tmp_path_factory.mktemp("assessed") / "data"
    mmsieve.generate_assessments(out=out, options=GenerateOptions(teacher="rendered", count=6))
    return out


def opened(folder: Path, recipe: str = "mmssr-tiny-scorer") -> TrainableModel:
    training = RaterTraining(
        recipe=load_recipe(recipe, RaterRecipe, smoke=True), out=folder, config={}
    )
    return training.open(folder)


def objective(found: TrainableModel) -> SftObjective:
    return SftObjective(found.model, found.encode, found.image).eval()


def test_a_smoke_run_gives_a_rater_of_ratings_and_styles(rater):
    model = mmsieve.load_rater(str(rater))
    row = model.rate([instruction(3, 1).sample(DRAWING.draw)])[0]
    assert row["status"] in ("ok", "model_output_invalid")
    assert {*CAPABILITIES, "styles"} <= row.keys()
    own = json.loads((rater / "config.json").read_text())["mmsieve"]
    assert own["clean_format"] and own["styles"] and own["capabilities"] == CAPABILITIES
    names = {path.name for path in rater.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "training.json"} <= names


@pytest.mark.long
def test_a_styler_names_styles_alone(tmp_path):
    mmsieve.train_rater("mmssr-tiny-styler", out=tmp_path / "out", options=SMOKE)
    with pytest.raises(RequestError, match="styles only"):
        mmsieve.load_rater(str(tmp_path / "out"))


def test_a_row_with_branches_learns_what_separate_rows_do(rater):
    found = opened(rater)
    drawn = instruction(3, 2)
    (example,) = found.inputs.examples(drawn.sample(DRAWING.draw), drawn.ratings, drawn.styles)
    assert len(example.branches) == len(CAPABILITIES)
    alone = [SftExample(example.pixels, example.prefix, (one,)) for one in example.branches]
    tuned = objective(found)
    with torch.inference_mode():
        together = tuned(**collate_examples([[example]]))["loss"]
        apart = tuned(**collate_examples([alone]))["loss"]
    assert torch.allclose(together, apart, atol=1e-5)


def test_training_asks_what_rating_asks(rater):
    """The digits' probabilities of a training row are those that rating reads."""
    found = opened(rater)
    drawn = instruction(3, 5)
    (example,) = found.inputs.examples(drawn.sample(DRAWING.draw), drawn.ratings, drawn.styles)
    batch = collate_examples([[example]])
    writer = found.inputs.preparer.writers[0]
    digits = [writer.answer(str(digit))[0] for digit in range(6)]
    tuned = objective(found)
    with torch.inference_mode():
        hidden = tuned.hidden_states({k: v for k, v in batch.items() if k != "labels"})
        asked = torch.isin(batch["labels"][:, 1:], torch.tensor(digits))
        logits = found.model.lm_head(hidden[:, :-1][asked])[:, digits]
    means = logits.softmax(-1) @ torch.arange(6.0)
    model = mmsieve.load_rater(str(rater), expected=True)
    row = model.rate([drawn.sample(DRAWING.draw)])[0]
    if row["status"] == "ok":
        told = [row[f"{name}_expected"] for name in CAPABILITIES]
        assert torch.allclose(means, torch.tensor(told), atol=1e-4)
    assert all(0 <= mean <= 5 for mean in means.tolist())


def test_records_of_a_file_and_what_is_left_out_of_it(rater, rated, tmp_path):
    records = json.loads((rated / "train.json").read_text())
    records.append({**records[0], "ratings": {"spatial": 9}})
    records.append({**records[0], "image": "gone.png"})
    records.append({**records[0], "ratings": {"juggling": 3}})
    (rated / "more.json").write_text(json.dumps(records))
    options = TrainOptions(smoke=True, quiet=True, data=rated / "more.json")
    report = mmsieve.train_rater(
        "mmssr-tiny-scorer", out=tmp_path / "out", start_from=str(rater), options=options
    )
    assert "9 records, 3 left out" in report.summary()
    lines = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    reasons = {one["index"]: one["reason"] for one in map(json.loads, lines)}
    assert "not rated from 0 to 5" in reasons[6]
    assert "image_missing" in reasons[7]
    assert "juggling" in reasons[8]


def test_a_capability_is_added_to_a_rater(rater, rated, tmp_path):
    records = json.loads((rated / "train.json").read_text())
    for record in records:
        record["ratings"] = {"juggling": 4}
    (rated / "juggling.json").write_text(json.dumps(records))
    recipe = rater_recipe(tmp_path, capabilities="{'juggling': 'juggling of several balls'}")
    options = TrainOptions(smoke=True, quiet=True, data=rated / "juggling.json")
    mmsieve.train_rater(recipe, out=tmp_path / "out", start_from=str(rater), options=options)
    row = mmsieve.load_rater(str(tmp_path / "out")).rate([instruction(3, 1).sample(DRAWING.draw)])[
        0
    ]
    assert "juggling" in row and "ocr" in row


def test_an_interrupted_training_ends_up_where_an_undisturbed_one_does(
    rater, tmp_path, monkeypatch
):
    recipe = rater_recipe(tmp_path, rater="{'save_steps': 2}")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    mmsieve.train_rater(recipe, out=whole, start_from=str(rater), options=SMOKE)
    with monkeypatch.context() as patch:

        def stop(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

        patch.setattr(trainer._ProgressCallback, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            mmsieve.train_rater(recipe, out=stopped, start_from=str(rater), options=SMOKE)
    mmsieve.train_rater(recipe, out=stopped, start_from=str(rater), options=SMOKE)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, stopped))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_adapters_change_the_language_model_and_are_gone(rater, rated, tmp_path):
    recipe = rater_recipe(tmp_path, rater="{'lora': {'rank': 2}, 'learning_rate': 1e-2}")
    options = TrainOptions(smoke=True, quiet=True, data=rated / "train.json")
    out = tmp_path / "out"
    mmsieve.train_rater(recipe, out=out, start_from=str(rater), options=options)
    before, after = (load_file(folder / "model.safetensors") for folder in (rater, out))
    assert before.keys() == after.keys()
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"]
    )
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_a_smoke_run_gives_an_enhancer_whose_answers_can_be_read(enhancer):
    model = mmsieve.load_enhancer(str(enhancer), explain=True)
    row = model.enhance([Sample.caption(DRAWING.draw(instruction(1, 1).scenes[0]), "A star.")])[0]
    assert row["status"] == "ok"
    assert 1 <= row["overall_score"] <= 10
    assert json.loads((enhancer / "config.json").read_text())["model_type"] == "mm"


def test_an_enhancer_learns_from_the_records_of_generate(enhancer, assessed, tmp_path):
    options = TrainOptions(smoke=True, quiet=True, data=assessed / "train.json")
    report = mmsieve.train_enhancer(
        "aitqe-tiny", out=tmp_path / "out", start_from=str(enhancer), options=options
    )
    assert "6 records" in report.summary()


@pytest.mark.parametrize(("negatives", "rewriting"), [(False, True), (True, False)])
def test_ablations_leave_out_negatives_or_rewriting(enhancer, tmp_path, negatives, rewriting):
    recipe = load_recipe("aitqe-tiny", EnhancerRecipe, smoke=True)
    changed = recipe.changed(negatives=negatives, rewriting=rewriting)
    found = EnhancerTraining(recipe=changed, out=tmp_path, config={}).open(enhancer)
    drawn = [draw_examples(found.inputs, 1, i, Drawing(encoding="BMP"))[0] for i in range(8)]
    assert {len(example.branches) for example in drawn} == {2 if negatives else 1}
    backend = found.inputs.preparer.tokenizer.build(plain=True)
    texts = [
        backend.decode(branch.ids[-branch.completion : -1].tolist(), skip_special_tokens=False)
        for example in drawn
        for branch in example.branches
    ]
    answers = [json.loads(text) for text in texts]
    assert all(tuple(answer) == KEYS for answer in answers)
    assert any(answer["Recaption"] for answer in answers) == rewriting


def test_a_recipe_of_another_kind_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "rater", "aitqe-tiny", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "is a recipe of `train enhancer`, not of `train rater`" in capsys.readouterr().err


def test_a_recipe_without_drawn_data_asks_for_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "enhancer", "aitqe-qwen2-7b", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_styles_are_learnt_in_the_published_words(rater):
    recipe = load_recipe("mmssr-tiny-styler", RaterRecipe, smoke=True)
    found = RaterTraining(recipe=recipe, out=rater, config={}).open(rater)
    drawn = instruction(3, 4)
    (example,) = found.inputs.examples(drawn.sample(DRAWING.draw), drawn.ratings, drawn.styles)
    (branch,) = example.branches
    backend = found.inputs.preparer.writers[0].tokenizer.build(plain=True)
    said = backend.decode(branch.ids[-branch.completion : -1].tolist())
    assert said == ", ".join(drawn.styles) and set(drawn.styles) <= set(STYLES)
