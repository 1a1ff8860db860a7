"""Kills or doubles one scenario's command; prints a line per problem, and a summary."""

import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.chaos.forked import Outcome, Run, differences, tree, warm
from tests.chaos.scenarios import SCENARIOS, Scenario, normalise


class Arena:
    """A scenario's folder, in which its command can be run again and again."""

    def __init__(self, scenario: Scenario, folder: Path, teacher: str) -> None:
        self.scenario, self._root = scenario, folder
        self.folder = folder / "work"
        self._teacher = teacher
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
        words = shlex.split(command.format(teacher=self._teacher))
        return Run(words, self.folder, self._root / name, **given)

    def run(self, command: str, **given: Any) -> Outcome:
        """Run a command to its end, or to its death."""
        return self.start(command, **given).wait()

    def clear(self) -> None:
        """Have the folder as it was before the command."""
        shutil.rmtree(self.folder / "made")
        shutil.copytree(self._input / "made", self.folder / "made")

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
    print(f"{len(points)} kills, {len(problems)} problems")
    return problems


def pairs(arena: Arena, count: int, seed: int) -> list[str]:
    """Start two runs at about the same time; whatever ends with 0 must have left what it should."""
    commands = [arena.scenario.command, arena.scenario.other or arena.scenario.command]
    wanted, seconds = [], 0.0
    for command in (commands[0], *commands):
        arena.clear()
        started = time.monotonic()
        done = arena.run(command)
        seconds = time.monotonic() - started
        if done.code:
            return [f"{command}: {done.code}: {done.said}"]
        warm(done.modules)
        wanted.append(arena.tree())
    wanted = wanted[1:]
    rng, ended, problems = random.Random(seed), Counter(), []
    for number in range(count):
        arena.clear()
        chosen = [0, rng.choice([0, 1])]
        rng.shuffle(chosen)
        delays = [0.0, rng.choice([0.0, rng.uniform(0, seconds)])]
        runs = [
            arena.start(commands[which], f"run{n}", delay=delays[n])
            for n, which in enumerate(chosen)
        ]
        done = [run.wait() for run in runs]
        codes = tuple(one.code for one in done)
        ended[codes] += 1
        good = [which for which, one in zip(chosen, done, strict=True) if one.code == 0]
        left = arena.tree()
        place = f"pair {number} {chosen} {codes}"
        if not good:
            problems.append(f"{place}: none ended well: {' / '.join(o.said.strip() for o in done)}")
        elif len(set(good)) > 1:
            problems.append(f"{place}: both, though they ask for different things")
        elif others := differences(wanted[good[0]], left):
            problems.append(f"{place}: differs: {', '.join(others[:5])}")
        for one in done:
            if one.code not in (0, 2) or "Traceback" in one.said:
                problems.append(f"{place}: {one.code}: {one.said.strip()}")
    print(f"{count} pairs, {dict(ended)}, {len(problems)} problems")
    return problems


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


def main(words: Sequence[str]) -> int:
    """kills SCENARIO [EVERY] or pairs SCENARIO COUNT [SEED]."""
    what, name, *numbers = words
    scenario = SCENARIOS[name]
    os.environ |= {"OPENAI_API_KEY": "sk-test-0123456789abcdef", "HF_HUB_OFFLINE": "1"}
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        teacher_server() if scenario.teacher else nullcontext("") as teacher,
    ):
        arena = Arena(scenario, Path(folder), teacher)
        if what == "kills":
            problems = kills(arena, int(numbers[0]) if numbers else 1)
        else:
            problems = pairs(arena, int(numbers[0]), int(numbers[1]) if numbers[1:] else 0)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
