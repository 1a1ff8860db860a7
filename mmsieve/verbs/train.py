"""train: training data -> a checkpoint folder."""

import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.table import check_folder
from mmsieve.train.claim import check_claim
from mmsieve.train.recipe import load_recipe


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """How a training went."""

    out: Path
    seconds: float
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: a training fails as a whole."""

    def summary(self) -> str:
        """What a user should know, the last line with seconds and the output's path."""
        return "\n".join([*self.notes, f"trained in {self.seconds:.1f} s: {self.out}"])


def train_classifier(
    recipe: str,
    *,
    out: Path,
    smoke: bool = False,
    seed: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> TrainReport:
    """Train a quality classifier.

    The same command run twice goes on where the first one stopped.

    Parameters
    ----------
    recipe
        A bundled recipe (unifilter-tiny), or a .toml file.
    out
        Folder of the checkpoint.
    smoke
        A trial of seconds: every stage, next to no training, a useless checkpoint.
    seed
        Another seed than the recipe's, for weights and scenes.
    overwrite
        Start again: what is in the folder is removed.
    dry_run
        Check the recipe, say what would be trained, and stop.
    quiet
        No progress; only the summary.
    """
    started = time.monotonic()
    wanted, out = load_recipe(recipe, smoke, seed), Path(out)
    check_folder(out)
    if find_spec("accelerate") is None:
        raise RequestError("training needs accelerate: pip install 'mmsieve[train]'")
    state = check_claim(out, wanted, overwrite)
    if state == "done" or dry_run:
        notes = [f"{recipe}: done before" if state == "done" else f"would train: {wanted.plan()}"]
    else:
        from mmsieve.train.classifier import Training

        notes = Training(wanted, out, quiet).run()
    return TrainReport(out=out, seconds=time.monotonic() - started, notes=tuple(notes))
