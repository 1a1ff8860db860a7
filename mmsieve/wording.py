"""Numbers as people read them: counts with their nouns, times, rates."""

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def counted(count: int, nouns: str) -> str:
    """`1,234 shards`, and `1 shard`: the noun is given as many are called."""
    return f"{count:,} {nouns.removesuffix('s') if count == 1 else nouns}"


def resumed(count: int, how: str) -> str:
    """A note of a run that goes on: `resumed: 1 shard was done before`."""
    return f"resumed: {counted(count, 'shards')} {'was' if count == 1 else 'were'} {how} before"


def duration(seconds: float) -> str:
    """`0.2 s` (a whole number: `45 s`), `2 min 5 s`, `2 h 10 min`: the two largest units."""
    if seconds < 60:
        return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, size in _UNITS:
        if left >= size or parts:
            parts.append((left // size, unit))
            left %= size
    return " ".join(f"{value} {unit}" for value, unit in parts[:2] if value)


def rate(units: int, seconds: float) -> str:
    """`1,234/s`, `3.2/s`, `12/min`, `5/h`; nothing where nothing was done."""
    if units <= 0 or seconds <= 0:
        return ""
    for unit, size in (("s", 1), ("min", 60), ("h", 3_600)):
        value = units * size / seconds
        if value >= 1 or unit == "h":
            return f"{value:,.0f}/{unit}" if value >= 10 else f"{value:.1f}/{unit}"
    return ""
