"""The committed experiments: complete, in pairs, honest about their data, and computed again."""

import json
from pathlib import Path

import numpy as np
import pytest

from pose_nb.files import InputError
from pose_nb.tables.experiments import (
    EXPERIMENTS,
    MEASURES,
    ap_of,
    bootstrap,
    difference,
    differences,
    experiment,
    read_variant,
    t_interval,
)

FOLDER = Path(__file__).parent.parent / "records" / "experiments"
VARIANTS = sorted({v for e in EXPERIMENTS.values() for v in e.variants})


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_three_runs_on_synthetic_people(name):
    variant = read_variant(name, FOLDER)
    assert variant.data["kind"] == "synthetic" and len(variant.runs) >= 3
    assert (FOLDER / f"{name}.json").stat().st_size < 200_000
    base = read_variant("face-msra" if name.startswith("face") else "msra", FOLDER)
    assert variant.data == base.data
    for run in variant.runs.values():
        assert " at " in run.facts["code"] and not run.facts["code"].endswith("+")
        assert np.array_equal(run.people["image"], base.runs[0].people["image"])
        everybody = np.arange(len(run.people["image"]))
        if "NME" in run.figures:
            again = MEASURES["NME"](run.people, everybody)
            assert again == pytest.approx(run.figures["NME"], abs=0.02)
        elif name != "msra.det":  # whose answers are more than its people
            assert ap_of(run.people, everybody) == pytest.approx(run.figures["AP"], abs=0.01)


def test_every_record_belongs_to_an_experiment():
    others = {"face-msra.noflip"}
    assert {path.stem for path in FOLDER.glob("*.json")} == {*VARIANTS, *others}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_compares_runs_of_the_same_seeds(name):
    for one in differences(name, FOLDER):
        low, high = one.interval
        assert len(one.values) >= 3 and low < one.mean < high


def made_up(folder, name, values):
    """A record with one image, one person, and these figures for the seeds 0, 1 …"""
    people = {"oks": "900", "score": "500", "error": "20"}
    runs = [{"seed": i, "figures": {"AP": v}, "people": people} for i, v in enumerate(values)]
    record = dict(what=name, data={}, environment={}, image="0", labelled="17", runs=runs)
    (folder / f"{name}.json").write_text(json.dumps(record))
    return read_variant(name, folder)


def test_a_difference_is_one_of_pairs(tmp_path):
    """Two variants whose seeds differ much, and whose pairs differ little."""
    base = made_up(tmp_path, "base", [0.1, 0.5, 0.9])
    other = made_up(tmp_path, "other", [0.11, 0.52, 0.93, 0.99])
    found = difference(base, other, "AP")
    assert found.values == pytest.approx((0.01, 0.02, 0.03)) and found.verdict == "not told apart"
    low, high = found.interval
    assert (low, high) == pytest.approx((0.02 - 0.02484, 0.02 + 0.02484), abs=1e-5)
    assert t_interval([1, 1, 1]) == (1, 1)
    assert bootstrap(base, other, "AP", 5) == (0, 0)  # the same answers


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(InputError, match="was not run"):
        read_variant("msra", tmp_path)
    with pytest.raises(InputError, match="codec, decoder"):
        experiment("codecs")
    for broken in ("[]", '{"what": 1}', '{"runs": [{"seed": 0}]}'):
        (tmp_path / "msra.json").write_text(broken)
        with pytest.raises(InputError, match="no record of an exp|expected a dict"):
            read_variant("msra", tmp_path)
