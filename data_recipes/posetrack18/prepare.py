"""Join PoseTrack18's files, one per video: python data_recipes/posetrack18/prepare.py ROOT

Reads ROOT/annotations/{train,val}/*.json, writes ROOT/annotations/posetrack18_{train,val}.json and
checks the result. Keep the folders: the metric reads them.
"""

import argparse
import sys
from pathlib import Path

from pose_nb.files import InputError, read_json, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from check import check  # noqa: E402


def join(files):
    """One COCO-style dictionary of many; ids are unique over all videos already."""
    images, annotations, categories = [], [], []
    for file in files:
        content = read_json(file)
        for part in ("images", "annotations"):
            if not isinstance(content.get(part), list):
                raise InputError(
                    f"{file}: has no list {part!r}; a PoseTrack18 annotation file is needed"
                )
        images += content["images"]
        annotations += content["annotations"]
        categories = content.get("categories", categories)
    for image in images:
        if "width" not in image:
            raise InputError(
                f"image {image.get('id')} has no width and height; "
                "use the files of the 2018 release with sizes"
            )
    return dict(images=images, annotations=annotations, categories=categories)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    args = parser.parse_args(arguments)
    try:
        for split in ("train", "val"):
            files = sorted((args.root / "annotations" / split).glob("*.json"))
            if not files:
                print(f"{args.root}/annotations/{split}: no JSON files; skipped")
                continue
            write_json(args.root / "annotations" / f"posetrack18_{split}.json", join(files))
        return 0 if check("posetrack18", args.root) else 1
    except InputError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
