"""A training in a folder: a start, then stages, each kept when it is whole: a rerun goes on."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mmsieve.train.claim import Claim, write_claim
from mmsieve.train.options import DataFiles
from mmsieve.train.processes import processes
from mmsieve.train.recipe import BaseRecipe
from mmsieve.train.stages import Stage, run_stage

_LOG = "log.json"


@dataclass(frozen=True, kw_only=True)
class Training(ABC):
    """What to train, and where: `out` ends up as a checkpoint in the published layout.

    `training.json` beside it has the claim and each stage's log. Until then `out/stages` holds what
    has been reached.
    """

    goal: str
    """The last stage."""
    recipe: BaseRecipe
    out: Path
    claim: Claim
    start_from: Path | None = None
    """A checkpoint instead of the recipe's start."""
    files: DataFiles | None = None
    """Instead of rendered data."""
    workers: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)
    quiet: bool = False

    @property
    @abstractmethod
    def steps(self) -> dict[str, Callable[[Path], list[str]]]:
        """Stage -> what carries it out into a folder, and returns notes; in order."""

    @abstractmethod
    def write_final(self, last: Path, folder: Path) -> None:
        """Write the last stage's checkpoint to a folder in the wanted number format."""

    def run(self) -> list[str]:
        """Train what is not trained yet; returns what a user should know."""
        if processes().is_main_process:
            self.stages.mkdir(parents=True, exist_ok=True)
        notes: list[str] = []
        for name, make in self.steps.items():
            place = self.stages / name
            done = place.is_dir()
            processes().wait_for_everyone()
            if done:
                notes.append(f"resumed: stage {name} was done before")
            else:
                notes += make(place)
                processes().wait_for_everyone()
        if processes().is_main_process:
            self._publish()
        processes().wait_for_everyone()
        return notes

    @property
    def stages(self) -> Path:
        """Folder of the stages."""
        return self.out / "stages"

    def before(self, goal: str) -> Path:
        """The checkpoint that a stage starts from; seeds what the stage draws at random."""
        torch.manual_seed(self.recipe.seed)
        names = list(self.steps)
        place = names.index(goal)
        found = self.stages / names[place - 1] if place else self.start_from
        assert found is not None
        return found

    def train(self, stage: Stage, folder: Path, save: Callable[[Path], None]) -> None:
        """Run a stage; `save` writes the model, which then holds what was learnt."""
        log, state = run_stage(stage, self.stages / f"{stage.name}-states", self.quiet)
        if not processes().is_main_process:
            return

        def write(place: Path) -> None:
            stage.objective.cpu().load_state_dict(state)
            save(place)
            (place / _LOG).write_text(json.dumps(log))

        write_whole(folder, write)

    def _publish(self) -> None:
        """The last stage's checkpoint to `out`, config.json last."""
        made = self.stages / "half"
        self.write_final(self.stages / self.goal, made)
        logs = {
            name: json.loads(file.read_text("utf-8"))
            for name in self.steps
            if (file := self.stages / name / _LOG).is_file()
        }
        write_claim(self.out, self.claim, logs)
        for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(self.out / file.name)
        shutil.rmtree(self.stages)


def write_whole(place: Path, make: Callable[[Path], None]) -> None:
    """A folder that is there is whole: it gets its name when all is in it."""
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    make(temporary)
    temporary.replace(place)
