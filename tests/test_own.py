"""Own keypoints from a folder to a score: what is found, decided, told, refused, kept."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pose_nb import cli, own
from pose_nb.data.custom import load_custom, to_coco
from pose_nb.files import InputError, read_json, write_json
from pose_nb.skeletons import COCO, Skeleton
from pose_nb.tables.definitions import definition, metadata, read_definition, row_of_weights
from pose_nb.tables.own import Split, load_split
from pose_nb.tables.zoo import get_row
from pose_nb.weights import loading
from pose_nb.weights.tensors import read_safetensors, write_safetensors

ROW = "coco/shufflenet-v2"
NAMES = ("mouth", "left_fin", "right_fin", "tail")
QUICK = ("--steps", 1, "--epochs", 1, "--batch-size", 4, "--workers", 0, "--device", "cpu")


def things(folder, count=8, csv_name="labels.csv", names=NAMES, seed=0):
    """Pictures of noise with a bright quadrangle, whose corners are labelled in a CSV."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / csv_name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{name}_{axis}" for name in names for axis in "xy")])
        for i in range(count):
            corner, size = rng.uniform(10, 25, 2), rng.uniform(35, 55, 2)
            unit = np.array([[0, 0.5], [0.5, 0], [0.5, 1], [1, 0.5]])[: len(names)]
            points = corner + unit * size
            picture = rng.integers(0, 90, (100, 110, 3), np.uint8)
            x1, y1, x2, y2 = np.int32([*points.min(0), *points.max(0)])
            picture[y1:y2, x1:x2] += np.uint8(rng.integers(60, 160, 3))
            name = f"{csv_name[:3]}{seed}{i}.png"
            Image.fromarray(picture).save(folder / name)
            writer.writerow([name, *points.ravel().round(1)])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return things(tmp_path_factory.mktemp("own") / "things")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """One run of the command line: its folder and what was printed."""
    out = tmp_path_factory.mktemp("own") / "run"
    people = get_row(ROW)
    weights = out.parent / "people.safetensors"
    write_safetensors(weights, people.create().state_dict(), metadata(people))
    words = ["train", "--data", folder, "--out", out, "--finetune", ROW, "--weights", weights]
    return out, said(*words, *QUICK), weights


def said(*words):
    """What a command prints; it must succeed."""
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    assert not end.value.code, text.getvalue()
    return text.getvalue()


def refused(capsys, *words):
    """The sentence with which a command ends that was given something wrong."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert end.value.code == 2 and "Traceback" not in captured.err
    return captured.err


# ---------------------------------------------------------------- from a folder to a score


def test_one_command_trains_tests_and_tells(run):
    out, text, _ = run
    for words in ("doctor: nothing", "20% of the pictures", "sigmas: 0.05", "held out: 2"):
        assert words in text, words
    figures = read_json(out / "test" / "figures.json")
    assert {"AP", "AR", "PCK@0.2"} <= set(figures["figures"])
    assert set(figures["keypoints"]) == set(NAMES) and len(figures["worst"]) == 2
    assert (out / "curves.png").is_file() and list((out / "people").glob("*.png"))
    assert len(read_json(out / "test" / "results.json", list)) <= 2


def test_what_was_kept_of_the_other_network_is_told(run):
    out, text, _ = run
    assert "tensors kept" in text
    assert "new and random: head.final_layer.weight (4, 256, 1, 1), head.final_layer.bias" in text
    assert "people.safetensors" in read_json(out / "run.json")["start"]


def test_everything_but_the_last_layer_is_the_other_networks(run, folder, tmp_path):
    weights, base = run[2], get_row(ROW)
    mine = base.for_records(own.read_own(folder).save(tmp_path))
    model, _ = own.begin_with(mine, weights, base)
    theirs, ours = read_safetensors(weights)[0], model.state_dict()
    new = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert new == {"head.final_layer.weight", "head.final_layer.bias"}


def test_the_same_number_of_other_keypoints_needs_a_new_layer_too(tmp_path):
    names = tuple(f"corner{i}" for i in range(17))
    base, skeleton = get_row(ROW), Skeleton("grid", names)
    records = load_custom(write_grid(tmp_path, names), tmp_path, skeleton)
    mine = base.for_records(Split(records, records).save(tmp_path / "split"))
    file = tmp_path / "coco.safetensors"
    write_safetensors(file, base.create().state_dict(), metadata(base))
    assert "new and random: head.final_layer.weight (17," in own.begin_with(mine, file, base)[1]
    same = base.for_records(Split(records, records).save(tmp_path / "split"))
    write_safetensors(file, same.create().state_dict(), metadata(same))
    assert own.begin_with(mine, file, base)[1].endswith("new and random: nothing")


def write_grid(folder, names):
    Image.new("RGB", (90, 90)).save(folder / "a.png")
    points = {name: [5 + 4 * i, 5 + (7 * i) % 60] for i, name in enumerate(names)}
    write_json(folder / "a.json", [{"image": "a.png", "keypoints": points}])
    return folder / "a.json"


def test_the_weights_say_whose_they_are(run, folder, tmp_path):
    out = run[0]
    row = row_of_weights(out / "best.safetensors")
    assert row.id == f"own/{ROW}" and row.skeleton.keypoints == NAMES
    assert row.skeleton.flip_pairs == (("left_fin", "right_fin"),)
    assert row.codec == get_row(ROW).codec
    assert read_definition(read_json(out / "run.json")["definition"], "run.json").skeleton == (
        row.skeleton
    )
    assert own.base_row(None, out / "best.safetensors") == get_row(ROW)


def test_predict_needs_no_row(run, folder, tmp_path):
    picture = sorted(folder.glob("*.png"))[0]
    best = run[0] / "best.safetensors"
    said("predict", "--weights", best, picture, "--out", tmp_path, "--device", "cpu")
    answer = (tmp_path / "keypoints.json").read_text()
    assert all(name in answer for name in NAMES) and f"own/{ROW}" in answer


def test_it_begins_with_what_prediction_takes(run, monkeypatch):
    """hub and hf://user/repo, as for `pose-nb predict`; the file says its row."""
    asked = []
    monkeypatch.setattr(loading, "hub_file", lambda url: asked.append(url) or run[2])
    monkeypatch.setattr(loading, "from_hub", lambda *what: (asked.append(what[0]) or run[2],))
    row = get_row(ROW)
    for weights in ("hf://somebody/people", "hub"):
        model, words = own.begin_with(row, weights, row)
        assert model.source == str(run[2]) and "new and random: nothing" in words
    assert own.base_row(None, "hf://somebody/people") == row
    assert own.base_row(None, "hub") == get_row(own.DEFAULT_ROW)
    assert asked == ["hf://somebody/people", ROW, "hf://somebody/people"]


