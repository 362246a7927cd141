"""The SDK's own server over stdio, in both protocols: the calculator with a tool that adds one, `grow`."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - as in `http_raw.py`

from in_process import growing

if __name__ == "__main__":
    growing().run("stdio")
