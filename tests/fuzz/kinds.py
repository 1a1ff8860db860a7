"""The kinds of files: what makes a good one, which files are damaged, what reads them."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = Sequence[str]


@dataclass(frozen=True)
class Kind:
    """A kind of files."""

    make: Callable[[], None]
    """Makes good ones in the working directory, in a process of its own."""
    damaged: tuple[str, ...]
    """Globs of the files that are damaged; earlier ones more often."""
    lines: tuple[str, ...]
    """Command lines that read them."""


KEY = "sk-test-0123456789abcdef"
"""In the environment, for teachers."""


def _main(line: str) -> None:
    from mmsieve.cli import main

    try:
        main(line.split())
    except SystemExit as done:
        if done.code:
            raise RuntimeError(f"{line}: exit code {done.code}") from None


def _pairs() -> None:
    from tests.helpers.shards import captions, write_tar

    write_tar(Path("in/a.tar"), captions(4))
    write_tar(Path("in/b.tar"), captions(3))


def _pictures() -> None:
    from tests.helpers.shards import image

    Path("pictures").mkdir()
    for number, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF")):
        Path("pictures", f"{number}.{kind.lower()}").write_bytes(image(number, kind))


def _documents() -> None:
    from tests.helpers.shards import write_jsonl

    _pictures()
    Path("in").mkdir()
    about = [{"image_name": name, "matched_text_index": 0} for name in ("0.jpeg", "1.png")]
    document = {"text_list": ["A red square.", "Two."], "image_info": about, "url": "x"}
    write_jsonl(Path("in/docs.jsonl"), [document] * 4)


def _items() -> None:
    _pictures()
    Path("in").mkdir()
    asked = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Red."}]
    names = ("0.jpeg", "1.png", "2.webp", "3.gif")
    items = [{"id": n, "image": name, "conversations": asked} for n, name in enumerate(names)]
    Path("in/qas.json").write_text(json.dumps(items), "utf-8")


def _rows() -> None:
    from tests.helpers.shards import image, write_parquet

    Path("in").mkdir()
    cells = [{"bytes": image(n), "path": f"{n}.jpg"} for n in range(6)]
    columns = {"image": cells, "text": ["A red square."] * 6, "uid": ["0" * 32] * 6}
    write_parquet(Path("in/a.parquet"), columns)


_RULES = "--model rules --workers 0 --quiet --out out"
_MAKE_SCORES = "score in --model unifilter-tiny --out scores --workers 0 --quiet"


def _scores() -> None:
    _pairs()
    _main(_MAKE_SCORES)
    shutil.copytree("scores", "again")


def _decisions() -> None:
    _scores()
    _main("filter scores --top-fraction 0.5 --out decisions --quiet")
    _main("filter scores --top-fraction 0.5 --out all.parquet --quiet")


def _assessments() -> None:
    _pairs()
    _main("enhance in --model aitqe-tiny --out judged --workers 0 --quiet --max-new-tokens 64")


_RATE = "rate pool/qas.json --images pool --workers 0 --quiet"


def _ratings() -> None:
    _main("generate ratings --teacher rendered --count 6 --out pool --quiet")
    models = "--model mmssr-tiny-scorer --styler mmssr-tiny-styler"
    _main(f"{_RATE} {models} --out ratings")
    _main("select ratings --budget 2 --out subset --quiet")


def _foreign() -> None:
    from tests.helpers.shards import write_parquet

    rows = 12
    columns = {
        "key": [f"k{row}" for row in range(rows)],
        "uid": [f"{row:032x}" for row in range(rows)],
        "text": ["A red square."] * rows,
        "score": [row / rows for row in range(rows)],
        "source": ["x", "y", "z"] * (rows // 3),
        "ocr": [row % 6 for row in range(rows)],
        "styles": [["short"], ["long", "short"], []] * (rows // 3),
        "image_source": ["coco", "web", None] * (rows // 3),
    }
    write_parquet(Path("one.parquet"), columns)
    write_parquet(Path("other.parquet"), columns)


def _results() -> None:
    from tests.helpers.selections import write_results

    names = ("ocr", "stem", "style")
    items = [
        {"id": f"s{n}", "idx": n, "image_source": "coco", "conversations": []} for n in range(9)
    ]
    said = [(n, str(n % 6)) for n in range(9)]
    styles = [(n, "short, long") for n in range(9)]
    write_results(Path(), items, {name: styles if name == "style" else said for name in names})


def _training_files() -> None:
    _pairs()
    _main("generate captions --teacher rendered --count 8 --out made --quiet")


def _metrics() -> None:
    _training_files()
    _main("evaluate --model unifilter-tiny --data made/train.json --out one --quiet")
    models = "--model unifilter-tiny --model text-only:unifilter-tiny"
    _main(f"evaluate {models} --data made/train.json --out two --quiet")


_TEACHER = (
    "--teacher openai:m --base-url http://127.0.0.1:9/v1 --max-retries 0 --patience 1s --quiet"
)
_GENERATE = f"generate captions in --count 8 --out made {_TEACHER}"


def _generation() -> None:
    """A generation that has all its answers, and was killed before it was done."""
    from tests.helpers.well_behaved import serve

    _pairs()
    with serve() as server:
        address = server.base_url("openai")
        _main(_GENERATE.replace("http://127.0.0.1:9/v1", address))
    record = json.loads(Path("made/generate.json").read_text("utf-8"))
    Path("made/generate.json").write_text(json.dumps(record | {"complete": False}), "utf-8")


_TRAIN = "train classifier unifilter-tiny --smoke --quiet --data made/train.json --out"


def _trainings() -> None:
    """A training that is done, and one that was killed before its last step."""
    from mmsieve.training import training

    _training_files()
    _main(f"{_TRAIN} done")

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    training.write_run_config = interrupted
    try:
        _main(f"{_TRAIN} begun")
    except RuntimeError:
        for folder in Path("begun/stages").glob("*-states"):
            shutil.rmtree(folder)


def _export() -> None:
    _decisions()
    _main(f"{_EXPORT} --quiet")


_EXPORT = "export in --decisions decisions --out exported"


_CONVERT = "convert aitqe-tiny --out converted"


def _model(name: str) -> Callable[[], None]:
    def make() -> None:
        from mmsieve.methods.folders import bundled_folder

        _pairs()
        folder = bundled_folder(name)
        assert folder is not None
        shutil.copytree(folder, "model")

    return make


def _recorded(model: str, beside: str) -> Callable[[], None]:
    """A checkpoint made with the published code, and the folder with its tower."""

    def make() -> None:
        from tests.helpers.paths import RECORDED_DATA

        _pairs()
        shutil.copytree(RECORDED_DATA / model, "model")
        shutil.copytree(RECORDED_DATA / beside, Path(beside).name)

    return make


def _clip() -> None:
    from tests.helpers.towers import make_clip

    _pairs()
    make_clip(Path("model"), "clip")


_SCORE = "score in/a.tar --model model --out out --workers 0 --quiet"
_ENHANCE = _SCORE.replace("score", "enhance") + " --max-new-tokens 48"
_RATE_MODEL = f"{_RATE} --model model --out out"
_CHECKPOINT = (
    "model/config.json",
    "model/config.json",
    "model/config.json",
    "model/model.safetensors",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/*",
)


def _rater(make: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        make()
        _main("generate ratings --teacher rendered --count 2 --out pool --quiet")

    return both


KINDS: dict[str, Kind] = {
    "shards": Kind(_pairs, ("in/*",), (f"score in {_RULES}", f"score in {_RULES} --keep-metadata")),
    "documents": Kind(
        _documents,
        ("in/*", "pictures/*"),
        (f"score in/docs.jsonl --images pictures {_RULES}", "look in/docs.jsonl --images pictures"),
    ),
    "items": Kind(
        _items,
        ("in/*", "in/*", "pictures/*"),
        (
            "look in/qas.json --images pictures",
            "rate in/qas.json --images pictures --model mmssr-tiny-scorer --workers 0 --quiet"
            " --out out",
        ),
    ),
    "rows": Kind(_rows, ("in/*",), (f"score in/a.parquet {_RULES}", "look in/a.parquet")),
    "table": Kind(
        _scores,
        ("scores/*",),
        (
            "filter scores --top-fraction 0.5 --out out --quiet",
            "filter scores again --where scores.quality_score<9 --out out --quiet",
            "report scores --out out.html",
            "report again scores --out out.html",
            "report scores in --out out.html",
            "evaluate scores again --out out --quiet",
            _MAKE_SCORES,
        ),
    ),
    "decisions": Kind(
        _decisions,
        ("decisions/*", "all.parquet"),
        (
            "export in --decisions decisions --out out --quiet",
            "export in --decisions all.parquet --out out --quiet",
            "report decisions --out out.html",
            "report all.parquet in --out out.html",
            "filter scores --top-fraction 0.5 --out decisions --quiet",
        ),
    ),
    "assessments": Kind(
        _assessments,
        ("judged/*",),
        (
            "export in --captions judged --out out --quiet",
            "report judged --out out.html",
            "filter judged --by overall_score --min-score 3 --out out --quiet",
        ),
    ),
    "ratings": Kind(
        _ratings,
        ("ratings/*",),
        (
            "select ratings --budget 2 --out out --quiet",
            "select ratings --strategy top-mean --budget-tokens 500 --out out --quiet",
            "report ratings --out out.html",
            "report ratings subset --out out.html",
            f"{_RATE} --model mmssr-tiny-scorer --styler mmssr-tiny-styler --out ratings",
        ),
    ),
    "foreign": Kind(
        _foreign,
        ("one.parquet",),
        (
            "filter one.parquet --by score --top-fraction 0.5 --per source --out out --quiet",
            "filter one.parquet other.parquet --on uid --by one.score --min-score 0.3 --out out",
            "filter one.parquet --by score --top-count 3 --format datacomp --out out.npy",
            "select one.parquet --budget 3 --out out --quiet",
            "evaluate one.parquet other.parquet --by score --on key --out out",
        ),
    ),
    "results": Kind(
        _results,
        ("res/*.jsonl", "qas.json"),
        (
            "select res --data qas.json --budget 4 --out out --quiet",
            "select res --data qas.json --budget 4 --out out --subset some.json --quiet",
        ),
    ),
    "metrics": Kind(
        _metrics,
        ("one/metrics.json", "two/metrics.json", "one/predictions.parquet"),
        (
            "report one/metrics.json --out out.html",
            "report two/metrics.json --out out.html",
            "report one --images made --out out.html",
            "filter one/predictions.parquet --by score --min-score 1 --out out",
        ),
    ),
    "training-files": Kind(
        _training_files,
        ("made/train.json", "made/train.json", "made/generate.json"),
        (
            "evaluate --model unifilter-tiny --data made/train.json --out out --dry-run",
            "evaluate --model unifilter-tiny --data made/train.json --out out --quiet",
            "generate captions --teacher rendered --count 8 --out made --quiet",
            f"generate captions --positives made/train.json in --count 2 --out out {_TEACHER}",
        ),
    ),
    "generation": Kind(
        _generation,
        ("made/generate.json", "made/plan.json", "made/journal.jsonl"),
        (_GENERATE, f"{_GENERATE} --overwrite"),
    ),
    "training": Kind(
        _trainings,
        (
            "*/training.json",
            "begun/stages/*/log.json",
            "begun/stages/data.json",
            "begun/stages/*/*",
        ),
        (f"{_TRAIN} done", f"{_TRAIN} begun", "report done begun --out out.html"),
    ),
    "export": Kind(
        _export,
        ("exported/.export.jsonl", "exported/.export.jsonl", "exported/manifest.json"),
        (f"{_EXPORT} --quiet", f"{_EXPORT} --quiet --overwrite"),
    ),
    "conversion": Kind(lambda: _main(_CONVERT), ("converted/convert.json",), (_CONVERT,)),
    "unifilter": Kind(
        _model("unifilter-tiny"),
        _CHECKPOINT,
        (_SCORE, _SCORE.replace("--model ", "--model text-only:")),
    ),
    "unifilter-released": Kind(
        _recorded("unifilter/UniFilter-Qwen3-tiny", "unifilter/towers"),
        (*_CHECKPOINT, "towers/*/*.json", "towers/*/*"),
        (_SCORE,),
    ),
    "aitqe": Kind(_model("aitqe-tiny"), _CHECKPOINT, (_ENHANCE, "convert model --out out")),
    "aitqe-released": Kind(
        _recorded("aitqe/aitqe-tiny-b", "aitqe/vis"),
        _CHECKPOINT,
        (_ENHANCE, "convert model --out out"),
    ),
    "mmssr": Kind(
        _rater(_model("mmssr-tiny-scorer")), _CHECKPOINT, (_RATE_MODEL, "convert model --out out")
    ),
    "mmssr-released": Kind(
        _rater(_recorded("mmssr/llava-qwen-tiny-a", "mmssr/google")),
        _CHECKPOINT,
        (_RATE_MODEL, "convert model --out out"),
    ),
    "clip": Kind(_clip, _CHECKPOINT, (_SCORE.replace("--model ", "--model clip:"),)),
}


def environment() -> None:
    """What runs find in their environment."""
    os.environ |= {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
