"""Numbers and cards -> the page."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmsieve.page import charts
from mmsieve.page.gallery import Content
from mmsieve.page.inputs import Judged
from mmsieve.page.samples import Numbers, Shown

_COLOURS = 5
"""Of pools side by side, in page.css."""


@dataclass(frozen=True)
class Section:
    """What the page says of one table or of one set of decisions."""

    judged: Judged
    numbers: Numbers
    groups: dict[str, list[tuple[Shown, Content]]]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it was made, as name and value; a value that differs between files is left out."""
        headers = self.judged.headers
        facts: list[tuple[str, str]] = [("made by", f"mmsieve {headers[0].version}")]
        for part in ("fingerprint", "notes"):
            first = getattr(headers[0], part)
            for name, value in first.items():
                if all(getattr(header, part).get(name) == value for header in headers):
                    facts.append((name.replace("_", " "), str(value)))
        return facts

    @property
    def incomplete(self) -> list[tuple[str, str]]:
        """Shards of which only a part was read, with the reason."""
        return [
            (header.shard, header.problem or f"trial run of {header.limit} samples")
            for header in self.judged.headers
            if not header.complete and (header.problem or header.limit)
        ]


def render(
    sections: list[Section], metrics: list[tuple[str, dict[str, Any]]], notes: list[str], day: date
) -> str:
    """The whole page. Every text in it is escaped; it has no script and asks for nothing."""
    environment = Environment(
        loader=PackageLoader("mmsieve.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shapes = (charts.bars, charts.ticks, charts.place, charts.columns, charts.middles)
    environment.filters |= {shape.__name__: shape for shape in shapes}
    environment.globals |= {
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
        "small_width": charts.SMALL_WIDTH,
        "small_height": charts.SMALL_HEIGHT,
        "colours": _COLOURS,
    }
    template = environment.get_template("page.html.j2")
    return template.render(sections=sections, metrics=metrics, notes=notes, day=day.isoformat())
