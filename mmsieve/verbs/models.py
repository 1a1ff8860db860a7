"""models: the bundled and the known released checkpoints, and installed plug-ins."""

from dataclasses import dataclass, field

from mmsieve.errors import RequestError
from mmsieve.methods.folders import BASELINES, CATALOG, Known
from mmsieve.methods.plugins import list_plugins
from mmsieve.reports import Printed


@dataclass(frozen=True, kw_only=True)
class ModelsReport(Printed):
    """The checkpoints that a user can name."""

    models: tuple[Known, ...] = CATALOG
    plugins: dict[str, str] = field(default_factory=dict)
    """Name of each installed plug-in -> what its package says of it, or why it can't be used."""

    def summary(self) -> str:
        """A few lines per model; names stand alone, to be copied."""
        lines = []
        for known in self.models:
            where = "in the package" if known.folder is not None else "on the Hugging Face hub"
            lines += [known.name, f"    for {known.verb}; {known.size}; {known.licence}; {where}"]
            lines.append(f"    trained on {known.trained_on}")
        width = max(map(len, [*BASELINES, *self.plugins])) + 2
        baselines = [f"    {name:<{width}}{what}" for name, what in BASELINES.items()]
        plugins = [f"    {name:<{width}}{what}" for name, what in self.plugins.items()]
        lines += ["to compare with:", *baselines]
        return "\n".join([*lines, *(["plug-ins:", *plugins] if plugins else [])])


def list_models() -> ModelsReport:
    """List the bundled and the known released models, with size and licence.

    Any other checkpoint of the same families works too: give its folder or Hugging Face id.
    Scorers that other packages install come last.
    """
    plugins: dict[str, str] = {}
    for plugin in list_plugins():
        try:
            plugin.load()
        except RequestError as error:
            plugins[plugin.name] = str(error)
        else:
            plugins[f"{plugin.name}:MODEL"] = f"{plugin.summary} ({plugin.package})"
    return ModelsReport(plugins=plugins)
