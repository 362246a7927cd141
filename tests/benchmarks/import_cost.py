"""What `import mcp_pool` costs on top of `import mcp`, which no program that uses it can do without.

    python benchmarks/import_cost.py [rounds]

Each round starts three interpreters, in changing order: one imports `mcp`, one imports `mcp_pool`, and one imports
both, `mcp` first. The first two give the ratio of medians; the third gives a ratio of its own in each round, which is
far steadier on a busy machine and is what the verdict goes by. Times are seconds of processor time.

All of them use one fresh cache of bytecode, filled before the first round: otherwise a side that had never been
compiled, or an environment that forbids writing bytecode, would be charged for compiling.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 15
LIMIT = 1.10
"""The ratio that is promised."""

PROGRAM = """
from time import process_time
times = [process_time()]
{imports}
print(*(later - earlier for earlier, later in zip(times, times[1:])))
"""
SOURCES = Path(__file__).parents[2]


def seconds(cache: str, *modules: str) -> list[float]:
    """Import modules one after the other in a fresh interpreter and return the processor time that each took."""
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
