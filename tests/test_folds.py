"""JHMDB: three networks, each learns from its own training split and is tested on its own test."""

import json
from dataclasses import replace

import pytest
from small_run import ARGUMENTS, network

from pose_nb import table_lines
from pose_nb.files import InputError
from pose_nb.networks.heads import HeatmapHead
from pose_nb.networks.model import PoseModel
from pose_nb.codecs.msra import MSRA
from pose_nb.synth.forms import make_form
from pose_nb.table_lines import fold_weights, table_line
from pose_nb.tables.recipes import Recipe
from pose_nb.tables.zoo import get_row
from pose_nb.training import train
from pose_nb.weights.hashes import sha256


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds") / "jhmdb"
    return make_form(folder, "jhmdb", train=8, val=4, workers=0, progress=False)


@pytest.fixture
def row(monkeypatch):
    """`jhmdb/resnet-50` with a small network on small crops, and what it was asked to load."""
    row = get_row("jhmdb/resnet-50")
    loaded = []

    def create(self, weights=None):
        loaded.append(None if weights is None else str(weights))
        backbone = network().backbone
        return PoseModel(backbone, HeatmapHead(1024, len(self.skeleton), (32, 32, 32)))

    monkeypatch.setattr(type(row), "create", create)
    small = replace(row, codec=MSRA((64, 96), (16, 24)), recipe=Recipe(epochs=1, batch=8))
    return small, loaded


def test_each_network_learns_from_its_own_split(row, data, tmp_path):
    row, _ = row
    files = []
    for fold in (1, 2, 3):
        settings = ARGUMENTS | dict(limit=None, fold=fold, val_limit=1)
        train(row, data, tmp_path / f"split{fold}", **settings)
        seen = json.loads((tmp_path / f"split{fold}" / "run.json").read_text())["settings"]
        names = [name for name in seen if name.startswith("annotations, ")]
        number = "" if fold == 1 else str(fold)
        assert names == [f"annotations, train{number}", f"annotations, val{number}"]
        files.append([seen[name] for name in names])
        lists = [data / "annotations" / f"Sub{fold}_{kind}.json" for kind in ("train", "test")]
        assert files[-1] == [sha256(file) for file in lists]
    assert len({file for pair in files for file in pair}) == 6


def test_each_network_is_tested_on_its_own_split(row, data, monkeypatch, tmp_path):
    row, loaded = row
    for fold in (1, 2, 3):
        (tmp_path / f"split{fold}").mkdir()
        (tmp_path / f"split{fold}" / "best.safetensors").touch()
    line = table_line(row, data, tmp_path, device="cpu", progress=False, limit=1)
    assert [name.split("/")[-2] for name in loaded] == ["split1", "split2", "split3"]
    assert list(line.splits) == ["val", "val2", "val3"] and set(line.table) == {"PCK", "tPCK"}
    mean = sum(figures["PCK"] for figures in line.splits.values()) / 3
    assert line.table["PCK"] == pytest.approx(mean)


def test_published_weights_go_with_their_split(row, monkeypatch):
    row, _ = row
    asked = []
    monkeypatch.setattr(table_lines, "weights_file", lambda word, files: asked.append(files))
    for fold in (1, 2, 3):
        fold_weights(row, "published", fold)
    assert [files for (files,) in asked] == list(row.checkpoints)
    assert ["sub1" in f[0] or "sub2" in f[0] or "sub3" in f[0] for f in asked] == [True] * 3


def test_one_file_for_three_networks_is_refused(row, data):
    with pytest.raises(InputError, match="has 3 networks, each for its own test split"):
        table_line(row[0], data, "best.safetensors", progress=False)
