"""What the verbs write from a small fixed input: training data, tables, decisions, tars.

Scores are compared nearly, so that the machine does not matter; all else exactly. Pictures are
compared by their pixels where they are drawn, since another Pillow may pack them otherwise; tars
of recorded files by their bytes.
"""

import contextlib
import hashlib
import io
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmsieve.cli import main

from .recording import check_json, check_text

UNIFILTER = Path(__file__).parents[1] / "data" / "unifilter"
GENERATIONS = {
    "captions": "captions --count 16 --texts-per-image 1 --shards --shard-size 10",
    "documents": "documents --count 8 --texts-per-image 1 --shards",
    "training": "captions --count 16 --val-fraction 0.3",
    "chart": "captions --count 4 --family chart",
    "table": "captions --count 4 --family table",
    "many": "documents --count 4 --family many --blank-images",
    "assessments": "assessments --count 8 --shards",
    "instructions": "ratings --count 24",
}
TABLES = {
    "quality": "score captions/shards documents/shards --model unifilter-tiny",
    "quality-recorded": "score recorded --model checkpoint",
    "quality-pad": "score recorded --model checkpoint --image-fit pad --plain-text",
    "quality-text-only": "score captions/shards --model text-only:unifilter-tiny --keep-metadata",
    "rules": "score captions/shards recorded/captions --model rules --keep-metadata",
    "assessments-short": "enhance captions/shards --model aitqe-tiny --max-edit 0.8",
    "assessments-long": "enhance captions/shards --model aitqe-tiny --explain --limit 6",
    "ratings": "rate instructions/qas.json --images instructions --model mmssr-tiny-scorer"
    " --styler mmssr-tiny-styler --expected",
    "ratings-ocr": "rate instructions/qas.json --images instructions --model mmssr-tiny-scorer"
    " --capabilities ocr,count=counting",
}
DECISIONS = {
    "top": "filter quality --top-fraction 0.5",
    "floor": "filter quality --min-score 1.5",
    "per": "filter quality --top-count 2 --per num_images",
    "where": "filter quality --where 'num_images>1' --top-fraction 0.5",
    "joined": "filter quality-recorded quality-pad --on key --top-count 7"
    " --by quality-pad.quality_score",
    "half": "filter quality-recorded --top-fraction 0.5",
    "judged": "filter assessments-short --by overall_score --top-fraction 0.6",
    "chosen": "select ratings --budget 0.5",
    "chosen-above": "select ratings --budget 12 --above 1 --weights ocr=2 --source-quota"
    " rendered_check=1 --data instructions/qas.json --subset subset.json",
    "chosen-top-mean": "select ratings --budget 4 --strategy top-mean",
    "chosen-random": "select ratings --budget 4 --strategy random --seed 5",
    "chosen-per-source": "select ratings --budget 6 --strategy per-source",
}
EXPORTS = {
    "mirrored": "export recorded --decisions half",
    "repacked": "export recorded --decisions half --shard-size 4",
    "all": "export captions/shards --captions assessments-short",
    "rewritten": "export captions/shards --decisions judged --captions"
    " assessments-short --shard-size 4",
}
NOT_COMPARED = ("version", "fingerprint", "size", "source", "sources")
"""Of what a table says of itself: the size is that of drawn tars."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Path]:
    """A folder with everything; the verbs run in it, so that no path says where it is."""
    folder = tmp_path_factory.mktemp("made")
    inputs = UNIFILTER / "inputs"
    shutil.copytree(inputs / "captions", folder / "recorded" / "captions")
    shutil.copytree(inputs / "obelics" / "main", folder / "recorded" / "documents")
    shutil.copytree(UNIFILTER / "UniFilter-Qwen3-tiny", folder / "checkpoint")
    shutil.copytree(UNIFILTER / "towers", folder / "towers")
    drawn = {n: f"generate {w} --teacher rendered --seed 20" for n, w in GENERATIONS.items()}
    commands = drawn | TABLES | DECISIONS | EXPORTS
    with contextlib.chdir(folder):
        said = "".join(_run(name, words) for name, words in commands.items())
    (folder / "said.txt").write_text(said, "utf-8")
    return folder


def _run(name: str, command: str) -> str:
    """Run a command; what it said, without what the machine decides."""
    words = [*shlex.split(command), "--out", name]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        done = stack.enter_context(pytest.raises(SystemExit))
        main([*words, "--quiet"])
    assert done.value.code == 0, f"{command}: {err.getvalue()}"
    said = re.sub(r"[0-9.]+ s:", "N s:", out.getvalue())
    said = re.sub(r"(?<=score kept: )[0-9.]+|(?<=tars \()[0-9.]+", "N", said)
    return f"$ {command} --out {name}\n{said}\n"


def test_the_verbs_say_what_they_said(made):
    check_text("outputs/said.txt", (made / "said.txt").read_text("utf-8"))


@pytest.mark.parametrize("name", GENERATIONS)
def test_generated_training_data_is_as_recorded(made, name):
    check_json(f"outputs/generated-{name}.json", _listed(made / name))


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_as_recorded(made, name):
    read = _read(made / name)
    check_json(f"outputs/{name}.json", read, exact=json.dumps(read).encode())


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_are_as_recorded(made, name):
    read = _read(made / name)
    check_json(f"outputs/{name}.json", read, exact=json.dumps(read).encode())


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_as_recorded(made, name):
    check_json(f"outputs/{name}.json", _listed(made / name))


def test_the_chosen_items_are_as_recorded(made):
    check_json("outputs/subset.json", json.loads((made / "subset.json").read_text("utf-8")))


def test_tars_of_recorded_files_are_the_same_to_the_byte(made):
    tars = sorted([*(made / "mirrored").rglob("*.tar"), *(made / "repacked").rglob("*.tar")])
    hashes = {str(tar.relative_to(made)): _hash(tar.read_bytes()) for tar in tars}
    check_json("outputs/tars.json", hashes)


def test_a_table_of_before_is_resumed(made):
    """What tables are known by; a change of it makes people start their runs again."""
    known = {name: _stored(next((made / name).rglob("*.parquet"))) for name in TABLES}
    check_json("outputs/fingerprints.json", {n: s["fingerprint"] for n, s in known.items()})


def _read(folder: Path) -> dict[str, Any]:
    """Every Parquet file of a table or of decisions: columns, what is known of it, rows."""
    found = {}
    for file in sorted(folder.rglob("*.parquet")):
        schema, stored = pq.read_schema(file), _stored(file)
        about = {
            "columns": [f"{part.name}: {part.type}" for part in schema],
            **{key: value for key, value in stored.items() if key not in NOT_COMPARED},
            "values": [list(row.values()) for row in pq.read_table(file).to_pylist()],
        }
        if "notes" in about:
            about["notes"] = sorted(about["notes"])  # what they say depends on the machine
        found[file.relative_to(folder).as_posix()] = about
    others = {path.name for path in folder.rglob("*") if path.is_file()}
    return found | {"other files": sorted(others - {Path(name).name for name in found})}


def _stored(file: Path) -> dict[str, Any]:
    """The product's own entry in a file's metadata."""
    metadata = pq.read_schema(file).metadata or {}
    assert set(metadata) <= {b"mmsieve"}
    return dict(json.loads(metadata.get(b"mmsieve", b"{}")))


def _listed(folder: Path) -> dict[str, Any]:
    """Every file below a folder, with what is in it; of a journal only that it is there."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".tar":
            found[name] = _members(path)
        elif path.name == "manifest.json":
            found[name] = _manifest(path)
        elif path.name.startswith("."):
            found[name] = "a journal"
        else:
            found[name] = _content(path.name, path.read_bytes())
    return found


def _manifest(file: Path) -> dict[str, Any]:
    """A manifest without the product's version, and without what Pillow's packing decides."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    for part in (found, *found["tars"]):
        for key in {"mmsieve", "bytes", "sha256"} & part.keys():
            part[key] = "..."
    return found


def _members(tar: Path) -> list[str]:
    with tarfile.open(tar) as opened:
        return [
            f"{member.name} {member.mode:o} {member.uid} {member.gid} {member.mtime} "
            + _content(member.name, opened.extractfile(member).read())
            for member in opened
        ]


def _content(name: str, data: bytes) -> str:
    """A hash of a file: of the pixels of a picture, of a text's every letter."""
    if name.endswith((".png", ".jpg")):
        with Image.open(io.BytesIO(data)) as image:
            return f"{image.mode} {image.width}x{image.height} {_hash(image.tobytes())}"
    return _hash(data)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
