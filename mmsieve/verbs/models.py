"""models: the bundled and the known released checkpoints."""

from dataclasses import dataclass

from mmsieve.methods.folders import BASELINES, CATALOG, Known
from mmsieve.reports import Printed


@dataclass(frozen=True, kw_only=True)
class ModelsReport(Printed):
    """The checkpoints that a user can name."""

    models: tuple[Known, ...] = CATALOG

    def summary(self) -> str:
        """A few lines per model; names stand alone, to be copied."""
        lines = [line for known in self.models for line in _lines(known)]
        baselines = [f"    {name:<18}{what}" for name, what in BASELINES.items()]
        return "\n".join([*lines, "to compare with:", *baselines])


def _lines(known: Known) -> list[str]:
    where = "in the package" if known.folder is not None else "on the Hugging Face hub"
    return [
        known.name,
        f"    for {known.verb}; {known.size}; {known.licence}; {where}",
        f"    trained on {known.trained_on}",
    ]


def list_models() -> ModelsReport:
    """List the bundled and the known released models, with size and licence.

    Any other checkpoint of the same families works too: give its folder or Hugging Face id.
    """
    return ModelsReport()
