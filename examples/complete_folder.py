"""Complete every case of a folder: python examples/complete_folder.py CASES --out completed/

What `modfill complete` does, as a program to start from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modfill import ModalityCompleter
from modfill.case import find_cases, read_case
from modfill.errors import CaseError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="one case, or a folder of cases")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="default: the weights that modfill ships")
    options = parser.parse_args()

    completer = ModalityCompleter(options.weights)
    for files in find_cases(options.folder):
        try:
            case = read_case(files)
            done = completer.complete(case, options.out)
        except CaseError as error:  # one case that cannot be used does not stop the others
            print(error)
            continue
        print(f"{case.case_id}: acquired {', '.join(case.available)}")
        for modality, path in done.paths.items():
            low, high = done.provenance[modality]["UnitRange"]
            print(f"  synthesised {modality}, intensities {low:g} to {high:g}: {path}")


if __name__ == "__main__":
    main()
