"""The committed records: one for each row, sound, honest about its data, and repeatable."""

import json
import math
from pathlib import Path

import pytest

from pose_nb.files import InputError
from pose_nb.lessons.faces import face_network, face_row
from pose_nb.tables.facts import FACTS
from pose_nb.tables.ledger import read_record, record_path
from pose_nb.weights.hashes import sha256

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "records"


@pytest.mark.parametrize("name", list(FACTS))
def test_the_record_of_a_row(name):
    """Each row did its updates at its true size, and was measured."""
    record = read_record(name, RECORDS)
    assert record is not None, "python bench/all_rows.py makes it"
    assert record.command.startswith(f"pose-nb reproduce {name} ")
    assert record.status == "runs" and record.synthetic
    assert record.training["steps"] >= 2 and math.isfinite(record.training["last loss"])
    assert record.table.keys() == FACTS[name].published.keys()
    assert record.environment["hardware"] and record.environment["code"]
    assert record.environment["peak memory"] < 24 * 2**30
    assert record.training["images per second"] > 0
    folds = 3 if name.startswith("jhmdb/") else 1
    assert record.training["networks"] == len(record.weights) == folds
    assert all(len(digest) == 64 for digest in record.weights.values())


def test_no_path_of_a_machine_is_in_a_record():
    for file in RECORDS.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert not any(part in text for part in ("/tmp/", "/work/", "/home/", "/root/")), file


def test_every_record_belongs_to_a_row():
    known = {record_path(name, RECORDS) for name in FACTS}
    found = {path for path in RECORDS.rglob("*.json") if path.parent.name != "experiments"}
    assert found == known


def test_the_quick_rows_learn():
    """Where a CPU allows more than two updates, the loss falls."""
    learnt = 0
    for name in FACTS:
        training = json.loads(record_path(name, RECORDS).read_text())["training"]
        if training["steps"] >= 60:
            learnt += training["last loss"] < training["first loss"]
    assert learnt >= 5


def test_the_face_networks_are_those_of_their_record():
    record = json.loads((ROOT / "bench" / "records" / "faces.json").read_text())
    weights = ROOT / "nbs" / "face_weights.safetensors"
    assert sha256(weights) == record["weights"] and weights.stat().st_size < 200_000
    assert record["data"]["kind"] == "synthetic"
    assert " at " in record["environment"]["code"] and record["environment"]["code"][-1] != "+"
    for table in record["held-out SYNTHETIC faces"]:
        model = face_network(table, weights)
        assert model.head.final_layer.out_channels == len(face_row(table).skeleton)
    with pytest.raises(InputError, match="holds no last layer for wflw"):
        face_network("wflw", ROOT / "nbs" / "demo_weights.safetensors")
