"""`http_raw.py` with the tools of `marked.py`.

python -I -S by_http.py LEDGER [option ...]
"""

from __future__ import annotations

import asyncio
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would slow the start

import marked  # noqa: F401 - it registers its tools
from http_options import parse_options
from http_raw import RawServer

if __name__ == "__main__":
    asyncio.run(RawServer(parse_options()).serve())
