"""`misbehaving.py` with the tools of `marked.py`.

python -I -S by_stdio.py LEDGER [option ...]
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would slow the start

import marked  # noqa: F401 - it registers its tools
from misbehaving import Server, parse_options

if __name__ == "__main__":
    Server(parse_options()).run()
