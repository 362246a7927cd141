"""A soak: dozens of servers of all kinds that are harmed at random, while many tasks call them, and what must hold.

    nox -s soak -- --minutes 20 --seed 1

Each backend runs in a process of its own. The map, top down:

* `__main__`: the command line; one process for each backend, and the report of all
* `run`: one run: start, let things happen, prove, close, judge
* `report`: the report in words, numbers and plots
* `findings`: what a run has shown, and what it should not have
* `faults`: the tasks that harm servers; in `faults_of_servers`, `faults_of_wires`, `faults_of_calls` and
  `faults_by_hand`, what befalls them
* `blocks`: further pools, whose blocks are left in every way meanwhile
* `callers`, `calls`: the tasks that call; how a call is made and judged
* `ends`: what the end of a call has to tell
* `proof`: that every server is back
* `journal`: every call's end, to be compared with the ledgers of the servers
* `fleet`: the servers
* `hosts`: the processes behind a URL, and the proxies before them
* `witnesses`, `logs`: who looks on, and what was logged
* `measure`: memory, descriptors and tasks over time
* `leftovers`: what is still there when all has ended
* `bounds`: every bound and tolerance, with its reason
* `servers/`: the programs of the servers, made of those of `tests/servers`
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))  # the servers and the helpers of the tests, which are not a package
