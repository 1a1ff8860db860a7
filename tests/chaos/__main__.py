"""Kills, disturbs or doubles the scenarios' commands; prints a line per problem, and a summary."""

import argparse
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.chaos.faults import Ends, Facts, draw
from tests.chaos.forked import Outcome, Run, differences, tree, warm
from tests.chaos.scenarios import SCENARIOS, Scenario, normalise
from tests.chaos.storage import Orders, storage_server


class Arena:
    """A scenario's folder, in which its command can be run again and again."""

    def __init__(self, scenario: Scenario, folder: Path, teacher: str, storage: str) -> None:
        self.scenario, self._root = scenario, folder
        self.folder = folder / "work"
        self._servers = {"teacher": teacher, "storage": storage}
        self.orders = orders_in(folder) if scenario.storage else None
        scenario.write_files(self.folder)
        (self.folder / "made").mkdir()
        for command in scenario.before:
            done = self.run(command)
            if done.code:
                raise SystemExit(f"{command}: {done.code}\n{done.said}")
            warm(done.modules)
        self._input = folder / "input"
        shutil.copytree(self.folder, self._input)

    def start(self, command: str, name: str = "run", **given: Any) -> Run:
        """Begin a command."""
        words = shlex.split(command.format(**self._servers))
        return Run(words, self.folder, self._root / name, **given)

    def run(self, command: str, **given: Any) -> Outcome:
        """Run a command to its end, or to its death."""
        return self.start(command, **given).wait()

    def clear(self) -> None:
        """Have the folder as it was before the command."""
        shutil.rmtree(self.folder / "made")
        shutil.copytree(self._input / "made", self.folder / "made")

    @property
    def made(self) -> list[Path]:
        """What a command has written."""
        return sorted((self.folder / "made").rglob("*"))

    @property
    def read(self) -> list[Path]:
        """The data that a command may read: no recipes, and nothing where it reads none."""
        kinds = {".tar", ".parquet", ".json"}
        found = [p for p in sorted((self.folder / "in").rglob("*")) if p.suffix in kinds]
        return found or [self.folder / "in" / "recipe.py"]

    def restore(self, folder: Path | None) -> None:
        """Have a folder of the input as it was, to the times of its files."""
        if folder is not None:
            shutil.rmtree(folder)
            shutil.copytree(self._input / folder.relative_to(self.folder), folder)

    def tree(self) -> dict[str, Any]:
        """What is there now."""
        return tree(self.folder, normalise)


def kills(arena: Arena, every: int) -> list[str]:
    """Kill before each change (of every so many), and again run the command; returns problems."""
    command = arena.scenario.command
    warm(arena.run(command).modules)
    arena.clear()
    whole = arena.run(command)
    wanted = arena.tree()
    if whole.code:
        return [f"undisturbed: {whole.code}: {whole.said}"]
    problems = []
    points = range(1, len(whole.changes) + 1)[:: max(1, every)]
    for point in points:
        arena.clear()
        killed = arena.run(command, kill_at=point)
        place = f"{point}/{len(whole.changes)} before {whole.changes[point - 1]}"
        if killed.code != -9:
            problems.append(f"{place}: not killed, {killed.code}: {killed.said}")
            continue
        again = arena.run(command)
        if again.code != whole.code:
            problems.append(f"{place}: exit {again.code}: {again.said.strip()}")
        elif others := differences(wanted, arena.tree()):
            problems.append(f"{place}: differs: {', '.join(others[:5])}")
    print(f"{len(points)} kills, {len(problems)} problems", flush=True)
    return problems


def faults(arena: Arena, name: str, count: int, seed: int, ends: Ends) -> list[str]:
    """Let so many runs meet a fault each, and again run the command; returns problems."""
    command = arena.scenario.command
    arena.clear()
    warm(arena.run(command).modules)
    arena.clear()
    started = time.monotonic()
    whole = arena.run(command)
    seconds = time.monotonic() - started
    wanted, seed_words = arena.tree(), f"{command} {seed}"
    largest = max((p.stat().st_size for p in arena.made if p.is_file()), default=0)
    facts = Facts(seconds, largest, arena.read, arena.orders, arena.scenario.devices)
    problems: list[str] = []
    numbers = list(ends.left(name, seed, count))
    for number in numbers:
        arena.clear()
        fault = draw(number, seed_words, facts)
        met = arena.run(command, fault=fault)
        arena.restore(fault.folder)
        again = arena.run(command)
        found = []
        if met.code not in fault.codes or "Traceback" in met.said or "internal" in met.said:
            found.append(f"exit {met.code}: {met.said.strip()}")
        if again.code != whole.code:
            found.append(f"then exit {again.code}: {again.said.strip()}")
        elif others := differences(wanted, arena.tree()):
            found.append(f"then differs: {', '.join(others[:5])}")
        ends.add(name, seed, number, not found)
        problems += [f"fault {number}: {fault.words}: {problem}" for problem in found]
    print(f"{len(numbers)} faults, {len(problems)} problems", flush=True)
    return problems


