"""models: the bundled and the known released checkpoints."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from mmsieve.models.catalog import CATALOG, Known


@dataclass(frozen=True, kw_only=True)
class ModelsReport:
    """The checkpoints that a user can name."""

    models: tuple[Known, ...] = CATALOG
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty."""

    def summary(self) -> str:
        """A table, as wide as the terminal."""
        table = Table("model", "for", "size", "licence", "trained on", "where", box=None)
        for known in self.models:
            where = "bundled" if known.folder is not None else "hub"
            row = (known.name, known.verb, known.size, known.licence, known.trained_on, where)
            table.add_row(*row)
        console = Console()
        with console.capture() as capture:
            console.print(table)
        return capture.get().rstrip("\n")


def models() -> ModelsReport:
    """List the bundled and the known released models, with size and licence.

    Any other checkpoint of the same families works too: give its folder or Hugging Face id.
    """
    return ModelsReport()
