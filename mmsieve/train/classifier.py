"""Train a quality classifier from nothing: a tower that reads scenes, then all of it together."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mmsieve.methods.load import load_unifilter
from mmsieve.methods.unifilter import UniFilter
from mmsieve.models.classifier import QualityClassifier
from mmsieve.models.storage import load_classifier, save_classifier
from mmsieve.train.cells import CLASSES, RenderedCells, collate_cells
from mmsieve.train.claim import write_claim
from mmsieve.train.data import RenderedGroups, collate
from mmsieve.train.objectives import QualityObjective, TowerObjective
from mmsieve.train.recipe import Recipe
from mmsieve.train.stages import Stage, run_stage
from mmsieve.train.start import write_start


@dataclass(frozen=True)
class Training:
    """A training in a folder of its own; finished stages are kept, so that a rerun goes on.

    `out` ends up as a checkpoint in the published layout, with `training.json` beside it: the
    recipe, and each stage's log. Until then `out/stages` holds what has been reached.
    """

    recipe: Recipe
    out: Path
    quiet: bool = False

    def run(self) -> list[str]:
        """Train what is not trained yet; returns what a user should know."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_claim(self.out, self.recipe, {})
        notes = []
        for name, make in (("start", self._start), ("tower", self._tower), ("joint", self._joint)):
            place = self._stages / name
            if place.is_dir():
                notes.append(f"resumed: stage {name} was done before")
            else:
                _write_whole(place, make)
        self._publish()
        return notes

    @property
    def _stages(self) -> Path:
        return self.out / "stages"

    def _start(self, folder: Path) -> None:
        write_start(folder, self.recipe.architecture, self.recipe.seed)

    def _tower(self, folder: Path) -> None:
        annotator, model = self._open("start")
        wanted = self.recipe.tower
        size = annotator.checkpoint.image.size
        objective = TowerObjective(model, annotator.checkpoint.image, CLASSES)
        self._train(
            Stage(
                name="tower",
                objective=objective,
                data=RenderedCells(wanted, self.recipe.seed, size),
                collate=collate_cells,
                optimisation=wanted,
                seed=self.recipe.seed,
            ),
            folder,
            annotator,
            model,
        )

    def _joint(self, folder: Path) -> None:
        annotator, model = self._open("tower")
        wanted = self.recipe.joint
        objective = QualityObjective(
            model, annotator.checkpoint.image, wanted.captioning, wanted.wrong_words
        )
        self._train(
            Stage(
                name="joint",
                objective=objective,
                data=RenderedGroups(annotator.preparer(), wanted, self.recipe.seed),
                collate=partial(collate, image_tokens=annotator.checkpoint.image_tokens),
                optimisation=wanted,
                slow=tuple(model.model.vision_tower.parameters()),
                slow_rate=wanted.tower_rate,
                seed=self.recipe.seed,
            ),
            folder,
            annotator,
            model,
        )

    def _open(self, stage: str) -> tuple[UniFilter, QualityClassifier]:
        """The checkpoint of a stage, ready to be trained further."""
        torch.manual_seed(self.recipe.seed)
        annotator = load_unifilter(str(self._stages / stage))
        return annotator, load_classifier(annotator.checkpoint).requires_grad_(True)

    def _train(
        self, stage: Stage, folder: Path, annotator: UniFilter, model: QualityClassifier
    ) -> None:
        log = run_stage(stage, self._stages / f"{stage.name}-states", self.quiet)
        save_classifier(model.cpu(), folder, annotator.checkpoint, annotator.checkpoint.own)
        (folder / _LOG).write_text(json.dumps(log))

    def _publish(self) -> None:
        """The last stage's checkpoint in half precision to `out`, config.json last."""
        annotator, model = self._open("joint")
        made = self._stages / "half"
        save_classifier(model.half(), made, annotator.checkpoint, annotator.checkpoint.own)
        logs = {
            name: json.loads((self._stages / name / _LOG).read_text("utf-8"))
            for name in ("tower", "joint")
        }
        write_claim(self.out, self.recipe, logs)
        for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(self.out / file.name)
        shutil.rmtree(self._stages)


_LOG = "log.json"


def _write_whole(place: Path, make: Callable[[Path], None]) -> None:
    """A folder that is there is whole: it gets its name when all is in it."""
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    make(temporary)
    temporary.replace(place)
