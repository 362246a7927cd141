"""What `import mcp_pool` costs on top of `import mcp`, which every program that uses it needs anyway.

    python tests/benchmarks/import_cost.py [rounds]

Each round starts an interpreter that imports `mcp` and then `mcp_pool`: the ratio within one process is stable even on a
busy machine. Times are seconds of processor time.

All of them use one new bytecode cache, filled before the first round. Otherwise the time to compile would count for a
package that has never been compiled, or in an environment that forbids writing bytecode.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 15
LIMIT = 1.10
"""The promised ratio."""

PROGRAM = """
from time import process_time
start = process_time()
import mcp
middle = process_time()
import mcp_pool
print(middle - start, process_time() - middle)
"""
SOURCES = Path(__file__).parents[2]


def seconds(cache: str) -> list[float]:
    """Import both in a fresh interpreter and return the processor time of each."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=SOURCES,
        env=environment,
    )
    return [float(part) for part in done.stdout.split()]


def main() -> None:
    """Print the times and the ratio; exit with 1 when it is above the limit."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as cache:
        seconds(cache)
        times = [seconds(cache) for _ in range(rounds)]
    for name, taken in zip(("mcp", "mcp_pool on top"), zip(*times, strict=True), strict=True):
        low, middle, high = (1000 * each for each in statistics.quantiles(taken))
        print(f"import {name:<16}{middle:8.1f} ms  (quartiles {low:.1f} and {high:.1f})")
    low, ratio, high = statistics.quantiles((first + second) / first for first, second in times)
    print(f"ratio: {ratio:.3f}  (quartiles {low:.3f} and {high:.3f}, {rounds} rounds)")
    print(f"promised: at most {LIMIT:.2f}")
    sys.exit(ratio > LIMIT)


if __name__ == "__main__":
    main()