def pairs(arena: Arena, count: int, seed: int) -> list[str]:
    """Start two runs at about the same time; whatever ends with 0 must have left what it should.

    Both have the same options or the second other ones, let the other end (--wait) or not, and
    begin at once or at a moment of the other's run; some start again (--overwrite).
    """
    one, other = arena.scenario.command, arena.scenario.other
    wanted, seconds = _undisturbed(arena)
    rng = random.Random(f"{arena.scenario.command} {seed}")
    ended: Counter[tuple[int, ...]] = Counter()
    problems = []
    for number in range(count):
        arena.clear()
        together = arena.scenario.together
        chosen = [one, other if together else rng.choice([one, other])]
        rng.shuffle(chosen)
        delays = [0.0, rng.choice([0.0, rng.uniform(0, seconds)])]
        options = rng.choice(["", "", " --wait", " --wait", " --overwrite", " --overwrite --wait"])
        runs = [
            arena.start(command + options, f"run{n}", delay=delays[n])
            for n, command in enumerate(chosen)
        ]
        outcomes = [run.wait() for run in runs]
        codes = tuple(outcome.code for outcome in outcomes)
        ended[codes] += 1
        found = _judge(chosen, outcomes, arena.tree(), wanted, together, "over" in options)
        place = f"pair {number} {codes} {chosen}{options} after {delays[1]:.3f} s"
        problems += [f"{place}: {problem}" for problem in found]
    counts = ", ".join(f"{number} ended {codes}" for codes, number in sorted(ended.items()))
    print(f"{count} pairs, {counts}, {len(problems)} problems", flush=True)
    return problems


def _undisturbed(arena: Arena) -> tuple[dict[str, dict[str, Any]], float]:
    """What each of the two commands leaves when it is alone, and the seconds that one takes."""
    one, other = arena.scenario.command, arena.scenario.other
    wanted: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    for command in (one, one, other):
        if not arena.scenario.together or command == one:
            arena.clear()
        started = time.monotonic()
        done = arena.run(command)
        seconds = time.monotonic() - started
        if done.code:
            raise SystemExit(f"{command}: {done.code}: {done.said}")
        warm(done.modules)
        wanted[command] = arena.tree()
    if arena.scenario.together:
        wanted[one] = wanted[other]
    return wanted, seconds


def _judge(
    chosen: Sequence[str],
    outcomes: Sequence[Outcome],
    left: dict[str, Any],
    wanted: dict[str, dict[str, Any]],
    together: bool,
    overwrite: bool,
) -> Iterator[str]:
    """What is wrong about how two runs ended, and about what they left."""
    good = {command for command, outcome in zip(chosen, outcomes, strict=True) if outcome.code == 0}
    if not good or (together and len(good) < len(chosen)):
        yield f"didn't end well: {' / '.join(outcome.said.strip() for outcome in outcomes)}"
    elif len(good) > 1 and not together and not overwrite:
        yield "both ended well, though they ask for different things"
    elif all(others := [differences(wanted[command], left) for command in sorted(good)]):
        yield f"differs: {', '.join(min(others, key=len)[:5])}"
    for outcome in outcomes:
        if outcome.code not in (0, 2) or "Traceback" in outcome.said:
            yield f"{outcome.code}: {outcome.said.strip()}"


@contextmanager
def teacher_server() -> Iterator[str]:
    """The address of a teacher that answers well, in a process of its own."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it says who was killed while it answered
        from tests.helpers.well_behaved import serve

        with serve() as server:
            os.write(writing, server.base_url("openai").encode())
            time.sleep(3600)
        os._exit(0)
    address = os.read(reading, 1000).decode()
    try:
        yield address
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)


def main() -> int:
    """Kill, disturb or double what is asked for; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("what", choices=["kills", "faults", "both", "pairs"])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all, if none is named")
    parser.add_argument("--every", type=int, default=1, help="kill before each so many changes")
    parser.add_argument("--count", type=int, default=200, help="pairs, shared by the scenarios")
    parser.add_argument("--faults", type=int, default=100, help="faults, of each scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep how faults ended, and leave those out")
    asked = parser.parse_args()
    fitting = [name for name, each in SCENARIOS.items() if _fits(each, asked.what)]
    names = asked.scenarios or fitting
    key = "sk-test-0123456789abcdef"
    os.environ |= {"OPENAI_API_KEY": key, "MMSIEVE_ENDPOINT_KEY": key, "HF_HUB_OFFLINE": "1"}
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
    problems = []
    for number, name in enumerate(names):
        print(f"{name}: ", end="", flush=True)
        share = asked.count // len(names) + (number < asked.count % len(names))
        found = _play(name, asked, share)
        problems += found
        for problem in found:
            print(problem, flush=True)
    print(f"{len(names)} scenarios, {len(problems)} problems")
    return 1 if problems else 0


def orders_in(folder: Path) -> Orders:
    """What a scenario's storage is told."""
    return Orders(folder / "fails")


def _storage(folder: Path) -> AbstractContextManager[str]:
    return storage_server(folder / "work" / "in" / "pool" / "shards", orders_in(folder))


def _fits(scenario: Scenario, what: str) -> bool:
    """Whether it can be disturbed so; of processes of their own, changes of files aren't seen."""
    if what == "pairs":
        return bool(scenario.other)
    return not scenario.together and not (scenario.devices and what != "faults")


def _play(name: str, asked: argparse.Namespace, share: int) -> list[str]:
    """Kill, disturb or double a scenario's command."""
    scenario = SCENARIOS[name]
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        teacher_server() if scenario.teacher else nullcontext("") as teacher,
        _storage(Path(folder)) if scenario.storage else nullcontext("") as storage,
    ):
        arena = Arena(scenario, Path(folder), teacher, storage)
        if asked.what == "pairs":
            return pairs(arena, share, asked.seed)
        found = kills(arena, asked.every) if asked.what in ("kills", "both") else []
        if asked.what in ("faults", "both"):
            found += faults(arena, name, asked.faults, asked.seed, Ends(asked.folder))
        return found


if __name__ == "__main__":
    sys.exit(main())
