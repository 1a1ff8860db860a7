"""One request in this process: prints what its memory was said to be, and what it was."""

import gc
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import mmsieve
from mmsieve.engine.annotator import RunnerOptions, annotate_samples, make_runner
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.load import load_aitqe, load_annotator, load_raters
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.read import ReadOptions, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sources import find_files
from mmsieve.training.memory import estimate_training
from mmsieve.training.options import TrainOptions
from mmsieve.training.recipe import Recipe, load_recipe

IMPORTS = "from mmsieve.training.recipe import Recipe\n"


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    request = json.loads(sys.argv[1])
    measure = measure_training if request["verb"] == "train" else measure_annotator
    print(json.dumps(measure(request)))


def measure_training(request: dict[str, Any]) -> dict[str, int]:
    """Of a classifier's training over all records twice, from loading to saving: the optimiser's
    numbers are there from the second step on."""
    import mmsieve.training.training

    data, model = Path(request["data"]), Path(request["models"][0])
    stage = {"epochs": 2.0, "save_steps": 1000, **request["options"]}
    recipe = load_recipe("unifilter-tiny", Recipe, smoke=True).changed(classifier=stage)
    memory = estimate_training("classifier", recipe, recipe.classifier, model)
    file = data / f"recipe{os.getpid()}.py"
    file.write_text(
        f"{IMPORTS}RECIPE = SMOKE = Recipe.model_validate_json({recipe.model_dump_json()!r})"
    )
    before = forget_peak()
    mmsieve.train_classifier(
        str(file),
        out=model.parent / "trained",
        start_from=model,
        options=TrainOptions(data=[data / "train.json"], val=[data / "val.json"], quiet=True),
    )
    print(memory.line, file=sys.stderr)
    return {"weights": memory.weights, "estimate": memory.total, "peak": status("VmHWM") - before}


def forget_peak() -> int:
    """The resident bytes of now; the peak begins anew."""
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return before


def measure_annotator(request: dict[str, Any]) -> dict[str, int]:
    """Of a model that reads all samples of a folder."""
    verb, models, options = request["verb"], request["models"], request["options"]
    tokens = options.pop("batch_tokens", None)
    if verb == "score":
        annotator = load_annotator(models[0], ScoringOptions(device="cpu", **options))
        from mmsieve.methods.unifilter import runner
    elif verb == "enhance":
        scoring = ScoringOptions(device="cpu", **options)
        annotator = load_aitqe(models[0], EnhanceOptions(max_new_tokens=24), scoring)
        from mmsieve.methods.aitqe import runner
    else:
        styler = models[1] if len(models) > 1 else None
        annotator = load_raters(models[0], RatingOptions(device="cpu", styler=styler, **options))
        from mmsieve.methods.mmssr import runner  # noqa: F401
    wanted = RunnerOptions("cpu", tokens)
    memory = annotator.memory(wanted)
    samples = read(request["data"], verb)
    preparer = annotator.preparer()
    preparer.prepare(samples[0])
    before = forget_peak()
    loaded = make_runner(annotator, wanted)
    after, stays = status("VmHWM") - before, status("VmRSS") - before
    annotate_samples(preparer, loaded, samples)
    peak = status("VmHWM") - before
    print(memory.line, file=sys.stderr)
    return {
        "weights": memory.weights,
        "estimate": memory.total,
        "loaded": after,
        "stays": stays,
        "peak": peak,
    }


def read(source: str, verb: str) -> list[mmsieve.Sample]:
    """The samples of a folder that `generate` wrote."""
    place = Path(source)
    where = place / "qas.json" if verb == "rate" else place / "shards"
    kinds = ("instruction",) if verb == "rate" else ("caption",)
    options = ReadOptions(kinds=kinds, images=str(place) if verb == "rate" else None)
    found = []
    for shard in split_files(find_files([str(where)]).files, options):
        with open_shard(shard, options) as reader:
            found += [parse_record(reader.parse, record) for record in reader.records]
    return found


if __name__ == "__main__":
    main()
    os._exit(0)
