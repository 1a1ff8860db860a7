"""Numbers and cards -> the page."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmsieve.page.gallery import Content
from mmsieve.page.inputs import Judged
from mmsieve.page.numbers import Bin, Numbers, Shown

_WIDTH, _HEIGHT = 720.0, 180.0


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
    environment.filters["bars"] = bars
    environment.filters["ticks"] = ticks
    environment.filters["place"] = place
    template = environment.get_template("page.html.j2")
    return template.render(
        sections=sections,
        metrics=metrics,
        notes=notes,
        day=day.isoformat(),
        width=_WIDTH,
        height=_HEIGHT,
    )


def bars(bins: list[Bin]) -> list[dict[str, float]]:
    """Rectangles of a histogram: x, width, and per bar y and height of kept and dropped."""
    most = max(one.kept + one.dropped for one in bins)
    step = _WIDTH / len(bins)
    made = []
    for index, one in enumerate(bins):
        kept, dropped = (n * _HEIGHT / most for n in (one.kept, one.dropped))
        made.append(
            {
                "x": round(index * step + 0.5, 2),
                "width": round(step - 1, 2),
                "kept_y": round(_HEIGHT - kept, 2),
                "kept": round(kept, 2),
                "dropped_y": round(_HEIGHT - kept - dropped, 2),
                "dropped": round(dropped, 2),
            }
        )
    return made


def ticks(bins: list[Bin]) -> list[tuple[float, str]]:
    """Places and labels below a histogram, at most about eight."""
    low, high = bins[0].low, bins[-1].high
    step = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 100, 1e4, 1e9) if (high - low) / s <= 8)
    first = -(-low // step)
    count = int((high - first * step) // step) + 1
    values = [(first + i) * step for i in range(count)]
    return [(place(bins, value), f"{value:g}") for value in values]


def place(bins: list[Bin], score: float) -> float:
    """Where a score lies below a histogram."""
    low, high = bins[0].low, bins[-1].high
    return round((score - low) / (high - low) * _WIDTH, 2)
