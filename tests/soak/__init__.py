"""The soak test: random faults in dozens of servers of all kinds, while many tasks call them, and what must still hold.

    nox -s soak -- --minutes 20 --seed 1

Each backend runs in a separate process. The map, top down:

* `__main__`: the command line; one process for each backend, and one report
* `run`: one run: start, inject faults, check the recovery, close, check what is left
* `report`: the report as text, tables and plots
* `findings`: the results and the violations of a run
* `faults`: the tasks that inject faults; the faults are in `faults_of_servers`, `faults_of_wires`, `faults_of_calls`
  and `faults_by_hand`
* `blocks`: additional pools, whose blocks end in every possible way meanwhile
* `callers`, `calls`: the tasks that call; how a call is made and checked
* `ends`: what the error of a call must say
* `proof`: the check that every server has recovered
* `journal`: how every call ended, for a comparison with the servers' ledgers
* `fleet`: the servers
* `hosts`: the processes behind a URL, and the proxies in front of them
* `witnesses`, `logs`: callbacks and event readers, and what was logged
* `measure`: memory, descriptors and tasks over time
* `leftovers`: what is left when everything has ended
* `bounds`: every limit and tolerance, with its reason
* `servers/`: the programs of the servers, based on those in `tests/servers`
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))  # the servers and the helpers of the tests, which are not a package
