"""Faults at random against real agents: what must hold whatever happens to them.

Runs under pytest and by itself (`python -m chaos.run`); the functions' packages are on the path of neither.
"""

import sys
from pathlib import Path

_LAMBDA = Path(__file__).parent.parent.parent / "lambda"
for _folder in (_LAMBDA, _LAMBDA / "_shared"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
