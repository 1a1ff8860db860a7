"""`make bench`: what can be measured with nothing but this checkout; prints each command."""

import subprocess
import sys

COMMANDS = (
    ["-m", "benchmarks.held_out"],
    ["-m", "benchmarks.filter_memory", "--rows", "2000000"],
    ["-m", "benchmarks.select_speed", "--rows", "100000", "--rounds", "1"],
    ["-m", "benchmarks.teacher_stress", "--images", "300"],
)

for command in COMMANDS:
    print("python", *command, flush=True)
    subprocess.run([sys.executable, *command], check=True)
