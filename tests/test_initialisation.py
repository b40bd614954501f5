"""How fresh networks begin: every family against the rules recorded from the reference."""

import csv
import json
import math
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from pose_nb.lessons.networks import initial_facts, rule_deviation, start_lines, start_rule
from pose_nb.tables.zoo import ROWS, get_row
from pose_nb.weights.names import published_names

FOLDER = Path(__file__).parent / "golden" / "initial"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.json"))
FACTS = {family: initial_facts(family) for family in FAMILIES}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")


def named(row):
    """The network of a row, fresh, and our name -> published name."""
    model = row.create()
    return model, published_names(model.state_dict(), row.network().names)


def wrong(lines):
    """Lines that miss their rule by more than their numbers allow: 6 standard errors."""
    found = []
    for line in lines:
        if math.isnan(line.kurtosis):
            fits = line.ratio == 0
        else:
            fits = abs(line.ratio - 1) < 6 / math.sqrt(2 * line.numbers)
            law = 3.0 if line.rule.split()[0] in ("normal", "kaiming") else 1.8
            fits &= abs(line.kurtosis - law) < 0.1 + 6 * math.sqrt(24 / line.numbers)
        if not fits:
            found.append(line)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_network_begins_as_the_references(family):
    facts = FACTS[family]
    torch.manual_seed(0)
    model, names = named(get_row(facts["row"]))
    lines = start_lines(model, names, facts)
    assert not wrong(lines)
    used = {line.pattern.removesuffix(" (vectors)") for line in lines}
    assert used == {pattern for kind in ("matrices", "vectors") for pattern, _ in facts[kind]}
    still = tuple(facts["never_trained"])
    for name, value in model.named_parameters():
        assert value.requires_grad != name.startswith(still or ("nothing",)), name
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert [module.eps, module.momentum] == facts["batch_norm"]
            assert not module.running_mean.any() and (module.running_var == 1).all()
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == facts["layer_norm_eps"]
        elif isinstance(module, DropPath):
            assert facts["drop_path"] or not module.drop_prob


def test_a_wrong_start_is_seen():
    """Each kind of mistake that families had: a scale, a law, a bias."""
    facts, row = FACTS["seresnet"], get_row(FACTS["seresnet"]["row"])
    torch.manual_seed(0)
    model, names = named(row)
    layer = model.backbone.layer1[0].se.fc1
    assert not wrong(start_lines(model, names, facts))
    with torch.no_grad():
        layer.bias[0] = 0.01
        assert [line.rule for line in wrong(start_lines(model, names, facts))] == ["0"]
        layer.bias[0] = 0
        model.head.deconv_layers[0].weight *= 1.02
        assert [line.pattern for line in wrong(start_lines(model, names, facts))] == ["head.*"]
        for convolution in (m for m in model.head.modules() if isinstance(m, nn.ConvTranspose2d)):
            nn.init.uniform_(convolution.weight, -0.001 * 3**0.5, 0.001 * 3**0.5)
        (line,) = wrong(start_lines(model, names, facts))
        assert line.pattern == "head.*" and line.kurtosis < 2


LAST_BLOCKS = [pair for facts in FACTS.values() for pair in facts["drop_path"].items()]


@pytest.mark.parametrize(("row", "last"), LAST_BLOCKS)
def test_drop_path_rises_from_the_first_block_to_the_last(row, last):
    with torch.device("meta"):
        model = get_row(row).create()
    chances = sorted({m.drop_prob for m in model.modules() if isinstance(m, DropPath)} | {0.0})
    assert chances == pytest.approx([last * i / (len(chances) - 1) for i in range(len(chances))])
    assert len(chances) > 8


def test_rows_name_the_files_that_training_began_with():
    starts = {row: file for facts in FACTS.values() for row, file in facts["starts"].items()}
    assert starts == {row.id: row.continues or row.starts_from for row in ROWS}


def recorded(reference):
    """(family, what was recorded of one network) for all networks of the outside folder."""
    row_family = {row: family for family in FAMILIES for row in FACTS[family]["starts"]}
    for path in sorted((reference / "init").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        yield row_family[content["row"]], content


def test_the_rules_hold_for_every_recorded_tensor(reference):
    seen = set()
    for family, content in recorded(reference):
        facts, seen = FACTS[family], seen | {family}
        shapes = {name: shape for name, shape, _ in content["entries"]}
        for name, shape, values in content["entries"]:
            if name.endswith(BUFFERS):
                continue
            _, rule = start_rule(facts, name, len(shape))
            beside = shapes.get(f"{name.removesuffix('bias')}weight", shape)
            deviation = rule_deviation(rule, shape, beside)
            if not deviation:
                assert values == {"const": pytest.approx(float(rule))}, name
                continue
            slack = max(6 / math.sqrt(2 * math.prod(shape)), 0.03)  # estimates from one draw
            assert values["std"] == pytest.approx(deviation, rel=slack), name
            if math.prod(shape) >= 512:
                assert (values["kurtosis"] < 2.4) == rule.startswith("uniform"), name
        told = content["facts"]
        assert told["batch_norm"] == [facts["batch_norm"]] and told["frozen"] == []
        assert told["layer_norm_eps"] == [e for e in [facts["layer_norm_eps"]] if e]
        assert max(told["drop_path"], default=0) == facts["drop_path"].get(content["row"], 0)
        assert told["sync_bn"] == get_row(content["row"]).recipe.sync_bn, content["row"]
    assert seen == set(FAMILIES) - {"vitpose"}


def test_starts_are_those_of_the_configurations(reference):
    with open(reference / "rows.csv", encoding="utf-8") as file:
        lines = {line["row_id"]: line for line in csv.DictReader(file)}
    for facts in FACTS.values():
        for row, file in facts["starts"].items():
            assert file == (lines[row]["load_from"] or lines[row]["init_checkpoint"]), row


def test_every_pattern_means_something():
    """No rule stands behind one that matches all that it matches."""
    for facts in FACTS.values():
        for kind in ("matrices", "vectors"):
            patterns = [pattern for pattern, _ in facts[kind]]
            for i, pattern in enumerate(patterns):
                assert not any(fnmatchcase(pattern, earlier) for earlier in patterns[:i]), pattern