def test_the_same_command_goes_on(run, folder):
    out, _, weights = run
    words = ["train", "--data", folder, "--out", out, "--finetune", ROW, "--weights", weights]
    assert "this run is complete" in said(*words, *QUICK)


# ---------------------------------------------------------------- files and splits


def test_a_split_is_by_picture_and_the_same_for_a_seed(folder):
    first, again, other = (own.read_own(folder, seed=seed) for seed in (0, 0, 3))
    assert first.val.image_files == again.val.image_files != other.val.image_files
    assert not set(first.train.image_files) & set(first.val.image_files)
    assert len(first.train) == 6 and len(first.val) == 2


def test_a_folder_with_a_split_is_taken_as_it_is(tmp_path):
    things(tmp_path, 4, "train.csv")
    things(tmp_path, 2, "val.csv", seed=1)
    split = own.read_own(tmp_path)
    assert (len(split.train), len(split.val)) == (4, 2)
    assert "as given, train.csv and val.csv" in str(split)


def test_columns_in_another_order_are_put_in_order(tmp_path):
    things(tmp_path, 4, "train.csv")
    things(tmp_path, 2, "val.csv", names=NAMES[::-1], seed=1)
    val = own.read_own(tmp_path).val
    line = next(csv.DictReader((tmp_path / "val.csv").open()))
    assert np.allclose(val.keypoints[0, 0], [float(line["mouth_x"]), float(line["mouth_y"])])


def test_a_coco_file_with_any_skeleton(folder, tmp_path):
    records = load_custom(folder / "labels.csv", folder)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "pictures").symlink_to(folder)
    write_json(tmp_path / "annotations" / "all.json", to_coco(records, folder))
    split = own.read_own(tmp_path)
    assert split.skeleton.keypoints == NAMES and len(split.train) == 6
    assert "pictures" in split.train.image_files[0]


def test_a_saved_split_is_read_back(folder, tmp_path):
    split = own.read_own(folder)
    again = load_split(split.save(tmp_path).train.source.rsplit("/", 1)[0])
    assert again.notes == split.notes and again.skeleton == split.skeleton
    for name in ("keypoints", "visible", "boxes", "areas", "image_ids"):
        assert np.array_equal(getattr(again.val, name), getattr(split.val, name)), name


def test_a_row_for_records_keeps_codec_and_recipe(folder, tmp_path):
    base = get_row(ROW)
    mine = base.for_records(own.read_own(folder).save(tmp_path))
    assert (mine.codec, mine.network, mine.recipe.augment) == (
        base.codec,
        base.network,
        base.recipe.augment,
    )
    assert mine.create().head.final_layer.out_channels == 4 and not mine.checkpoints
    with pytest.raises(InputError, match="split.save"):
        loose = own.read_own(folder)
        loose.train.source = ""
        base.for_records(loose)


