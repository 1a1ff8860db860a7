"""layouts and look: the page is the table's, its examples are read as it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmsieve.cli import app
from mmsieve.read import ReadOptions
from mmsieve.read.layouts import LAYOUTS
from mmsieve.verbs.layouts import list_layouts
from mmsieve.verbs.look import look
from tests.helpers.shards import image, write_parquet, write_tar

PAGE = Path(__file__).parents[2] / "docs/layouts.md"
ITEMS = [
    (name, form)
    for name, layout in LAYOUTS.items()
    for form in layout.forms
    if form.example.startswith("{")
]


def test_the_page_is_what_the_verb_prints():
    assert PAGE.read_text("utf-8") == list_layouts(markdown=True).summary() + "\n"


@pytest.mark.parametrize(("name", "form"), ITEMS, ids=[form.of[:20] for _, form in ITEMS])
def test_examples_are_recognised(tmp_path, name, form):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(image())
    path = tmp_path / form.source
    item = json.loads(form.example)
    path.write_text(json.dumps([item] if path.suffix == ".json" else item))
    kinds = LAYOUTS[name].kinds
    found = look(str(path), read=ReadOptions(images=folder, kinds=kinds)).summary()
    assert f": {name}, 1 sample" in found and "[jpg image, 8 x 8 pixels" in found
    assert "A kiln." in found


def test_commands_parse():
    for line in list_layouts(markdown=True).summary().splitlines():
        if line.startswith("    mmsieve "):
            words = line.split()[1:]
            words = [word.strip("'") for word in words]
            app.parse_args(words, exit_on_error=False, print_error=False)


def test_look_at_several_files(tmp_path):
    write_tar(tmp_path / "a.tar", [("k.jpg", image()), ("k.txt", b"A kiln."), ("k.json", b"[]")])
    write_tar(tmp_path / "b.tar", [])
    (tmp_path / "c.tar").write_bytes(b"x" * 2000)
    write_parquet(tmp_path / "left.parquet", {"n": [1]})
    done = subprocess.run(
        [sys.executable, "-m", "mmsieve", "look", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert "left alone beside the shards: 1 .parquet" in lines[0]
    assert lines[1].endswith("a.tar: captions, 1 sample")
    assert "not a tar archive" in lines[3] and lines[4] == "3 files, 3 shards"
    assert lines[5] == "first sample: k" and "  A kiln." in lines
    assert lines[-1].startswith("  note: its json is no JSON object")
