"""train from files: the published layouts, records that can't be used, kills, accumulation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import mmsieve
from mmsieve import RequestError, TrainOptions
from mmsieve.generation.files import CAPTION_HEAD, LeftOut, read_entries
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.unifilter.model import load_classifier
from mmsieve.synthetic.teacher import caption_group, document_group
from mmsieve.training.data import LabelledRecord, parse_labelled
from mmsieve.training.records import split_by_image

pytestmark = pytest.mark.slow

torch.set_num_threads(1)  # sums in another order are other sums
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

RECIPE = """from mmsieve.training.recipe import Recipe, load_recipe
tiny = load_recipe("unifilter-tiny", Recipe, smoke=True)
plain = {{"captioning": 0.0, "wrong_words": 0.0, "tower_rate": 0.0}}
SMOKE = tiny.changed(lesson=None, classifier=plain | {values})
"""


def recipe(folder: Path, **values: Any) -> str:
    """A recipe file: the published objective on a tiny random model."""
    file = folder / "recipe.py"
    file.write_text(RECIPE.format(values=values))
    return str(file)


def released_layout(folder: Path, groups: int = 4) -> Path:
    """Training data as `facts` describes the release: one path or a list, int, float, str."""
    folder.mkdir(exist_ok=True)
    records: list[dict[str, Any]] = []
    for index in range(groups):
        make = document_group if index % 2 else caption_group
        group = make(5, index)
        names = []
        for number, image in enumerate(group.images):
            names.append(f"{index}-{number}.png")
            (folder / names[-1]).write_bytes(image)
        for told in group.texts:
            shown = [names[place] for place in told.images]
            image: Any = shown[0] if told.kind == "caption" else shown
            records.append({"image": image, "text": told.text, "label": int(told.label)})
    records[0]["label"] = float(records[0]["label"])
    records[3]["label"] = "positive"
    records[4]["label"] = "hard negative"
    (folder / "train.json").write_text(json.dumps(records))
    return folder / "train.json"


def options(data: Path, **values: Any) -> TrainOptions:
    return TrainOptions(smoke=True, quiet=True, data=data, **values)


def losses(out: Path) -> list[float]:
    log = json.loads((out / "training.json").read_text("utf-8"))["logs"]["classifier"]
    return [entry["loss"] for entry in log if "loss" in entry]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_classifier(load_unifilter(str(folder)).checkpoint).state_dict()


def test_the_released_layout_trains(tmp_path):
    data = released_layout(tmp_path / "data")
    out = tmp_path / "out"
    report = mmsieve.train_classifier(
        recipe(tmp_path, batch=2, epochs=2), out=out, options=options(data)
    )
    assert "16 records\n" in report.summary()
    assert "0 records held out, by image" in report.summary()
    assert (out / "left_out.jsonl").read_text() == ""
    labels = [record.label for record in read_entries(data, parse_labelled)]
    assert labels[3:5] == [1.0, 0.0]  # a str is a yes or a no, as in the published code
    row = mmsieve.load_model(str(out)).score(
        [caption_group(5, 0).sample(caption_group(5, 0).texts[0])]
    )[0]
    assert row["status"] == "ok"


def test_records_that_cannot_be_used_are_left_out_with_a_reason(tmp_path):
    data = released_layout(tmp_path / "data")
    records = json.loads(data.read_text())
    (data.parent / "broken.png").write_bytes(b"no image")
    text = f"{CAPTION_HEAD}A red circle."
    odd = [
        {"image": "missing.png", "text": text, "label": 1},
        {"image": "../outside.png", "text": text, "label": 1},
        {"image": "broken.png", "text": text, "label": 1},
        {"image": "0-0.png", "text": "no mark", "label": 1},
        {"image": "0-0.png", "text": text, "label": 7},
        {"image": "0-0.png", "text": text},
        "nonsense",
    ]
    data.write_text(json.dumps([*records, *odd]))
    out = tmp_path / "out"
    report = mmsieve.train_classifier(recipe(tmp_path), out=out, options=options(data))
    left = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert [one["index"] for one in left] == list(range(16, 23))
    words = ("image_missing", "leaves", "image_undecodable", "<image>", "label: 7", "label", "")
    for one, word in zip(left, words, strict=True):
        assert word in one["reason"]
    assert "23 records, 7 left out (left_out.jsonl; record 16: image_missing" in report.summary()


def test_a_file_without_a_usable_record_is_refused(tmp_path):
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"image": "x.png", "text": CAPTION_HEAD, "label": 0}]))
    with pytest.raises(RequestError, match=r"no record can be used; record 0: image_missing"):
        mmsieve.train_classifier(recipe(tmp_path), out=tmp_path / "out", options=options(data))
    assert not (tmp_path / "out").exists()


def test_all_files_are_looked_at_before_the_first_stage(tmp_path):
    good, useless = released_layout(tmp_path / "data"), tmp_path / "scores.csv"
    useless.write_text("key,score\na,1\n")
    for given in ({"pretrain": useless}, {"val": useless}):
        wanted = options(good, **given)
        with pytest.raises(RequestError, match=r"scores\.csv: .*JSON"):
            mmsieve.train_classifier(recipe(tmp_path), out=tmp_path / "out", options=wanted)
    assert not (tmp_path / "out").exists()


def test_a_projector_trains_on_llava_captions(tmp_path):
    folder = tmp_path / "pretrain"
    folder.mkdir()
    records = []
    for index in range(6):
        group = caption_group(6, index)
        (folder / f"{index}.png").write_bytes(group.images[0])
        caption = group.texts[-1].text.removeprefix(CAPTION_HEAD)
        turns = [
            {"from": "human", "value": "Describe it.\n<image>"},
            {"from": "gpt", "value": caption},
        ]
        records.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    records.append({"id": "6", "image": "0.png", "conversations": []})
    (folder / "chat.json").write_text(json.dumps(records))
    out = tmp_path / "out"
    report = mmsieve.train_projector(
        recipe(tmp_path), out=out, options=options(folder / "chat.json", images=folder)
    )
    assert "record 6: conversations" in report.summary()
    found = list(read_entries(folder / "chat.json", parse_labelled))
    assert isinstance(found[6], LeftOut)
    assert isinstance(found[0], LabelledRecord)
    assert found[0].label == 3
    assert found[0].text == caption_group(6, 0).texts[-1].text


@pytest.mark.long
def test_accumulated_small_steps_learn_as_one_large_step_does(tmp_path):
    """The texts of one image at a time, or all: the same updates."""
    data = released_layout(tmp_path / "data")
    records = json.loads(data.read_text())
    groups = [records[:4], records[8:12]]  # each image has as many texts
    data.write_text(json.dumps([record for group in groups for record in group]))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, batch in ((whole, 2), (parts, 1)):
        file = recipe(tmp_path, batch=batch, total_batch=2, epochs=3, save_steps=1)
        mmsieve.train_classifier(file, out=out, options=options(data))
    assert losses(whole) == pytest.approx(losses(parts), abs=1e-5)
    after = tensors(parts)
    for name, tensor in tensors(whole).items():
        assert torch.allclose(tensor, after[name], atol=2e-3), name


def test_a_total_that_cannot_be_met_is_refused(tmp_path):
    data = released_layout(tmp_path / "data")
    with pytest.raises(RequestError, match="total_batch 3 is no multiple of batch 2 x 1 processes"):
        mmsieve.train_classifier(
            recipe(tmp_path, batch=2, total_batch=3), out=tmp_path / "out", options=options(data)
        )


def test_held_out_records_are_looked_at_after_every_epoch(tmp_path):
    data = released_layout(tmp_path / "data")
    out = tmp_path / "out"
    file = recipe(tmp_path, batch=2, epochs=3)
    mmsieve.train_classifier(file, out=out, options=options(data, val=data))
    log = json.loads((out / "training.json").read_text("utf-8"))["logs"]["classifier"]
    assert [entry["step"] for entry in log if "eval_accuracy" in entry] == [2, 4, 6]


def test_held_out_images_are_in_no_training_text():
    names = [("a",), ("b", "c"), ("c", "d"), ("e",), ("a", "e"), *((f"n{n}",) for n in range(195))]
    for seed in range(20):
        apart = split_by_image(names, seed)
        assert 2 <= len(apart) <= 4
        sides = [
            {n for place, shown in enumerate(names) if (place in apart) == s for n in shown}
            for s in (0, 1)
        ]
        assert not sides[0] & sides[1]


@pytest.mark.long
def test_killed_and_run_again_the_losses_are_those_of_an_undisturbed_training(tmp_path):
    data = released_layout(tmp_path / "data", groups=8)
    file = recipe(tmp_path, batch=1, epochs=12, save_steps=4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    mmsieve.train_classifier(file, out=whole, options=options(data))
    words = [file, "--out", str(killed), "--data", str(data), "--smoke", "--quiet"]
    command = [sys.executable, "-m", "mmsieve", "train", "classifier", *words]
    process = subprocess.Popen(command, start_new_session=True, env=ONE_THREAD)
    states = killed / "stages" / "classifier-states"
    deadline = time.monotonic() + 120
    while not list(states.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "config.json").exists()
    mmsieve.train_classifier(file, out=killed, options=options(data))
    assert losses(killed) == pytest.approx(losses(whole), abs=1e-6)
    after = tensors(killed)
    assert all(torch.equal(tensor, after[name]) for name, tensor in tensors(whole).items())


@pytest.mark.long
def test_two_processes_learn_as_one_that_accumulates(tmp_path):
    """DDP on two CPU processes: the updates are those of twice the steps in one process."""
    data = released_layout(tmp_path / "data", groups=7)
    records = json.loads(data.read_text())
    data.write_text(json.dumps([r for r in records if isinstance(r["image"], str)]))
    file = recipe(tmp_path, batch=1, total_batch=2, epochs=4, save_steps=2)
    alone, both = tmp_path / "alone", tmp_path / "both"
    mmsieve.train_classifier(file, out=alone, options=options(data))
    words = [file, "--out", str(both), "--data", str(data), "--smoke", "--quiet"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*launch, "-m", "mmsieve", "train", "classifier", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=ONE_THREAD,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained in") == 1  # only the first process speaks
    after = tensors(both)
    for name, tensor in tensors(alone).items():
        assert torch.allclose(tensor, after[name], atol=2e-3), name
    assert losses(alone) == pytest.approx(losses(both), abs=1e-4)
