"""The published selection as a plain description, written without the product's code."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def expected(
    rows: Sequence[Row],
    capabilities: Sequence[str],
    target: int,
    above: float = 0,
    weights: Mapping[str, int] | None = None,
) -> list[int]:
    """Numbers of the chosen rows. A row has `styles`, `image_source` and a rating or None each."""
    if not any(row["styles"] for row in rows):  # groups are sources alone
        rows = [{**row, "styles": ["any"]} for row in rows]
    chosen: list[int] = []
    weights = dict.fromkeys(capabilities, 1) | dict(weights or {})
    live = list(capabilities)
    while live and len(chosen) < target:
        together = sum(weights[name] for name in live)
        missing = target - len(chosen)
        quotas = {name: max(missing * weights[name] // together, 1) for name in live}
        gave = []
        for name in live:
            missing = target - len(chosen)
            if missing:
                picks = _call(rows, name, min(quotas[name], missing), above, set(chosen))
                chosen += picks[:missing]
                gave += [name] if picks else []
        live = gave
    return chosen


def _call(rows: Sequence[Row], name: str, quota: int, above: float, gone: set[int]) -> list[int]:
    candidates = [
        number
        for number, row in enumerate(rows)
        if number not in gone
        and row.get("status", "ok") == "ok"
        and row[name] is not None
        and row[name] > above
    ]
    candidates.sort(key=lambda number: -rows[number][name])
    named = {number: _groups(rows[number]) for number in candidates}
    groups: dict[str, list[int]] = {}
    for place in range(max(map(len, named.values()), default=0)):
        for number in candidates:
            if place < len(named[number]):
                groups.setdefault(named[number][place], []).append(number)
    picks: list[int] = []
    debt = 0
    for group in sorted(groups, key=lambda group: (len(groups[group]), group)):
        if len(picks) >= quota:
            break
        wanted = max(quota // len(groups), 1) + debt
        available = [number for number in groups[group] if number not in picks]
        picks += available[:wanted]
        debt = max(wanted - len(available), 0)
    return picks


def _groups(row: Row) -> list[str]:
    styles = [style.strip() for style in row["styles"] or []]
    return list(dict.fromkeys(f"{style}+{row['image_source']}" for style in styles))
