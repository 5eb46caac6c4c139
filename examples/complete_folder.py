"""Complete every case of a folder: python examples/complete_folder.py CASES --out completed/

What `modfill complete` does, as a program to start from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modfill import ModalityCompleter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="one case, or a folder of cases")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="default: the weights that modfill ships")
    options = parser.parse_args()

    completer = ModalityCompleter(options.weights)
    for result in completer.complete_cohort(options.folder, out=options.out):
        if result.completed is None:  # one case that cannot be used does not stop the others
            print(result.problem)
            continue
        print(f"{result.case_id}: synthesised {', '.join(result.synthesised) or 'nothing'}")
        for modality, path in result.completed.paths.items():
            low, high = result.completed.provenance[modality]["UnitRange"]
            print(f"  {modality}, intensities {low:g} to {high:g}: {path}")


if __name__ == "__main__":
    main()
