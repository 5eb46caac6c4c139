"""`python -m modfill`, also under torchrun: the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import modfill
from modfill.cli import main

# In a clone, integrations/ lies beside this folder; an installed package has it inside. Only here, because other
# programs that import modfill must not find the clone's tests and benchmarks in it.
_HERE = Path(__file__).resolve().parent
if not (_HERE / "integrations").is_dir():
    modfill.__path__.append(str(_HERE.parent))

if __name__ == "__main__":
    sys.exit(main())
