"""Check a data set on disk: python data_recipes/check.py SET ROOT [--decode]

SET is a name of pose_nb.tables.sets.SETS, ROOT the set's folder or the folder above it. With
--decode every image is read (slow), not only looked for. Exits with 1 if nothing is there, an image
is missing, or a number differs from that of the complete set.
"""

import argparse
import sys
from pathlib import Path

from pose_nb.data.crop import check_images
from pose_nb.files import InputError
from pose_nb.tables.benchmarks import BENCHMARKS
from pose_nb.tables.sets import SETS


def check(name, root, decode=False):
    """Print what there is of a data set; whether all is well."""
    if name not in SETS:
        raise InputError(f"no data set {name!r}; there are {', '.join(SETS)}")
    data = SETS[name]
    results = [check_split(data, root, split, decode) for split in data.annotations]
    if data.detections:
        print_detections(data, root)
    if not any(found is not None for found in results):
        print(f"no annotation file of {name} below {root}; see data_recipes/{name}/README.md")
        return False
    return all(found is not False for found in results)


def check_split(data, root, split, decode):
    """Print what there is of a split; whether it is as it should be, None if it is not there."""
    try:
        data.annotation_file(root, split)
    except InputError:
        print(f"{data.name} {split}: not there ({data.annotations[split]})")
        return None
    try:
        records = data.load(root, split)
        print(records.summary())
        expected = data.counts.get(split, len(records))
        if split in data.counts:
            verdict = "equal" if len(records) == expected else "DIFFERENT"
            print(
                f"  {split}: {len(records):,} instances, "
                f"the complete set has {expected:,}: {verdict}"
            )
        print(f"  {check_images(records, decode)} images are there")
    except InputError as error:
        print(f"  PROBLEM: {error}")
        return False
    return len(records) == expected


def print_detections(data, root):
    """Print whether the file of a detector's boxes is there, and who needs it."""
    try:
        file = data.root(root) / data.detections
    except InputError:
        file = Path(data.folder) / data.detections
    tables = [b for b in BENCHMARKS if b.data is data]
    using = [b.table_boxes == "det" for b in tables]
    who = "the" if all(using) else "one table's" if any(using) else "no"
    there = "is there" if file.is_file() else "is not there"
    print(f"{data.name} boxes of a detector: {file} {there} ({who} published figures use them)")


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
