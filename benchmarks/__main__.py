"""`make bench`: what can be measured with nothing but this checkout; prints each command."""

import subprocess
import sys

COMMANDS = (
    ["-m", "benchmarks.held_out"],
    ["-m", "benchmarks.rewritten"],
    ["-m", "benchmarks.rated", "--styler", "mmssr-tiny-styler"],
    ["-m", "benchmarks.chosen", "--count", "2000"],
    ["-m", "benchmarks.rate_speed", "--samples", "2", "--rounds", "2"],
    ["-m", "benchmarks.filter_memory", "--rows", "2000000"],
    ["-m", "benchmarks.select_speed", "--rows", "100000", "--rounds", "1"],
    ["-m", "benchmarks.teacher_stress", "--images", "300"],
)

for command in COMMANDS:
    print("python", *command, flush=True)
    subprocess.run([sys.executable, *command], check=True)
