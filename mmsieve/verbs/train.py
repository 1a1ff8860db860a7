"""train: training data -> a checkpoint folder."""

import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.fingerprint import hash_files
from mmsieve.models.files import tensor_files
from mmsieve.table import check_folder
from mmsieve.train.claim import check_claim, write_claim
from mmsieve.train.find_recipe import load_recipe, with_backbone
from mmsieve.train.processes import first_goes_first, is_first
from mmsieve.train.recipe import Optimisation, Pretrained, Recipe

if TYPE_CHECKING:
    from mmsieve.train.classifiers import Goal


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a training reads, and how it runs."""

    data: Path | None = None
    """Training file, where the recipe's rendered data is not meant: for classifier a JSON list of
    image, text and label, as generate writes it; for projector LLaVA's captions."""
    images: Path | None = None
    """Folder that the image paths of --data are relative to; by default the file's own."""
    val: Path | None = None
    """Training file to choose the best state by; by default 2% of --data, split by image."""
    language_model: str | None = None
    """Another language model than the recipe's: a folder or a hub id."""
    vision_tower: str | None = None
    """Another vision tower than the recipe's: a folder or a hub id."""
    seed: int | None = None
    """Another seed than the recipe's, for weights, order and scenes."""
    smoke: bool = False
    """A trial of seconds: every stage, next to no training, a useless checkpoint."""
    workers: int = 0
    """Processes that prepare data; 0: the training process itself."""
    wandb: bool = False
    """Log to Weights & Biases too (TensorBoard files are always written)."""
    overwrite: bool = False
    """Start again: what is in the folder is removed."""
    dry_run: bool = False
    """Check the request, say what would be trained, and stop."""
    quiet: bool = False
    """No progress; only the summary."""


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """How a training went."""

    out: Path
    seconds: float
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: a training fails as a whole."""

    def summary(self) -> str:
        """What a user should know, the last line with seconds and the output's path.

        Nothing from the other processes of a training on several.
        """
        if not is_first():
            return ""
        return "\n".join([*self.notes, f"trained in {self.seconds:.1f} s: {self.out}"])


def train_projector(
    recipe: str, *, out: Path, options: TrainOptions = TrainOptions()
) -> TrainReport:
    """Train a projector by captions: stage 1, of a classifier that can't judge yet.

    The same command run twice goes on where the first one stopped.

    Parameters
    ----------
    recipe
        A bundled recipe (unifilter-tiny, unifilter-qwen3-0.6b, ...), or a .py file.
    out
        Folder of the checkpoint, for train classifier --start-from.
    """
    return _train("projector", recipe, Path(out), None, options)


def train_classifier(
    recipe: str,
    *,
    out: Path,
    start_from: Path | None = None,
    options: TrainOptions = TrainOptions(),
) -> TrainReport:
    """Train a quality classifier: stage 2.

    The same command run twice goes on where the first one stopped.

    Parameters
    ----------
    recipe
        A bundled recipe (unifilter-tiny, unifilter-qwen3-0.6b, ...), or a .py file.
    out
        Folder of the checkpoint.
    start_from
        A checkpoint to go on from: what train projector made, or any classifier.
    """
    return _train("classifier", recipe, Path(out), start_from, options)


def _train(
    goal: "Goal", name: str, out: Path, start_from: Path | None, options: TrainOptions
) -> TrainReport:
    started = time.monotonic()
    recipe = _recipe(name, options)
    stage: Optimisation | None = getattr(recipe, goal)
    if stage is None:
        raise RequestError(f"recipe {recipe.name} has no stage {goal}")
    check_folder(out)
    _check_installed(options, recipe)
    _check_data(stage, options)
    _check_backbone(recipe, start_from)
    claim = _claim(goal, recipe, start_from, options)
    with first_goes_first():
        state = check_claim(out, claim, options.overwrite and is_first())
        if state == "new" and not options.dry_run:
            out.mkdir(parents=True, exist_ok=True)
            write_claim(out, claim, {})
    if state == "done" or options.dry_run:
        plan = _plan(goal, recipe, stage, start_from, options)
        notes = [f"{name}: done before" if state == "done" else f"would train: {plan}"]
    else:
        notes = _run(goal, recipe, out, claim, start_from, options)
    return TrainReport(out=out, seconds=time.monotonic() - started, notes=tuple(notes))


def _run(
    goal: "Goal",
    recipe: Recipe,
    out: Path,
    claim: dict[str, Any],
    start_from: Path | None,
    options: TrainOptions,
) -> list[str]:
    from mmsieve.train.classifiers import ClassifierTraining
    from mmsieve.train.feed import DataFiles

    files = None
    if options.data is not None:
        images = options.images or options.data.parent
        files = DataFiles(options.data, images, options.val)
    return ClassifierTraining(
        goal=goal,
        recipe=recipe,
        out=out,
        claim=claim,
        start_from=start_from,
        files=files,
        workers=options.workers,
        trackers=("tensorboard", "wandb") if options.wandb else ("tensorboard",),
        quiet=options.quiet,
    ).run()


def _recipe(name: str, options: TrainOptions) -> Recipe:
    recipe = load_recipe(name, Recipe, options.smoke)
    recipe = with_backbone(recipe, options.language_model, options.vision_tower)
    return recipe if options.seed is None else recipe.changed(seed=options.seed)


def _check_installed(options: TrainOptions, recipe: Recipe) -> None:
    needed = {"accelerate": True, "tensorboard": True, "peft": True, "wandb": options.wandb}
    for package, wanted in needed.items():
        if wanted and find_spec(package) is None:
            extra = "wandb" if package == "wandb" else "'mmsieve[train]'"
            raise RequestError(f"training needs {package}: pip install {extra}")


def _check_backbone(recipe: Recipe, start_from: Path | None) -> None:
    if start_from is None and isinstance(recipe.start, Pretrained):
        from mmsieve.train.pretrained import check_backbone

        check_backbone(recipe.start)


def _check_data(stage: Optimisation, options: TrainOptions) -> None:
    """Raise RequestError where files are missing, or asked for without a file."""
    if options.data is None:
        for name in ("images", "val"):
            if getattr(options, name) is not None:
                raise RequestError(f"--{name} goes with --data FILE")
        if stage.rendered is None:
            raise RequestError("this recipe needs --data FILE (and --images DIR)")
        return
    for name in ("data", "val"):
        file = getattr(options, name)
        if file is not None and not file.is_file():
            raise RequestError(f"--{name} {file}: no such file")
    if options.images is not None and not options.images.is_dir():
        raise RequestError(f"--images {options.images}: no such folder")


def _claim(
    goal: str, recipe: Recipe, start_from: Path | None, options: TrainOptions
) -> dict[str, Any]:
    """Everything that the result depends on."""
    claim: dict[str, Any] = {"goal": goal, "recipe": recipe.model_dump(mode="json")}
    if start_from is not None:
        folder = Path(start_from)
        claim["start_from"] = hash_files({*tensor_files(folder).values(), folder / "config.json"})
    for name in ("data", "val"):
        if (file := getattr(options, name)) is not None:
            claim[name] = hash_files([file])
    return claim


def _plan(
    goal: str,
    recipe: Recipe,
    stage: Optimisation,
    start_from: Path | None,
    options: TrainOptions,
) -> str:
    """What would be trained, in words."""
    told = []
    if start_from is None and recipe.lesson is not None and recipe.lesson.rendered is not None:
        told.append(f"the tower on {recipe.lesson.rendered.groups:,} scenes")
    if options.data is not None:
        told.append(f"the {goal} on {options.data}")
    elif stage.rendered is not None:
        told.append(f"the {goal} on texts over {stage.rendered.groups:,} groups of scenes")
    return ", then ".join(told)