# ---------------------------------------------------------------- sigmas


def test_sigmas_of_a_known_skeleton_are_taken(tmp_path):
    records = load_custom(write_grid(tmp_path, COCO.keypoints), tmp_path)
    once, note = own.with_sigmas(records)
    assert once.skeleton.sigmas == COCO.sigmas and "coco" in note.lower()


def test_sigmas_are_measured_from_repeated_labels(folder):
    many = load_custom(folder / "labels.csv", folder).subset([0, 1, 2, 3, 4, 5, 6, 7] * 2)
    many.keypoints[8:] += np.random.default_rng(0).normal(0, 1, (8, 4, 2)).astype(np.float32)
    assert own.with_sigmas(many)[0].skeleton.sigmas == (0.05,) * 4  # 8 are too few
    more = many.subset([*range(16), *range(8, 16)])
    more.keypoints[16:] += np.float32(0.5)
    once, note = own.with_sigmas(more)
    assert len(once) == 8 and "8 objects" in note and 0 < max(once.skeleton.sigmas) < 0.05


# ---------------------------------------------------------------- what is refused, in one sentence


def test_errors_that_the_doctor_finds_stop_the_run(tmp_path, capsys):
    things(tmp_path / "x", 6)
    next((tmp_path / "x").glob("*.png")).unlink()
    words = ("train", "--data", tmp_path / "x", "--out", tmp_path / "run", *QUICK)
    message = refused(capsys, *words)
    assert "nothing was trained" in message and "--anyway" in message and "remedy" in message
    assert (tmp_path / "run" / "doctor.html").is_file()
    assert not (tmp_path / "run" / "data").exists()


def test_folders_that_cannot_be_meant(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no annotations in it"):
        own.read_own(tmp_path / "empty")
    things(tmp_path / "many", 3, "a.csv")
    things(tmp_path / "many", 3, "b.csv", seed=1)
    with pytest.raises(InputError, match="name the file: --data FILE"):
        own.read_own(tmp_path / "many")
    assert len(own.read_own(tmp_path / "many" / "b.csv").train) == 2
    things(tmp_path / "two", 3, "train.csv")
    things(tmp_path / "two", 3, "val.csv", names=("mouth", "left_fin", "nose"), seed=1)
    with pytest.raises(InputError, match="val.csv has the keypoints"):
        own.read_own(tmp_path / "two")
    with pytest.raises(InputError, match="does not exist"):
        own.read_own(tmp_path / "gone.csv")


def test_words_of_the_command_that_exclude_each_other(folder, tmp_path, capsys):
    words = ("--data", folder, "--out", tmp_path / "run")
    assert "--finetune" in refused(capsys, "train", ROW, *words, "--finetune", ROW)
    assert "coco/shufflenet-v2" in refused(capsys, "train", *words, "--finetune", "coco/shuflenet")
    assert "'gone.safetensors': there is no such file" in refused(
        capsys, "train", *words, "--weights", "gone.safetensors"
    )
    picture = next(folder.glob("*.png"))
    assert "Name the row: pose-nb" in refused(capsys, "predict", picture, "--weights", "x.pth")


GOOD = definition(get_row(ROW))
WRONG = [
    [],
    "own",
    {},
    GOOD | {"network of": 3},
    GOOD | {"network of": "coco/no-such-row"},
    GOOD | {"skeleton": None},
    GOOD | {"skeleton": {"keypoints": []}},
    GOOD | {"skeleton": {"keypoints": ["a", "a"]}},
    GOOD | {"codec": None},
    GOOD | {"codec": {"kind": ["MSRA"]}},
    GOOD | {"codec": GOOD["codec"] | {"input_size": [1e9, 2]}},
    GOOD | {"codec": GOOD["codec"] | {"sigma": "2"}},
    GOOD | {"codec": GOOD["codec"] | {"sigma": -1}},
    GOOD | {"codec": GOOD["codec"] | {"module": "os"}},
    GOOD | {"flip": "yes"},
]


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_definitions_from_outside_are_checked(value, tmp_path):
    file = tmp_path / "x.safetensors"
    write_safetensors(file, {"a": torch.zeros(1)}, {"definition": json.dumps(value)})
    with pytest.raises(InputError) as error:
        row_of_weights(file)
    assert "x.safetensors" in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("name", [ROW, "mpii/hrnet-w32", "coco/mspn-1-stg", "wflw/hrnetv2-w18"])
def test_a_definition_makes_the_row_again(name):
    row = get_row(name)
    assert read_definition(json.loads(json.dumps(definition(row))), "here") == row


def test_unread_files_are_named(tmp_path):
    Path(tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="x.safetensors"):
        row_of_weights(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not say which row"):
        row_of_weights(tmp_path / "x.pth")
