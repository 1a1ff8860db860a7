"""Every training command of README.md and docs/training.md runs as it stands, on tiny stand-ins.

Files and folders have the names that the commands give them. Replaced are the recipes of full size,
whose language models, towers and starts are tiny here, and the launcher; `--smoke` is added.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import PIL.Image
import pytest
import torch

import mmsieve
from mmsieve import GenerateOptions
from mmsieve.cli import main
from mmsieve.generation.files import CAPTION_HEAD
from tests.helpers.tiny import Recipe, make_tower, picture
from tests.training.test_pretrained import language_model

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/training.md")

RECIPES = {
    "unifilter-qwen3-0.6b": "start={'image_tokens': 4}",
    "aitqe-qwen2-7b-lora": "",
    "mmssr-qwen2-7b-lora": "start='mmssr-tiny-scorer'",
    "mmssr-qwen2-7b-scorer": "start='mmssr-tiny-scorer'",
}
"""Recipe of a command -> what is tiny of it in these tests."""
MODELS = {"mengyaolyu/mmssr-7b-scorer": "mmssr-tiny-scorer"}
KINDS = {"unifilter": "Recipe", "aitqe": "EnhancerRecipe", "mmssr": "RaterRecipe"}
FAMILIES = {"unifilter": "qwen3", "aitqe": "qwen2"}


def commands(page: str) -> list[str]:
    """The training commands in a page's blocks of sh, each on one line."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if "mmsieve train " in line]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with every file that the commands name."""
    folder = tmp_path_factory.mktemp("place")
    texts, captions = [], []
    for index in range(2):
        PIL.Image.fromarray(picture(index, 40, 40)).save(folder / f"{index}.png")
        for level in (0, 3):
            text = f"{CAPTION_HEAD}A dog of level {level}."
            texts.append({"image": f"{index}.png", "text": text, "label": level})
        turns = [{"from": "gpt", "value": "A dog on grass."}]
        captions.append({"image": f"{index}.png", "conversations": turns})
    for name in ("data", "captions", "documents", "images", "pretrain"):
        (folder / name).mkdir()
        for image in folder.glob("*.png"):
            shutil.copy(image, folder / name)
        for file in ("train.json", "val.json"):
            (folder / name / file).write_text(json.dumps(texts))
    (folder / "train.json").write_text(json.dumps(texts))
    (folder / "val.json").write_text(json.dumps(texts[:2]))
    (folder / "captions.json").write_text(json.dumps(captions))
    asked = GenerateOptions(teacher="rendered", count=2, quiet=True)
    mmsieve.generate_assessments(out=folder / "assessed", options=asked)
    mmsieve.generate_ratings(out=folder / "rated", options=asked)
    rated = json.loads((folder / "rated" / "train.json").read_text("utf-8"))
    for record in rated:
        record["ratings"] = {"medical": 3}
        names = record["image"] if isinstance(record["image"], list) else [record["image"]]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "rated" / name, folder / name)
    (folder / "medical.json").write_text(json.dumps(rated))
    for name in ("qwen2", "qwen3"):
        language_model(folder / "tiny" / name, name, tied=True)
    make_tower(folder / "tiny" / "tower", Recipe())
    return folder


def stand_in(folder: Path, recipe: str) -> str:
    """The recipe of that name in a file, with tiny parts."""
    method = recipe.split("-")[0]
    kind, changes = KINDS[method], [RECIPES[recipe]]
    if method in FAMILIES:
        language = str(folder / "tiny" / FAMILIES[method])
        tower = str(folder / "tiny" / "tower")
        changes.append(f"language_model={language!r}, vision_tower={tower!r}")
    file = folder / "tiny" / f"{recipe}.py"
    load = f"load_recipe({recipe!r}, {kind}, smoke=True)"
    for change in filter(None, changes):
        made = (
            f"with_backbone({load}, {change})" if "tower" in change else f"{load}.changed({change})"
        )
        load = made
    header = f"from mmsieve.training.recipe import {kind}, load_recipe, with_backbone\n"
    file.write_text(f"{header}SMOKE = {load}\n")
    return str(file)


def own_recipe(folder: Path, page: str) -> None:
    """The page's own mine.py, of a rater to which a capability is added."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "RaterRecipe" in block)
    (folder / "mine.py").write_text(code)


@pytest.mark.long
def test_the_training_commands_run_as_they_stand(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    own_recipe(place, "docs/training.md")
    ran = 0
    for page in PAGES:
        for line in commands(page):
            words = shlex.split(line.partition(" #")[0])
            words = words[words.index("train") :]
            out = Path(words[words.index("--out") + 1])
            if out.name != "projector":  # which others start from
                out = Path(f"run-{ran}") / out
            words[words.index("--out") + 1] = str(out)
            words = [MODELS.get(word, word) for word in words]
            words[2] = stand_in(place, words[2]) if words[2] in RECIPES else words[2]
            with pytest.raises(SystemExit) as done:
                main([*words, "--smoke", "--quiet"])
            assert done.value.code == 0, f"{line}\n{capsys.readouterr().err}"
            assert (out / "config.json").is_file(), line
            ran += 1
    torch.set_num_threads(threads)
    assert ran >= 12


def test_the_recipes_name_files_of_accelerate_that_are_there(capsys, monkeypatch):
    from mmsieve.training.accelerate.__main__ import main as print_config
    from mmsieve.training.recipe import bundled_recipes

    abouts = "\n".join(one.about for one in bundled_recipes().values())
    named = set(re.findall(r"mmsieve\.training\.accelerate (\w+) >", abouts))
    assert named
    for kind in {*named, "zero2", "fsdp2"}:
        assert print_config([kind]) == 0
        assert "distributed_type:" in capsys.readouterr().out
    assert print_config(["zero9"]) == 2
    assert "give one of ddp, zero2, zero3, fsdp2" in capsys.readouterr().err
