"""Convert WFLW from its authors' lists: python data_recipes/wflw/prepare.py ROOT [--lists FOLDER]

FOLDER (default ROOT/WFLW_annotations) holds list_98pt_rect_attr_train_test/ and list_98pt_test/;
images lie in ROOT/images. Writes
ROOT/annotations/face_landmarks_wflw_{train,test,test_<subset>}.json and checks the result.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from pose_nb.data.crop import read_image_size
from pose_nb.files import InputError, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from check import check  # noqa: E402

SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
FLAGS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


def read_list(path):
    """(points (98, 2), fields after them, image name) of every line; 197 fields, or 207 with
    rectangle and flags."""
    out = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in (197, 207):
            raise InputError(
                f"{path}, line {number}: has {len(fields)} fields; expected 197 or 207"
            )
        out.append((np.array(fields[:196], float).reshape(98, 2), fields[196:-1], fields[-1]))
    return out


def center_scale(points):
    """Centre and size / 200 of a face, from whole pixels around its landmarks, as the widely used
    annotation files have them."""
    low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    return ((low + high) / 2).tolist(), float((high - low).max() / 200)


def convert(rows, images_dir):
    """A COCO-style dictionary with center and scale."""
    images, annotations = {}, []
    for number, (points, more, name) in enumerate(rows, 1):
        if name not in images:
            w, h = read_image_size(Path(images_dir) / name)
            images[name] = dict(id=len(images) + 1, file_name=name, width=w, height=h)
        center, scale = center_scale(points)
        low, size = points.min(0), points.max(0) - points.min(0)
        entry = dict(
            id=number,
            image_id=images[name]["id"],
            category_id=1,
            iscrowd=0,
            num_keypoints=98,
            center=center,
            scale=scale,
            keypoints=np.concatenate([points, np.ones((98, 1))], 1).ravel().tolist(),
            bbox=[*(low - 0.1 * size), *(1.2 * size)],
            area=float(1.44 * size.prod()),
        )
        if len(more) == 10:
            entry |= dict(
                face_rectangle=[float(x) for x in more[:4]],
                **{k: int(v) for k, v in zip(FLAGS, more[4:])},
            )
        annotations.append(entry)
    return dict(
        images=list(images.values()),
        annotations=annotations,
        categories=[dict(id=1, name="face", keypoints=[], skeleton=[])],
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--lists", type=Path)
    args = parser.parse_args(arguments)
    lists = args.lists or args.root / "WFLW_annotations"
    files = {
        split: lists / "list_98pt_rect_attr_train_test" / f"list_98pt_rect_attr_{split}.txt"
        for split in ("train", "test")
    }
    files |= {f"test_{s}": lists / "list_98pt_test" / f"list_98pt_test_{s}.txt" for s in SUBSETS}
    try:
        for name, file in files.items():
            if not file.is_file():
                print(f"{file} is not there; skipped")
                continue
            write_json(
                args.root / "annotations" / f"face_landmarks_wflw_{name}.json",
                convert(read_list(file), args.root / "images"),
            )
        return 0 if check("wflw", args.root) else 1
    except InputError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
