"""train: training data -> a checkpoint folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsieve.errors import RequestError
from mmsieve.methods.folders import hash_files, tensor_files
from mmsieve.outputs import check_folder
from mmsieve.reports import Report, timed
from mmsieve.training.options import (
    TrainOptions,
    check_run_config,
    first_goes_first,
    is_first,
    write_run_config,
)
from mmsieve.training.recipe import (
    AnyStage,
    BaseRecipe,
    EnhancerRecipe,
    R,
    RaterRecipe,
    Recipe,
    check_start,
    find_start,
    load_recipe,
    with_backbone,
)


@dataclass(frozen=True, kw_only=True)
class TrainReport(Report):
    """How a training went."""

    def counts(self) -> str:
        """A training has none."""
        return "trained"

    def summary(self) -> str:
        """As of any verb; nothing from the other processes of a training on several."""
        return super().summary() if is_first() else ""


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
    found = _changed(load_recipe(recipe, Recipe, options.smoke), options)
    return _train("projector", found, found.projector, Path(out), None, options)


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
    found = _changed(load_recipe(recipe, Recipe, options.smoke), options)
    return _train("classifier", found, found.classifier, Path(out), start_from, options)


def train_rater(
    recipe: str,
    *,
    out: Path,
    start_from: str | None = None,
    options: TrainOptions = TrainOptions(),
) -> TrainReport:
    """Train a rater of instruction samples: a scorer, a styler, or both in one (mmSSR).

    The same command run twice goes on where the first one stopped.

    Parameters
    ----------
    recipe
        A bundled recipe (mmssr-tiny-scorer, mmssr-qwen2-7b-scorer, ...), or a .py file.
    out
        Folder of the checkpoint.
    start_from
        A rater to go on from, such as one that a capability is added to: a bundled name, a folder
        or a hub id.
    """
    found = _changed(load_recipe(recipe, RaterRecipe, options.smoke), options)
    return _train("rater", found, found.rater, Path(out), start_from, options)


def train_enhancer(
    recipe: str,
    *,
    out: Path,
    start_from: str | None = None,
    negatives: bool = True,
    rewriting: bool = True,
    options: TrainOptions = TrainOptions(),
) -> TrainReport:
    """Train a model that judges captions and rewrites poor ones (AITQE).

    The same command run twice goes on where the first one stopped.

    Parameters
    ----------
    recipe
        A bundled recipe (aitqe-tiny, aitqe-qwen2-7b, ...), or a .py file.
    out
        Folder of the checkpoint.
    start_from
        An enhancer to go on from: a bundled name, a folder or a hub id.
    negatives
        Learn from captions that were written to be bad, too.
    rewriting
        Learn to rewrite; without, to judge alone.
    """
    found = _changed(load_recipe(recipe, EnhancerRecipe, options.smoke), options)
    if not (negatives and rewriting):
        found = found.changed(
            negatives=found.negatives and negatives, rewriting=found.rewriting and rewriting
        )
    return _train("enhancer", found, found.enhancer, Path(out), start_from, options)


def _changed(recipe: R, options: TrainOptions) -> R:
    """The recipe with what the options ask for instead."""
    recipe = with_backbone(recipe, options.language_model, options.vision_tower)
    return recipe if options.seed is None else recipe.changed(seed=options.seed)


@timed
def _train(
    goal: str,
    recipe: BaseRecipe,
    stage: AnyStage | None,
    out: Path,
    start_from: Path | str | None,
    options: TrainOptions,
) -> TrainReport:
    if stage is None:
        raise RequestError(f"recipe {recipe.name} has no stage {goal}")
    check_folder(out)
    options.check(stage.rendered is not None)
    start = find_start(recipe, start_from)
    if start is None:
        check_start(recipe)
    config = _run_config(goal, recipe, start, options)
    with first_goes_first():
        state = check_run_config(out, config, options.overwrite and is_first())
        if state == "new" and not options.dry_run:
            out.mkdir(parents=True, exist_ok=True)
            write_run_config(out, config, {})
    if state == "done" or options.dry_run:
        plan = _plan(goal, recipe, stage, start, options)
        note = f"{recipe.name}: done before" if state == "done" else f"would train: {plan}"
        return TrainReport(out=out, notes=(note,))
    return TrainReport(out=out, notes=tuple(_run(goal, recipe, out, config, start, options)))


def _run(
    goal: str,
    recipe: Any,
    out: Path,
    config: dict[str, Any],
    start_from: Path | None,
    options: TrainOptions,
) -> list[str]:
    from mmsieve.training.training import TRAININGS

    return TRAININGS[goal](
        goal=goal,
        recipe=recipe,
        out=out,
        config=config,
        start_from=start_from,
        files=options.files,
        workers=options.workers,
        trackers=options.trackers,
        quiet=options.quiet,
    ).run()


def _run_config(
    goal: str, recipe: BaseRecipe, start_from: Path | None, options: TrainOptions
) -> dict[str, Any]:
    """Everything that the result depends on."""
    config: dict[str, Any] = {"goal": goal, "recipe": recipe.model_dump(mode="json")}
    if start_from is not None:
        files = {*tensor_files(start_from).values(), start_from / "config.json"}
        config["start_from"] = hash_files(files)
    for name, file in (("data", options.data), ("val", options.val)):
        if file is not None:
            config[name] = hash_files([file])
    return config


def _plan(
    goal: str,
    recipe: BaseRecipe,
    stage: AnyStage,
    start_from: Path | None,
    options: TrainOptions,
) -> str:
    """What would be trained, in words."""
    told = []
    lesson = recipe.lesson if isinstance(recipe, Recipe) else None
    if start_from is None and lesson is not None and lesson.rendered is not None:
        told.append(f"the tower on {lesson.rendered.groups:,} scenes")
    if options.data is not None:
        told.append(f"the {goal} on {options.data}")
    elif stage.rendered is not None:
        told.append(f"the {goal} on texts over {stage.rendered.groups:,} groups of scenes")
    return ", then ".join(told)
