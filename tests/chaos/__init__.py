"""What kills and simultaneous runs do to a command: nothing that the same command doesn't mend.

`python -m tests.chaos kills SCENARIO...` runs a command once undisturbed. Then, for each change
that it made to the file system, it kills a run with SIGKILL before that change, runs the same
command again, and compares what is there with what the undisturbed run left. `python -m
tests.chaos faults SCENARIO... --faults N` lets N runs meet another fault each, and does the same;
`... pairs SCENARIO... --count N` starts two runs at nearly the same time, N times in all.
Without a SCENARIO it is all of them. All runs are forks of one process that has imported all.
"""
