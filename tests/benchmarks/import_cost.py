"""What `import mcp_pool` costs on top of `import mcp`, which every program that uses it needs anyway.

    python tests/benchmarks/import_cost.py [rounds]

Each round starts three interpreters, in varying order: one imports `mcp`, one imports `mcp_pool`, and one imports
both, `mcp` first. The first two give a ratio of medians. The third gives a ratio in each round, which is far more stable
on a busy machine, and decides the result. Times are seconds of processor time.

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
times = [process_time()]
{imports}
print(*(later - earlier for earlier, later in zip(times, times[1:])))
"""
SOURCES = Path(__file__).parents[2]


def seconds(cache: str, *modules: str) -> list[float]:
    """Import modules one after another in a fresh interpreter and return the processor time of each."""
    imports = "\n".join(f"import {module}; times.append(process_time())" for module in modules)
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(imports=imports)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=SOURCES,
        env=environment,
    )
    return [float(part) for part in done.stdout.split()]


def main() -> None:
    """Print the medians and both ratios; exit with 1 when the paired one is above the limit."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    orders = [("mcp",), ("mcp_pool",), ("mcp", "mcp_pool")]
    times: dict[tuple[str, ...], list[list[float]]] = {order: [] for order in orders}
    with tempfile.TemporaryDirectory() as cache:
        seconds(cache, "mcp", "mcp_pool")
        for turn in range(rounds):
            for position in range(3):
                order = orders[(turn + position) % 3]
                times[order].append(seconds(cache, *order))
    medians: dict[str, float] = {}
    for module in ("mcp", "mcp_pool"):
        taken = [first for (first,) in times[(module,)]]
        medians[module] = statistics.median(taken)
        low, _, high = statistics.quantiles(taken)
        print(f"import {module:<9}{medians[module] * 1000:8.1f} ms  (quartiles {low * 1000:.1f} and {high * 1000:.1f})")
    print(f"ratio of the medians: {medians['mcp_pool'] / medians['mcp']:.3f}")
    paired = [(first + second) / first for first, second in times["mcp", "mcp_pool"]]
    low, ratio, high = statistics.quantiles(paired)
    print(f"ratio within one process: {ratio:.3f}  (quartiles {low:.3f} and {high:.3f}, {rounds} rounds)")
    print(f"promised: at most {LIMIT:.2f}")
    sys.exit(ratio > LIMIT)


if __name__ == "__main__":
    main()
