"""Convert AI Challenger keypoints: python data_recipes/aic/prepare.py SOURCE.json IMAGES OUT.json

SOURCE.json is the authors' list of {image_id, human_annotations, keypoint_annotations}; IMAGES the
folder of the JPEG files (their sizes are read). OUT.json goes to
ROOT/annotations/aic_{train,val}.json. Visibility 1 (visible), 2 (hidden), 3 (absent) becomes 2, 1,
0.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from pose_nb.data.crop import read_image_size
from pose_nb.files import InputError, read_json, write_json
from pose_nb.skeletons import AIC


def convert(rows, images_dir, source="the file"):
    """A COCO-style dictionary; people of an image in the order of their names (human1, human2,
    …)."""
    images, annotations = [], []
    for number, row in enumerate(rows, 1):
        where = f"{source}, row {number - 1}"
        try:
            name, boxes = row["image_id"] + ".jpg", row["human_annotations"]
            people = row["keypoint_annotations"]
        except (TypeError, KeyError):
            raise InputError(
                f"{where}: expected image_id, human_annotations, keypoint_annotations"
            ) from None
        w, h = read_image_size(Path(images_dir) / name)
        images.append(dict(id=number, file_name=name, width=w, height=h))
        for person in sorted(people, key=lambda p: (len(p), p)):
            entry = convert_person(boxes[person], people[person], f"{where}, {person}")
            annotations.append(dict(id=len(annotations) + 1, image_id=number) | entry)
    category = dict(id=1, name="person", keypoints=list(AIC.keypoints), skeleton=[])
    return dict(images=images, annotations=annotations, categories=[category])


def convert_person(box, keypoints, where):
    """The annotation of one person: box as x, y, w, h; visibility as COCO has it."""
    points, (x1, y1, x2, y2) = np.array(keypoints).reshape(-1, 3), box
    if len(points) != 14 or not np.isin(points[:, 2], (1, 2, 3)).all():
        raise InputError(f"{where}: expected 14 keypoints with visibility 1, 2 or 3")
    points[:, 2] = 3 - points[:, 2]
    points[points[:, 2] == 0] = 0
    return dict(
        category_id=1,
        bbox=[x1, y1, x2 - x1, y2 - y1],
        num_keypoints=int((points[:, 2] > 0).sum()),
        keypoints=points.ravel().tolist(),
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("source", "images", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args(arguments)
    try:
        write_json(args.out, convert(read_json(args.source, list), args.images, args.source))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {args.out}; now: python data_recipes/check.py aic ROOT")
    return 0


if __name__ == "__main__":
    sys.exit(main())
