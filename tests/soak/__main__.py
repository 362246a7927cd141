"""The command line: runs each backend in a separate process, and writes one report.

    python -m soak [--minutes N] [--seed S] [--backend NAME]

The backends run one after another: beside each other they would test how the machine shares its processors. The exit
code is 1 if there was any violation.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from soak import leftovers
from soak.bounds import OVERTIME
from soak.findings import Findings
from soak.report import report
from soak.run import Order, soak

BACKENDS: Final = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
SHORT: Final = 2 / 3
"""The default for `--minutes`: two in total, for CI."""
RESULT: Final = "findings.pickle"


def main() -> int:
    """Run what the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, help=f"minutes on each backend (default {SHORT:.2g})")
    parser.add_argument("--seed", type=int, default=random.getrandbits(32), help="repeats the random choices of a run")
    parser.add_argument("--backend", choices=[*BACKENDS], help="run only this one")
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="keep ledgers, journals, logs and the report here"
    )
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        return one(options.backend, options.minutes, options.seed, options.here)
    options.minutes = options.minutes or SHORT
    directory = options.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    backends = [options.backend] if options.backend else [*BACKENDS]
    for backend in backends:
        shutil.rmtree(directory / backend, ignore_errors=True)
        (directory / backend).mkdir(parents=True)
    ended = anyio.run(run_all, backends, options, directory)
    found = [each for each in ended if isinstance(each, Findings)]
    broken = [each for each in ended if isinstance(each, str)]
    failed = bool(broken) or any(findings.violations.texts for findings in found)
    only = f" --backend {options.backend}" if options.backend else ""
    command = f"nox -s soak -- --minutes {options.minutes:.3g} --seed {options.seed}{only}"
    text = report(command, found, broken)
    sys.stdout.write(f"\n{text}\n")
    (directory / "report.md").write_text(f"{text}\n", encoding="utf-8")
    if failed or options.keep:
        sys.stdout.write(f"\nledgers, journals and logs: {directory}\n")
    else:
        shutil.rmtree(directory)
    return int(failed)


async def run_all(backends: list[str], options: argparse.Namespace, directory: Path) -> list[Findings | str]:
    """Run backends, and return their results in order."""
    return [await run(backend, options, directory / backend) for backend in backends]


async def run(backend: str, options: argparse.Namespace, directory: Path) -> Findings | str:
    """Run one backend in a separate process; return a description if it failed or hung."""
    command = [sys.executable, "-m", "soak", "--here", str(directory), "--backend", backend]
    command += ["--minutes", str(options.minutes), "--seed", str(options.seed)]
    errors = directory / "errors.log"
    mark = leftovers.new_mark()
    environment = {**os.environ, leftovers.MARK: mark}
    with errors.open("wb") as file:
        async with await anyio.open_process(command, stdin=None, stdout=None, stderr=file, env=environment) as process:
            with anyio.move_on_after(options.minutes * 60 + OVERTIME) as bound:
                await process.wait()
            if bound.cancelled_caught:
                process.send_signal(signal.SIGABRT)  # makes it print where it hangs
            status = await process.wait()
    if status or not (directory / RESULT).exists():
        tail = errors.read_text(encoding="utf-8", errors="replace")[-4000:]
        sys.stdout.write(f"{tail}\n")
        leftovers.kill(mark)
        return f"{backend}: the run itself failed with status {status}"
    # Written by the process that has just exited.
    findings: Findings = pickle.loads((directory / RESULT).read_bytes())
    return findings


def one(backend: str, minutes: float, seed: int, directory: Path) -> int:
    """Run one backend in this process, and write the results to the directory."""
    faulthandler.enable()
    name, backend_options = BACKENDS[backend]
    order = Order(
        backend=backend,
        seconds=minutes * 60,
        seed=seed,
        directory=directory,
        report_progress=partial(print_progress, backend),
    )
    findings = anyio.run(soak, order, backend=name, backend_options=backend_options)
    (directory / RESULT).write_bytes(pickle.dumps(findings))
    return 0


def print_progress(backend: str, words: str) -> None:
    """Print progress."""
    sys.stdout.write(f"{backend}: {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
