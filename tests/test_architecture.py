"""The shape of the package, read from its source alone: limits that may only get tighter."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

MOST_LINES_OF_A_FILE = 600
MOST_LINES_OF_A_FUNCTION = 72
MOST_FILES = 215
"""Python files, __init__.py apart."""
MOST_LINES = 45_785
PACKAGE = Path(__file__).parents[1] / "mmsieve"
FILES = sorted(PACKAGE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def lines(file: Path) -> int:
    return len(file.read_text("utf-8").splitlines())


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def functions() -> Iterator[tuple[str, Function]]:
    for module, file in MODULES.items():
        for node in ast.walk(tree(file)):
            if isinstance(node, Function):
                yield f"{module}.{node.name}, line {node.lineno}", node


def test_the_package_is_not_larger_than_it_was():
    assert len([file for file in FILES if file.name != "__init__.py"]) <= MOST_FILES
    assert sum(map(lines, FILES)) <= MOST_LINES


def test_files_are_short():
    assert not {name_of(file) for file in FILES if lines(file) > MOST_LINES_OF_A_FILE}


def test_functions_are_short():
    long = [
        place
        for place, node in functions()
        if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]
    assert not long


def test_everything_is_annotated():
    assert not [place for place, node in functions() if not is_annotated(node)]


def is_annotated(node: Function) -> bool:
    """Whether every parameter has a type, but for self and cls, and what comes back has one."""
    given = node.args
    wanted = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    wanted += [part for part in (given.vararg, given.kwarg) if part]
    typed = all(part.annotation or part.arg in ("self", "cls") for part in wanted)
    return typed and (node.returns is not None or node.name == "__init__")


NO_PUBLIC_WAY = (
    "super()._get_train_sampler",
    "os._exit",
    "config._attn_implementation",
    "torch.ops.mkldnn._reorder_linear_weight",
    "torch.ops.mkldnn._linear_pointwise",
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
)
"""What other packages offer under such a name only."""


def test_no_object_looks_into_another():
    """What begins with an underscore is read by its own object only, by tests as well."""
    root = PACKAGE.parent
    folders = ("mmsieve", "tests", "benchmarks", "examples")
    files = [file for folder in folders for file in (root / folder).rglob("*.py")]
    found = [
        f"{file.relative_to(root)}:{node.lineno} {ast.unparse(node)}"
        for file in files
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr)
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert not [place for place in found if not place.endswith(NO_PUBLIC_WAY)]


def test_class_names_are_used_once():
    found: Counter[str] = Counter()
    for file in FILES:
        found.update({node.name for node in ast.walk(tree(file)) if isinstance(node, ast.ClassDef)})
    assert not {name for name, count in found.items() if count > 1}


FLOORS = (
    ("sanitize", "wording"),
    ("errors", "http", "leftovers"),
    ("validated", "manifests", "resources", "patience"),
    ("stores",),
    ("runs",),
    ("options",),
    ("sample", "labels", "keywords", "outputs", "devices", "progress"),
    ("images",),
    ("sources", "reports", "locks"),
    ("watching", "prometheus"),
    ("identity",),
    ("clients", "read"),
    ("tables",),
    ("decisions", "engine", "frames"),
    ("methods",),
    ("methods.unifilter",),
    ("methods.aitqe", "methods.clip", "methods.mlm_filter", "methods.mmssr"),
    ("methods.rules",),
    ("methods.plugins",),
    ("methods.load",),
    ("exporting", "filtering", "generation"),
    ("evaluation", "registry", "selection"),
    ("training",),
    ("reporting",),
    ("auditing",),
    ("verbs",),
    ("synthetic",),
    ("usage",),
    ("cli",),
    ("__init__", "__main__"),
)
"""Places of the package from the ground up. What is imported, at once or in a function, lies in the
same place or on a lower floor, so that no arrow goes up and none in a circle."""
FLOOR = {place: number for number, floor in enumerate(FLOORS) for place in floor}


def place_of(module: str) -> str:
    """The longest name in FLOORS that a module lies in."""
    inside = module.removeprefix("mmsieve").removeprefix(".") or "__init__"
    parts = inside.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next(name for name in names if name in FLOOR)


def test_no_arrow_goes_up():
    wrong = [
        f"{module} -> {target}"
        for module, file in MODULES.items()
        for target in imported(module, ast.walk(tree(file)))
        if place_of(module) != place_of(target)
        and FLOOR[place_of(target)] >= FLOOR[place_of(module)]
    ]
    assert not wrong


def test_the_core_finds_the_drawn_world_through_the_registry_alone():
    naming = {
        module
        for module, file in MODULES.items()
        if "synthetic" in file.read_text("utf-8").replace("synthetic/", "")
        and place_of(module) != "synthetic"
    }
    assert naming <= {"mmsieve", "mmsieve.registry"}


def test_no_modules_import_each_other():
    """No circle of modules, by what is imported when they are."""
    arrows = {
        module: set(imported(module, at_import(tree(MODULES[module]).body))) for module in MODULES
    }
    while free := {module for module, targets in arrows.items() if not targets & arrows.keys()}:
        for module in free:
            del arrows[module]
    assert not arrows, f"circles among {sorted(arrows)}"


def imported(module: str, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The package's own modules that the imports among a module's nodes name."""
    file = MODULES[module]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                folder = module if file.name == "__init__.py" else module.rpartition(".")[0]
                above = folder.split(".")[: len(folder.split(".")) - node.level + 1]
                origin = ".".join([*above, origin] if origin else above)
            inside = {f"{origin}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from inside
            if len(inside) < len(node.names) and origin in MODULES:
                yield origin


def at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: none of functions and of TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from at_import(node.orelse)
        elif not isinstance(node, Function):
            for field in ("body", "orelse", "finalbody", "handlers"):
                parts = getattr(node, field, [])
                yield from at_import([part for part in parts if isinstance(part, ast.AST)])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a: int) -> int: ...", True),
        ("def f(a) -> int: ...", False),
        ("def f(a: int): ...", False),
        ("def f(*a, **b: int) -> int: ...", False),
    ],
)
def test_what_counts_as_annotated(source, found):
    assert is_annotated(ast.parse(source).body[0]) is found


def test_what_counts_as_imported_at_once():
    source = """
import a
if TYPE_CHECKING:
    import b
try:
    import c
except ImportError:
    import d
def f():
    import e
class G:
    import h
"""
    names = [node.names[0].name for node in at_import(ast.parse(source).body)]
    assert names == ["a", "c", "d", "h"]
