"""Convert 300W from .pts files: python data_recipes/300w/prepare.py ROOT [--zero-based]

ROOT/images holds the authors' folders: afw, helen/trainset, helen/testset, lfpw/trainset,
lfpw/testset, ibug, Test/01_Indoor, Test/02_Outdoor, with a .pts file beside each image. Writes
ROOT/annotations/face_landmarks_300w_*.json and checks the result.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from pose_nb.data.crop import read_image_size
from pose_nb.files import InputError, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from check import check  # noqa: E402

COMMON, CHALLENGE = ("helen/testset", "lfpw/testset"), ("ibug",)
SPLITS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "valid": COMMON + CHALLENGE,
    "valid_common": COMMON,
    "valid_challenge": CHALLENGE,
    "test": ("Test/01_Indoor", "Test/02_Outdoor"),
}


def read_pts(path):
    """Points (N, 2) of a .pts file: version, n_points, then x y between braces."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        points = np.array(text[text.index("{") + 1 : text.index("}")].split(), float).reshape(-1, 2)
    except ValueError:
        raise InputError(f"{path}: not a .pts file; expected lines 'x y' between braces") from None
    if points.shape != (68, 2):
        raise InputError(f"{path}: has {len(points)} points; expected 68")
    return points


def image_beside(file):
    """The image that a .pts file belongs to."""
    for end in (".png", ".jpg", ".jpeg", ".JPG"):
        if file.with_suffix(end).is_file():
            return file.with_suffix(end)
    raise InputError(f"{file}: has no image beside it")


def convert(folders, images_dir, shift=0.0):
    """A COCO-style dictionary with center and scale of all .pts files in some folders; `shift` is
    added to the coordinates."""
    images, annotations = [], []
    files = [file for folder in folders for file in sorted((images_dir / folder).glob("*.pts"))]
    for number, file in enumerate(files, 1):
        picture, points = image_beside(file), read_pts(file) + shift
        w, h = read_image_size(picture)
        name = str(picture.relative_to(images_dir))
        images.append(dict(id=number, file_name=name, width=w, height=h))
        low, high = np.floor(points.min(0)), np.ceil(points.max(0))
        annotations.append(
            dict(
                id=number,
                image_id=number,
                category_id=1,
                iscrowd=0,
                num_keypoints=68,
                center=((low + high) / 2).tolist(),
                scale=float((high - low).max() / 200),
                bbox=[*low, *(high - low)],
                area=float((high - low).prod()),
                keypoints=np.concatenate([points, np.ones((68, 1))], 1).ravel().tolist(),
            )
        )
    categories = [dict(id=1, name="face", keypoints=[], skeleton=[])]
    return dict(images=images, annotations=annotations, categories=categories)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument(
        "--zero-based", action="store_true", help="subtract 1: .pts files count pixels from 1"
    )
    args = parser.parse_args(arguments)
    try:
        for name, folders in SPLITS.items():
            content = convert(folders, args.root / "images", -1.0 if args.zero_based else 0.0)
            if not content["images"]:
                print(f"{name}: no .pts files in {', '.join(folders)}; skipped")
                continue
            write_json(args.root / "annotations" / f"face_landmarks_300w_{name}.json", content)
        return 0 if check("300w", args.root) else 1
    except InputError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
