"""A soak: dozens of servers of all kinds that are harmed at random, while many tasks call them, and what must hold.

    nox -s soak -- --minutes 20 --seed 1

Each backend runs in a process of its own. The map, top down:

* `__main__`: the command line; one process for each backend, and the report of all
* `run`: one run: start, let things happen, mend, prove, close, judge
* `report`: the report in words, numbers and plots
* `faults`, `faults_of_wires`: what befalls servers
* `callers`: the tasks that call, and what each call may end in
* `journal`: every call's end, to be compared with the ledgers of the servers
* `fleet`: the servers
* `hosts`: the processes behind a URL, and the proxies before them
* `measure`: memory, descriptors, tasks, processes
* `bounds`: every bound and tolerance, with its reason
* `servers/`: the programs of the servers, made of those of `tests/servers`
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))  # the servers and the helpers of the tests, which are no package
