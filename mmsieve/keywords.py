"""Verbs as a Python user calls them: options as plain keywords, sources as strings or lists.

A verb declares its options in groups, as `--help` shows them: `filter("s", cut=CutOptions(...))`.
From Python each of them may be given on its own too: `filter("s", top_fraction=0.3, out="kept")`.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, wraps
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from mmsieve.errors import RequestError, nearest
from mmsieve.options import check_value

P = ParamSpec("P")
R = TypeVar("R")


def flat_options(verb: Callable[P, R]) -> Callable[..., R]:
    """The verb, which also takes each option by its name, and lists of paths among its sources.

    What is given flat wins over what a group says. Raises RequestError for a name that no group
    has, for a value that is none of those that are declared, and for a source that is no path.
    """

    @wraps(verb)
    def call(*args: Any, **given: Any) -> R:
        return verb(*_sources(verb, args), **_grouped(verb, given))

    return call


def _sources(verb: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Positional arguments, lists of them laid out, where the verb takes any number of paths."""
    kinds = {part.kind for part in inspect.signature(verb).parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        named = zip(args, _hints(verb).items(), strict=False)
        checked = [check_value(name, value, hint) for value, (name, hint) in named]
        return (*checked, *args[len(checked) :])
    laid_out = [one for arg in args for one in (arg if isinstance(arg, list | tuple) else [arg])]
    for one in laid_out:
        if not isinstance(one, str | os.PathLike):
            raise RequestError(
                f"{verb.__name__}: a {type(one).__name__} is no source: give paths or URLs; what "
                "is in memory goes to load_model(MODEL), as samples"
            )
    return tuple(map(os.fspath, laid_out))


def _grouped(verb: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as the verb declares them."""
    parameters = inspect.signature(verb).parameters
    hints = _hints(verb)
    arguments = {n: check_value(n, value, hints[n]) for n, value in given.items() if n in hints}
    left = {name: value for name, value in given.items() if name not in hints}
    for name, group in _groups(verb).items():
        values = {own: left.pop(own) for own in list(left) if own in group.names}
        if values:
            default = parameters[name].default
            before = arguments.get(name, None if default is inspect.Parameter.empty else default)
            arguments[name] = _filled(verb.__name__, group, before, values)
    for name in left:
        known = {*hints, *(own for group in _groups(verb).values() for own in group.names)}
        meant = nearest(name, known)
        words = verb.__name__.replace("_", " ")
        said = f"; did you mean {meant}?" if meant else f": `mmsieve help {words}` lists all"
        raise RequestError(f"{verb.__name__}: no option {name}{said}")
    return arguments


@dataclass(frozen=True)
class _Group:
    """A dataclass of options, and those within it."""

    kind: type[Any]
    hints: dict[str, Any]
    """Its own options, and their types."""
    inner: dict[str, "_Group"]

    @property
    def names(self) -> set[str]:
        """Of all options, at any depth."""
        return {*self.hints, *(name for group in self.inner.values() for name in group.names)}


@cache
def _hints(verb: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that have names of their own, in their order, and their types."""
    hints = get_type_hints(verb, include_extras=True)
    named = inspect.signature(verb).parameters.values()
    return {one.name: hints[one.name] for one in named if one.kind is not one.VAR_POSITIONAL}


@cache
def _groups(verb: Callable[..., Any]) -> dict[str, _Group]:
    """Parameter -> its options, of parameters that are groups of options."""
    found = {name: _group(hint) for name, hint in get_type_hints(verb).items() if name != "return"}
    return {name: group for name, group in found.items() if group is not None}


def _group(hint: Any) -> _Group | None:
    """The options of a type such as `CutOptions | None`; None for any other."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
    kind = next((kind for kind in kinds if is_dataclass(kind)), None)
    if kind is None:
        return None
    hints = get_type_hints(kind, include_extras=True)
    own = {one.name: hints[one.name] for one in fields(kind) if _is_option(hints[one.name])}
    plain = get_type_hints(kind)
    groups = {name: group for name in own if (group := _group(plain[name])) is not None}
    return _Group(kind, {name: plain[name] for name in own if name not in groups}, groups)


def _is_option(hint: Any) -> bool:
    """Whether users may set a field, and not callers alone."""
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return not any(isinstance(one, Parameter) and one.parse is False for one in extras)


def _filled(verb: str, group: _Group, before: Any, values: Mapping[str, Any]) -> Any:
    """Options with these values, in those within them too; all others as they were before."""
    changes = {name: value for name, value in values.items() if name in group.hints}
    for name, inner in group.inner.items():
        below = {own: value for own, value in values.items() if own in inner.names}
        if below:
            changes[name] = _filled(verb, inner, before and getattr(before, name), below)
    try:
        return group.kind(**changes) if before is None else replace(before, **changes)
    except TypeError as error:
        raise RequestError(f"{verb}: {str(error).rpartition('() ')[2]}") from error
