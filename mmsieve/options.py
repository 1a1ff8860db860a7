"""Options that several verbs share, and the ranges of numbers: each declared once.

A range is an annotation (`limit: Positive | None`). The command line checks it when it reads a
word, and `Options`, with types and choices, when an object is made from Python.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAlias,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from cyclopts import CoercionError, Group, Parameter, Token, convert
from cyclopts.validators import Number

from mmsieve.errors import RequestError
from mmsieve.patience import PATIENCE
from mmsieve.stores.paths import StorePath

MODEL = Group("Model", sort_key=1)
INPUT = Group("Input", sort_key=3)
LIMITS = Group("Limits of a sample", sort_key=6)
OUTPUT = Group("Output", sort_key=7)
RUN = Group("Run", sort_key=9)
COMMON = Group("Common options", sort_key=10)
"""Of --help, in the order of work: the model, what is asked of it, input, output, the run."""


def own(title: str) -> Group:
    """A group of --help of what a verb alone is asked: it comes second."""
    return Group(title, sort_key=2)


Model: TypeAlias = Annotated[str, Parameter(group=MODEL)]
Out: TypeAlias = Annotated[Path, Parameter(group=OUTPUT)]


@dataclass(frozen=True)
class Range:
    """A validator of cyclopts that says in words what a number may be."""

    limits: Number
    is_whole: bool = False

    def __call__(self, kind: Any, value: Any) -> None:
        """Raise ValueError for a value outside; None is an option that was not given."""
        if value is None:
            return
        if not isinstance(value, Integral if self.is_whole else Real):
            raise ValueError(f"must be a {'whole ' if self.is_whole else ''}number, {self.words}")
        try:
            self.limits(kind, value)
        except ValueError:
            raise ValueError(f"must be {self.words}") from None

    @property
    def words(self) -> str:
        """What is allowed."""
        limits, words = self.limits, ("above", "at least", "below", "at most")
        if limits.lt == math.inf:
            return "finite"
        bounds = zip(words, (limits.gt, limits.gte, limits.lt, limits.lte), strict=True)
        said = [f"{word} {bound}" for word, bound in bounds if bound not in (None, -math.inf)]
        return " and ".join(said) or "a number"


def number(**limits: float) -> Parameter:
    """The annotation of a number in a range: `gt`, `gte`, `lt`, `lte` as of cyclopts' Number."""
    return Parameter(validator=Range(Number(**limits)))


def whole(**limits: int) -> Parameter:
    """The annotation of a whole number in a range, which may be written 2000, 2_000 or 2e3."""
    return Parameter(converter=_convert, validator=Range(Number(**limits), is_whole=True))


def parse_whole(text: str) -> int | float:
    """A number, an int where it is whole; raises ValueError."""
    try:
        return int(text, 0)
    except ValueError:
        value = float(text)
        return int(value) if value.is_integer() else value


def _convert(kind: Any, tokens: Sequence[Token]) -> int | float | str:
    """What a word stands for; a word that is no number is left to the range, which refuses it."""
    try:
        return parse_whole(tokens[0].value)
    except ValueError:
        return tokens[0].value


def _check_time(kind: object, value: timedelta) -> None:
    if value <= timedelta(0):
        raise ValueError("must be a time above 0, such as 90s, 30m or 2h")


Positive: TypeAlias = Annotated[int, whole(gte=1)]
NotNegative: TypeAlias = Annotated[int, whole(gte=0)]
Share: TypeAlias = Annotated[float, number(gt=0, lte=1)]
"""A part of a whole, and not nothing."""
ZeroToOne: TypeAlias = Annotated[float, number(gte=0, lte=1)]
"""A part of a whole, 0 to 1."""
AboveZero: TypeAlias = Annotated[float, number(gt=0)]


def _convert_time(kind: Any, tokens: Sequence[Token]) -> timedelta:
    """A time as it is written, by cyclopts' own rules; raises ValueError that says them."""
    try:
        return cast(timedelta, convert(timedelta, [tokens[0].value]))
    except CoercionError:
        raise ValueError("must be a time above 0, such as 90s, 30m or 2h") from None


TimeSpan: TypeAlias = Annotated[
    timedelta, Parameter(converter=_convert_time, validator=_check_time)
]
"""How long something may take, written 90s, 30m or 2h."""
Finite: TypeAlias = Annotated[float, number(gt=-math.inf, lt=math.inf)]


def check_value(name: str, value: Any, hint: Any) -> Any:
    """The value as its annotation has it; raises RequestError for one that it doesn't allow."""
    try:
        found = as_declared(value, hint)
        for check in _checks(hint):
            check(hint, found)
    except ValueError as error:
        said = " ".join(f"--{name.replace('_', '-')} {value}".split())[:100]
        more = ", as on the command line" if str(error) == "must be a text" else ""
        raise RequestError(f"{said}: {error}{more}") from None
    return found


