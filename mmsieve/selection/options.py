"""What a selection is asked for."""

import ast
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from cyclopts import Parameter, Token

from mmsieve.errors import RequestError
from mmsieve.options import Options, Positive, number, own, parse_whole, whole

Strategy: TypeAlias = Literal["mmssr", "random", "top-mean", "per-source"]
Spelling: TypeAlias = Literal["exact", "strict"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
SPELLINGS: tuple[Spelling, ...] = get_args(Spelling)
Amount: TypeAlias = int | float
"""An int is a count, a float a fraction."""
_SEEDS = 2**63
_Word = TypeVar("_Word", bound=str)


def parse_amount(text: str) -> Amount:
    """A count, or with a dot a fraction; raises ValueError."""
    return float(text) if "." in text else parse_whole(text)


def _convert(kind: type, tokens: Sequence[Token]) -> Any:
    try:
        return parse_amount(tokens[0].value)
    except ValueError as error:
        fix = "give a count, or with a dot a fraction (0.3: 30%)"
        raise ValueError(f"{tokens[0].value}: {fix}") from error


@Parameter(name="*", group=own("Choice"))
@dataclass(frozen=True, kw_only=True)
class SelectOptions(Options):
    """How large a subset, and how it is chosen."""

    budget: Annotated[Amount | None, Parameter(converter=_convert)] = None
    """How many samples: a count, or with a dot a fraction of all rows (0.3: 30%), rounded down."""
    budget_tokens: Positive | None = None
    """How many text and image tokens instead (the table's column num_tokens)."""
    capabilities: str | None = None
    """Columns of ratings, in the order in which they choose (a,b,...); by default those of the 14
    capabilities that there are."""
    above: Annotated[float, number(gte=-math.inf)] = 0.0
    """Only ratings strictly above this number count."""
    weights: str | None = None
    """Shares of the capabilities (ocr=2,stem=1); those not named have 1."""
    source_quota: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """SOURCE=N or SOURCE=0.1: at most so many samples, or so large a part of the budget, from an
    image source. May be repeated."""
    require: Path | None = None
    """File of keys, one a line, that are chosen first, whatever their ratings."""
    exclude: Path | None = None
    """File of keys, one a line, that are never chosen."""
    strategy: Strategy = "mmssr"
    """mmssr: the published selection. For comparison: random; top-mean (the highest means of the
    ratings); per-source (from each image source the same number, at random)."""
    seed: Annotated[int, whole(gte=0, lt=_SEEDS)] = 0
    """Of random and per-source."""
    styles: Spelling = "exact"
    """exact: a style's text as it stands, trimmed. strict: spellings of the nine styles that differ
    in case or in full-width characters are the same style, and any other is none."""

    def check(self) -> None:
        """Refuse what can't be meant, from the request alone."""
        if (self.budget is None) == (self.budget_tokens is None):
            fix = "one of --budget N (or 0.3: 30%) and --budget-tokens N"
            raise RequestError(f"say how much: {fix}")
        if isinstance(self.budget, float) and not 0 < self.budget <= 1:
            raise RequestError(
                f"--budget {self.budget}: a fraction must be above 0 and at most 1.0; a number of "
                "samples has no dot"
            )
        if self.budget is not None and self.budget <= 0:
            raise RequestError(f"--budget {self.budget}: must be at least 1")
        if self.weights is not None and self.strategy != "mmssr":
            raise RequestError(f"--weights are for --strategy mmssr, not {self.strategy}")
        self.quotas(1)
        for path in (self.require, self.exclude):
            if path is not None:
                read_keys(path)

    def names(self) -> list[str] | None:
        """The capabilities that were named; raises RequestError where one comes twice."""
        if self.capabilities is None:
            return None
        names = [name.strip() for name in self.capabilities.split(",")]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or not all(names):
            what = f"names {twice} twice" if all(names) else "an empty name"
            raise RequestError(f"--capabilities {self.capabilities}: {what}; say a,b,...")
        return names

    def shares(self, capabilities: Sequence[str]) -> list[Fraction]:
        """The share of each capability; raises RequestError for weights that can't be meant."""
        shares = dict.fromkeys(capabilities, Fraction(1))
        for entry in self.weights.split(",") if self.weights is not None else []:
            name, _, value = entry.rpartition("=")
            name = name.strip()
            if name not in shares:
                raise RequestError(
                    f"--weights {self.weights}: {name or entry!r} is no capability of this "
                    f"selection ({', '.join(capabilities)}); say ocr=2,stem=1"
                )
            try:
                shares[name] = Fraction(value.strip())
            except (ValueError, ZeroDivisionError):
                shares[name] = Fraction(0)
            if shares[name] <= 0:
                raise RequestError(f"--weights {self.weights}: {entry} must be a number above 0")
        return list(shares.values())

    def wanted(self, rows: int) -> int:
        """The budget in samples, or in tokens."""
        if self.budget_tokens is not None:
            return self.budget_tokens
        assert self.budget is not None, "checked"
        return _part(self.budget, rows)

    def quotas(self, budget: int) -> dict[str, int]:
        """Source -> how many of its samples may be chosen at most."""
        quotas: dict[str, int] = {}
        for entry in self.source_quota:
            name, mark, value = entry.rpartition("=")
            try:
                amount = parse_amount(value)
            except ValueError:
                amount = -1
            if not mark or amount < 0 or (isinstance(amount, float) and not amount <= 1):
                fix = "say SOURCE=N, or SOURCE=0.1 for a part of the budget"
                raise RequestError(f"--source-quota {entry}: {fix}")
            if isinstance(amount, float) and self.budget_tokens is not None:
                fix = "with --budget-tokens say a number of samples"
                raise RequestError(f"--source-quota {entry}: {fix}")
            quotas[name] = _part(amount, budget)
        return quotas

    def fingerprint(self) -> dict[str, str]:
        """The request by names and values; of files of keys what is in them."""
        asked = {n: v for n, v in asdict(self).items() if v is not None and v != ()}
        for name in ("require", "exclude"):
            if name in asked:
                keys = "\n".join(read_keys(asked[name]))
                asked[name] = hashlib.sha256(keys.encode()).hexdigest()
        return {name: str(value) for name, value in asked.items()}

    @classmethod
    def of_fingerprint(cls, asked: Mapping[str, str]) -> "SelectOptions":
        """The request that a fingerprint is of, but for its files of keys; raises ValueError."""
        budget, tokens = asked.get("budget"), asked.get("budget_tokens")
        quotas = ast.literal_eval(asked.get("source_quota", "()"))
        options = cls(
            budget=None if budget is None else parse_amount(budget),
            budget_tokens=None if tokens is None else int(tokens),
            capabilities=asked.get("capabilities"),
            above=float(asked.get("above", "0")),
            weights=asked.get("weights"),
            source_quota=tuple(map(str, quotas)),
            strategy=_one_of(STRATEGIES, asked.get("strategy")),
            seed=int(asked.get("seed", "0")),
            styles=_one_of(SPELLINGS, asked.get("styles")),
        )
        try:
            options.check()
        except RequestError as error:
            raise ValueError(str(error)) from error
        return options


def _one_of(words: Sequence[_Word], asked: str | None) -> _Word:
    """The word that was asked for; raises ValueError where there is no such."""
    found = next((word for word in words if word == asked), None)
    if found is None:
        raise ValueError(f"{asked} is none of {', '.join(words)}")
    return found


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line, sorted; raises RequestError where it can't be read."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: can't be read as keys, one a line: {error}") from error
    return sorted({line for line in lines if line})


def _part(amount: Amount, whole: int) -> int:
    """A count as it is; of a fraction its part, rounded down, of the number as it was typed."""
    return amount if isinstance(amount, int) else math.floor(Fraction(repr(amount)) * whole)
