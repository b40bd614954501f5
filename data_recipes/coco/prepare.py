"""Unpack COCO 2017 and check it: python data_recipes/coco/prepare.py ROOT [--archives FOLDER]

Unpacks train2017.zip, val2017.zip and annotations_trainval2017.zip from FOLDER into ROOT (what is
there already stays), then counts.
"""

import argparse
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from check import check  # noqa: E402

ARCHIVES = {
    "train2017.zip": "train2017",
    "val2017.zip": "val2017",
    "annotations_trainval2017.zip": "annotations",
}


def unpack(archives, root):
    for name, target in ARCHIVES.items():
        if (root / target).is_dir():
            print(f"{root / target} is there already")
            continue
        if not (archives / name).is_file():
            print(f"{archives / name} is not there; skipped")
            continue
        print(f"unpacking {archives / name}")
        with zipfile.ZipFile(archives / name) as archive:
            archive.extractall(root)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--archives", type=Path)
    args = parser.parse_args(arguments)
    if args.archives:
        unpack(args.archives, args.root)
    return 0 if check("coco", args.root) else 1


if __name__ == "__main__":
    sys.exit(main())
