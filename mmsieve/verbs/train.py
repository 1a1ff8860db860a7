"""train: training data -> a checkpoint folder."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.keywords import flat_options
from mmsieve.leftovers import remove
from mmsieve.locks import working_copy, writing_to
from mmsieve.methods.folders import hash_files, tensor_files
from mmsieve.options import Out
from mmsieve.outputs import check_folder
from mmsieve.reports import Report, timed
from mmsieve.runs import note_facts
from mmsieve.sanitize import write
from mmsieve.stores.paths import is_stored, place_of
from mmsieve.training.memory import estimate_training
from mmsieve.training.options import (
    RECIPE,
    STAGES,
    DataFiles,
    TrainOptions,
    begin_training,
    check_run_config,
    first_goes_first,
    is_first,
)
from mmsieve.training.recipe import (
    AnyStage,
    BaseRecipe,
    EnhancerRecipe,
    RaterRecipe,
    Recipe,
    check_projector,
    check_start,
    find_start,
    has_new_projector,
    load_recipe,
    stage_of,
    with_backbone,
)

_RECIPE = Parameter(group=RECIPE)
_Text: TypeAlias = Annotated[str, _RECIPE]


@dataclass(frozen=True, kw_only=True)
class TrainReport(Report):
    """How a training went."""

    def counts(self) -> str:
        """A training has none."""
        return "trained"

    def summary(self) -> str:
        """As of any verb; nothing from the other processes of a training on several."""
        return super().summary() if is_first() else ""


@flat_options
def train_projector(
    recipe: _Text, *, out: Out, options: TrainOptions = TrainOptions()
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
    return _train("projector", recipe, Recipe, place_of(out), None, options)


@flat_options
def train_classifier(
    recipe: _Text,
    *,
    out: Out,
    start_from: Annotated[Path | None, _RECIPE] = None,
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
    return _train("classifier", recipe, Recipe, place_of(out), start_from, options)


@flat_options
def train_rater(
    recipe: _Text,
    *,
    out: Out,
    start_from: Annotated[str | None, _RECIPE] = None,
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
    return _train("rater", recipe, RaterRecipe, place_of(out), start_from, options)


@flat_options
def train_enhancer(
    recipe: _Text,
    *,
    out: Out,
    start_from: Annotated[str | None, _RECIPE] = None,
    negatives: Annotated[bool, Parameter(negative="--no-negatives", group=RECIPE)] = True,
    rewriting: Annotated[bool, Parameter(negative="--no-rewriting", group=RECIPE)] = True,
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
    switches = {"negatives": negatives, "rewriting": rewriting}
    off = {name: False for name, is_on in switches.items() if not is_on}
    return _train("enhancer", recipe, EnhancerRecipe, place_of(out), start_from, options, **off)


@timed
def _train(
    goal: str,
    name: str,
    kind: type[BaseRecipe],
    out: Path,
    start_from: Path | str | None,
    options: TrainOptions,
    **changes: Any,
) -> TrainReport:
    if is_stored(out) and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError(f"--out {out}: several processes write to a folder: copy it there")
    with working_copy(out, "train", wait=options.wait, dry_run=options.dry_run) as place:
        report = _train_here(goal, name, kind, place, start_from, options, **changes)
    return replace(report, out=out)


def _train_here(
    goal: str,
    name: str,
    kind: type[BaseRecipe],
    out: Path,
    start_from: Path | str | None,
    options: TrainOptions,
    **changes: Any,
) -> TrainReport:
    recipe = load_recipe(name, kind, options.smoke)
    given = (options.language_model, options.vision_tower, options.projector)
    recipe = with_backbone(recipe, *given)
    changes |= {} if options.seed is None else {"seed": options.seed}
    recipe = recipe.changed(**changes)
    stage = stage_of(recipe, goal)
    if stage is None:
        raise RequestError(f"recipe {recipe.name} has no stage {goal}")
    check_folder(out)
    options.check(getattr(stage, "rendered", None) is not None)
    _check_pretrain(goal, recipe, options)
    known = find_start(recipe, start_from)
    check_projector(recipe, goal, known)
    if known is None:
        check_start(recipe)
        if has_new_projector(recipe) and goal != "projector" and options.pretrain is None:
            _say_untaught(goal, recipe)
    _check_files(goal, options)
    start = known.folder if known else None
    recognised = (known.note,) if known and not known.config.get("mmsieve") else ()
    config = _run_config(goal, recipe, start, options)
    is_idle = options.dry_run or not is_first()
    with writing_to(out, "train", wait=options.wait, dry_run=is_idle):
        note_facts(fingerprint=config)
        with first_goes_first():
            state = check_run_config(out, config, options.overwrite and is_first())
            if state == "new" and not is_idle:
                begin_training(out, config)
            elif state == "done" and not is_idle:
                remove(out / STAGES)
        if state == "done":
            return TrainReport(out=out, notes=(f"{recipe.name}: done before",))
        if options.dry_run:
            memory = estimate_training(goal, recipe, stage, start)
            said = () if memory is None else (memory.line,)
            plan = _plan(goal, recipe, stage, start, options)
            return TrainReport(out=out, dry_run=True, notes=(*recognised, plan, *said))
        from mmsieve.training.training import TRAININGS  # imports torch

        notes = TRAININGS[goal](
            goal=goal,
            recipe=recipe,
            out=out,
            config=config,
            start_from=start,
            files=options.files,
            pretrain=options.pretrain_files,
            workers=options.workers,
            trackers=options.trackers,
            quiet=options.quiet,
        ).run()
    return TrainReport(out=out, notes=(*recognised, *notes))


def _check_pretrain(goal: str, recipe: BaseRecipe, options: TrainOptions) -> None:
    """Raise RequestError where there is no stage for the files of --pretrain."""
    if options.pretrain is None:
        return
    if goal not in ("classifier", "enhancer"):
        raise RequestError(f"--pretrain: is for classifier and enhancer; train {goal} has --data")
    if stage_of(recipe, "projector") is None:
        raise RequestError(f"--pretrain: recipe {recipe.name} has no stage projector")


def _check_files(goal: str, options: TrainOptions) -> None:
    """Raise RequestError for a file from which nothing can be learned, before anything is."""
    given = [files for files in (options.files, options.pretrain_files) if files is not None]
    if not given:
        return
    from mmsieve.training.data import parse_fields, parse_labelled  # imports torch
    from mmsieve.training.records import find_usable

    for files in given:
        find_usable(files, parse_labelled if goal in ("projector", "classifier") else parse_fields)


def _say_untaught(goal: str, recipe: BaseRecipe) -> None:
    """Stage 1 was left out, as nobody has to notice from the losses."""
    other = " (or train projector, then --start-from)" if goal == "classifier" else ""
    if is_first():
        write(
            f"mmsieve: the projector of {recipe.name} is new and knows nothing: --pretrain "
            f"captions.json teaches it to caption first{other}",
            sys.stderr,
        )


def _run_config(
    goal: str, recipe: BaseRecipe, start_from: Path | None, options: TrainOptions
) -> dict[str, Any]:
    config: dict[str, Any] = {"goal": goal, "recipe": recipe.model_dump(mode="json")}
    if start_from is not None:
        files = {*tensor_files(start_from).values(), start_from / "config.json"}
        config["start_from"] = hash_files(files)
    data = options.files or DataFiles(())
    captions = options.pretrain_files or DataFiles(())
    for name, given in (("data", data.data), ("val", data.val), ("pretrain", captions.data)):
        hashes = [hash_files([one.file]) for one in given]
        if hashes:
            config[name] = hashes if len(hashes) > 1 else hashes[0]
    if any(one.weight != 1 for one in data.data):
        config["data_weight"] = [one.weight for one in data.data]
    return config


def _plan(
    goal: str, recipe: BaseRecipe, stage: AnyStage, start_from: Path | None, options: TrainOptions
) -> str:
    parts = []
    lesson = recipe.lesson if isinstance(recipe, Recipe) else None
    if start_from is None and lesson is not None and lesson.rendered is not None:
        parts.append(f"the tower on {lesson.rendered.groups:,} scenes")
    if (captions := options.pretrain_files) is not None:
        parts.append(f"the projector on {_names(captions)}")
    if (data := options.files) is not None:
        parts.append(f"the {goal} on {_names(data)}")
    elif stage.rendered is not None:
        parts.append(f"the {goal} on texts over {stage.rendered.groups:,} groups of scenes")
    return f"would train: {', then '.join(parts)}"


def _names(files: DataFiles) -> str:
    """The files of a stage, with their weights where they have some."""
    weights = ("" if one.weight == 1 else f" (x {one.weight:g})" for one in files.data)
    return ", ".join(f"{one.file}{w}" for one, w in zip(files.data, weights, strict=True))
