"""Check a data set on disk: python data_recipes/check.py SET ROOT [--decode]

SET is a name of pose_nb.tables.sets.SETS, ROOT the set's folder or the folder above it. With --decode every image is read (slow), not only looked for.
Exits with 1 if nothing is there, an image is missing, or a number differs from that of the complete set.
"""

import argparse
import sys
from pathlib import Path

from pose_nb.data.crop import check_images
from pose_nb.tables.sets import SETS
from pose_nb.files import InputError


def check(name, root, decode=False):
    """Print what there is of a data set; whether all is well."""
    if name not in SETS:
        raise InputError(f"no data set {name!r}; there are {', '.join(SETS)}")
    entry, good, found = SETS[name], True, 0
    for split in entry.annotations:
        try:
            file = entry.annotation_file(root, split)
        except InputError:
            print(f"{name} {split}: not there ({entry.annotations[split]})")
            continue
        found += 1
        try:
            records = entry.load(root, split, boxes="gt")
            print(records.summary())
            expected = entry.counts.get(split)
            if expected:
                same = len(records) == expected
                print(
                    f"  {split}: {len(records):,} instances, the complete set has {expected:,}: {'equal' if same else 'DIFFERENT'}"
                )
                good &= same
            print(f"  {check_images(records, decode)} images are there")
        except InputError as error:
            print(f"  PROBLEM: {error}")
            good = False
    if entry.detections:
        try:
            file = entry.root(root) / entry.detections
        except InputError:
            file = Path(entry.folder) / entry.detections
        print(
            f"{name} boxes of a detector: {file} {'is there' if file.is_file() else 'is not there'}"
            + (" (the published figures use them)" if entry.detected else "")
        )
    if not found:
        print(f"no annotation file of {name} below {root}; see data_recipes/{name}/README.md")
    return good and found > 0


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set")
    parser.add_argument("root", type=Path)
    parser.add_argument("--decode", action="store_true")
    args = parser.parse_args(arguments)
    try:
        return 0 if check(args.set, args.root, args.decode) else 1
    except InputError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
