"""Public names: what they are, what they take, what they hold."""

import dataclasses
import enum
import inspect
import re
from typing import Any, get_args, get_type_hints

import mmsieve

from .recording import check_text


def test_public_names_are_as_recorded():
    parts = [_described(name, getattr(mmsieve, name)) for name in sorted(mmsieve.__all__)]
    check_text("names.txt", "\n".join(parts))


def _described(name: str, value: Any) -> str:
    if inspect.isfunction(value):
        return f"function {name}\n{_parameters(value)}"
    bases = [base.__name__ for base in value.__bases__ if base is not object]
    title = f"class {name}({', '.join(bases)})" if bases else f"class {name}"
    if issubclass(value, enum.Enum):
        return f"{title}\n" + "".join(f"    {part.name} = {part.value!r}\n" for part in value)
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    types = get_type_hints(value)
    lines = [f"    {part.name}: {_type(types[part.name])}{_default(part)}\n" for part in fields]
    if name.endswith("Options"):  # what a user gives; what they do is for the verbs
        return title + "\n" + "".join(lines)
    for member, found in inspect.getmembers(value):
        if member.startswith("_") or not _is_ours(found):
            continue
        if isinstance(found, property):
            lines.append(f"    property {member}\n")
        else:
            lines.append(f"    method {member}\n{_parameters(found, '        ')}")
    return title + "\n" + "".join(lines)


def _is_ours(found: Any) -> bool:
    """Whether a member is a method or a property of this product, not one of a base of Python's."""
    if isinstance(found, property):
        return True
    is_method = inspect.isfunction(found) or inspect.ismethod(found)
    return is_method and found.__module__.split(".")[0] == "mmsieve"


def _parameters(function: Any, indent: str = "    ") -> str:
    signature = inspect.signature(function)
    types = get_type_hints(function)
    lines = []
    for part in signature.parameters.values():
        if part.name == "self":
            continue
        name = f"*{part.name}" if part.kind is part.VAR_POSITIONAL else part.name
        name += " (by name)" if part.kind is part.KEYWORD_ONLY else ""
        default = "" if part.default is part.empty else f" = {_shown(part.default)}"
        lines.append(f"{indent}{name}: {_type(types.get(part.name, Any))}{default}\n")
    return "".join([*lines, f"{indent}-> {_type(types['return'])}\n"])


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f" = {_shown(field.default_factory())}"
    return "" if field.default is dataclasses.MISSING else f" = {_shown(field.default)}"


def _type(annotation: Any) -> str:
    """A type in words, whatever module it is in."""
    is_plain = inspect.isclass(annotation) and not get_args(annotation)
    text = annotation.__name__ if is_plain else str(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Za-z_])", "", text)


def _shown(value: Any) -> str:
    """A default; options with only their own defaults are their class's name."""
    if dataclasses.is_dataclass(value):
        assert value == type(value)()
        return f"{type(value).__name__}()"
    shown = repr(value)
    return shown if len(shown) < 80 else "..."
