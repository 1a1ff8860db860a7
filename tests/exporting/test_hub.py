"""Exports to the hub: a data set repository with a card."""

import huggingface_hub.constants
import pytest
import yaml

from tests.helpers.command_line import run_line
from tests.helpers.hub import TOKEN, Hub, serve_hub
from tests.helpers.shards import captions, write_tar

FILES = "/{repo_id}/resolve/{revision}/{filename}"
OUT = "hf://datasets/me/kept"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve_hub() as running:
        for name, value in {
            "ENDPOINT": running.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.address
            + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield running


def run(*lines: tuple[object, ...]) -> str:
    """What command lines say and end with, one after the other."""
    ended = [run_line(*line) for line in lines]
    said = "".join(f"{one.out}{one.err}code {one.code}\n" for one in ended)
    assert TOKEN not in said
    return said


def test_an_export_to_the_hub_is_that_of_here_and_has_a_card(hub: Hub, tmp_path):
    write_tar(tmp_path / "in" / "0.tar", captions(5))
    made = ("score", "in", "--model", "rules", "--workers", "0", "--out", "t")
    kept = ("filter", "t", "--where", "key <> '0001'", "--out", "kept")
    export = ("export", "in", "--decisions", "kept", "--out")
    licence = ("--license", "in=cc-by-4.0")
    hub.fail = True
    said = run(made, kept, (*export, "here"), (*export, OUT, *licence))
    assert said.count("code 0") == 3 and "goes on where this one stopped" in said, said
    hub.fail = False
    said = run((*export, OUT, *licence))
    assert "resumed: 1 shard was exported before" in said and "is private" in said
    assert "code 0" in said and len(hub.commits) == 1 and not (tmp_path / "hf:").exists()
    files = dict(hub.files["me/kept"])
    card = files.pop("README.md").decode()
    here = tmp_path / "here"
    assert files == {name: (here / name).read_bytes() for name in ("0.tar", "manifest.json")}
    head = yaml.safe_load(card.split("---\n")[1])
    assert head == {"license": "cc-by-4.0", "tags": ["mmsieve"], "size_categories": ["n<1K"]}
    assert "| in | cc-by-4.0 | 4 |" in card and "| where | key &lt;> '0001' |" in card
    assert f"mmsieve export in --decisions kept --out {OUT}" in card
    assert "4 samples in 1 file" in card and str(tmp_path) not in card

    hub.files["me/kept"]["theirs.txt"] = b"stays"
    again = (*export, OUT, "--shard-size", "3")
    said = run(again, (*again, "--license", "mit"))
    assert said.count("code 0") == 2 and "the card has no licence of in" in said, said
    assert sorted(hub.files["me/kept"]) == [
        "00000000.tar",
        "00000001.tar",
        "README.md",
        "manifest.json",
        "theirs.txt",
    ]


def test_what_the_hub_would_refuse_is_refused_at_once(hub: Hub, tmp_path, monkeypatch):
    write_tar(tmp_path / "in" / "0.tar", captions(1))
    hub.files["me/kept"] = {"README.md": b"# somebody's own"}
    export = ("export", "in", "--decisions", "nothing", "--out")
    said = run((*export, OUT), (*export, "hf://me/kept"), (*export, "here", "--license", "mit"))
    assert said.count("code 2") == 3
    assert "has a card of its own" in said and "write hf://datasets/OWNER/NAME" in said
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = run((*export, OUT))
    assert "code 2" in said and "log in with `hf auth login`" in said