def as_declared(value: Any, hint: Any) -> Any:
    """The value as an annotation has it: a path or a time of its text, a list of one; ValueError
    that says what is allowed."""
    allowed = _alternatives(hint)
    for kind, _ in allowed:
        with suppress(ValueError):
            return _as_one(value, kind)
    named = [said for kind, said in allowed if kind is not type(None)]
    plain = [one for one in named if f"{one} or a list of them" not in named]
    words = " or ".join(plain)
    raise ValueError(f"is not {words}" if words.startswith("one of ") else f"must be {words}")


_SEVERAL = (list, tuple, Sequence)
_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    timedelta: "a time above 0, such as 90s, 30m or 2h",
}


@cache
def _alternatives(hint: Any) -> list[tuple[Any, str]]:
    """The types that an annotation allows, and what each is called."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return [one for part in parts for one in _alternatives(part)]
    if kind is Annotated:
        limits = ", ".join(one.words for one in _checks(hint) if isinstance(one, Range))
        found = _alternatives(parts[0])
        return [(k, said if said.endswith(limits) else f"{said}, {limits}") for k, said in found]
    if kind is Literal:
        return [(hint, f"one of {', '.join(map(str, parts))}")]
    if kind in _SEVERAL:
        return [(hint, f"{said} or a list of them") for _, said in _alternatives(parts[0])]
    return [(hint, _WORDS.get(hint, getattr(hint, "__name__", "")))]


def _as_one(value: Any, hint: Any) -> Any:
    """The value as one of an annotation's alternatives has it; ValueError where it isn't so."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    fits = isinstance(value, kind) if isinstance(kind, type) else True
    if kind is Literal:
        fits = isinstance(value, str | int) and value in parts
    elif kind in _SEVERAL:
        several = value if isinstance(value, list | tuple) else [value]
        made = [as_declared(one, parts[0]) for one in several]
        return made if kind is list else tuple(made)
    elif kind in (int, float):  # those of NumPy too
        fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    elif kind is timedelta and isinstance(value, str):
        return _convert_time(kind, [Token(value=value)])
    elif kind in (str, Path) and isinstance(value, str | os.PathLike):
        return value if fits else kind(os.fspath(value))
    if not fits and not (kind is Path and isinstance(value, StorePath)):
        raise ValueError
    return value


@cache
def _checks(hint: Any) -> list[Callable[[Any, Any], Any]]:
    """The validators in an annotation, also in one of its alternatives (`Positive | None`)."""
    found: list[Callable[[Any, Any], Any]] = []
    for extra in getattr(hint, "__metadata__", ()):
        validators: Any = extra.validator if isinstance(extra, Parameter) else ()
        found += validators
    if get_origin(hint) in (Annotated, Union, UnionType):
        found += [check for part in get_args(hint) for check in _checks(part)]
    return found


_hints = cache(partial(get_type_hints, include_extras=True))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options of verbs: making one raises RequestError for what can't be meant."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in _hints(kind).items():
            object.__setattr__(self, name, check_value(name, getattr(self, name), hint))


def _common(text: str) -> Parameter:
    return Parameter(group=COMMON, help=text)


_DRY_RUN = "Say what would be done, and stop: nothing is written."
_OVERWRITE = "Start again: what is there is replaced, also where another request made it."
_WAIT = "Wait for another run that writes to --out; by default that is an error."
_WORKERS = "Processes that prepare data (0: the main one does it)."
_BATCH = "Tokens of a batch, those of images included; by default what suits the device."
Overwrite: TypeAlias = Annotated[bool, _common(_OVERWRITE)]
DryRun: TypeAlias = Annotated[bool, _common(_DRY_RUN)]
Wait: TypeAlias = Annotated[bool, _common(_WAIT)]
Quiet: TypeAlias = Annotated[bool, _common("No progress; only the summary at the end.")]
Limit: TypeAlias = Annotated[Positive | None, _common("Trial run: only the first so many samples.")]
Workers: TypeAlias = Annotated[NotNegative, _common(_WORKERS)]
BatchTokens: TypeAlias = Annotated[Positive | None, Parameter(group=RUN, help=_BATCH)]


@dataclass(frozen=True, kw_only=True)
class CommonOptions(Options):
    """What every verb that does work can be told."""

    dry_run: DryRun = False
    quiet: Quiet = False
    wait: Wait = False


@dataclass(frozen=True, kw_only=True)
class OutputOptions(CommonOptions):
    """Those of verbs whose output can be made anew."""

    overwrite: Overwrite = False


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(OutputOptions):
    """Those of verbs whose shards several machines can share."""

    engine: Annotated[Literal["local", "ray"], Parameter(group=RUN)] = "local"
    """Run on this machine, or on a Ray cluster, whose nodes must reach what is read and written."""
    ray_address: Annotated[str | None, Parameter(group=RUN)] = None
    """Ray cluster to join (`auto` or host:port); by default one is started here."""
    patience: Annotated[TimeSpan, Parameter(group=RUN)] = PATIENCE
    """How long to wait (90s, 30m, 2h): for Ray's cluster, CPUs and models; for a model's servers
    to answer again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray_address is not None and self.engine != "ray":
            raise RequestError("--ray-address is for --engine ray")
