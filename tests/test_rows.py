"""Rows: what is printed about them, the same cards in every run, nothing built to tell them."""

import csv
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace

import pytest

import pose_nb
from pose_nb.cli import main
from pose_nb.tables import cards, networks, zoo
from pose_nb.tables.facts import FACTS
from pose_nb.tables.rows import diff, every_field, size
from pose_nb.tables.zoo import MORE_ROWS, ROWS, get_row, list_models

TELL = """
import sys
from pose_nb.tables.zoo import ROWS
from pose_nb.tables.rows import diff
for row in ROWS:
    print(row)
    print(diff(ROWS[0], row))
print([name for name in ("timm", "torchvision") if name in sys.modules])
"""


def test_cards_and_differences_are_the_same_in_every_run():
    """In another process, where the addresses and the order of sets are others."""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", TELL]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    first = done.stdout
    here = [text for row in ROWS for text in (str(row), str(diff(ROWS[0], row)))]
    assert first.splitlines()[:-1] == "\n".join(here).splitlines()
    assert "0x" not in first and "<" not in first
    assert first.endswith("[]\n"), "a card needs no network, and so neither timm nor torchvision"
    assert first.count("\n  loss       ") == 87 and "adaptive_wing" in first


WRITE = "after a change of the rows: python -m pose_nb.tables.cards"


def test_stored_cards_are_those_of_the_rows():
    """With the hash of the sources above them; where it is another one, none is believed."""
    for row in (*ROWS, *MORE_ROWS):
        assert cards.stored_card(row.id) == str(row), WRITE
    assert cards.stored_card("coco/resnet") is None and cards.stored_card("") is None


def test_every_card_is_read_without_torch():
    """All rows, one after the other, through the command line."""
    ids = [row.id for row in (*ROWS, *MORE_ROWS)]
    code = f"""
import sys
from pose_nb.cli import app
for row in {ids!r}: app(["info", row], standalone_mode=False)
print([name for name in ("torch", "cv2", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]" and sum(line.startswith("  targets") for line in lines) == len(ids)


def test_no_card_is_believed_after_a_change(monkeypatch, capsys):
    """Another sigma by default, say; the row itself is asked then, and so the card is true."""
    written = cards.sources()
    changed = written | {"codecs/msra.py": written["codecs/msra.py"].replace("2.0", "2.5")}
    assert changed != written
    monkeypatch.setattr(cards, "sources", lambda: changed)
    assert cards.stored_card("coco/resnet-50") is None
    monkeypatch.setattr(zoo, "get_row", lambda name: f"a card made for {name}")
    with pytest.raises(SystemExit) as end:
        main(["info", "coco/resnet-50"])
    assert not end.value.code
    assert capsys.readouterr().out.startswith("a card made for coco/resnet-50")


def classes(value):
    """Where the classes of a value and of all values in it are written."""
    if is_dataclass(value):
        yield type(value).__module__
        for part in fields(value):
            yield from classes(getattr(value, part.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from classes(part)


def test_a_change_of_what_a_row_is_made_of_is_noticed():
    """Every class whose fields are told on a card is in one of the hashed files."""
    hashed = {f"pose_nb.{path[:-3].replace('/', '.')}" for path in cards.sources()}
    told = {name for row in ROWS for value in (row.codec, row.recipe) for name in classes(value)}
    told |= {row.network.__module__ for row in ROWS}  # the sentence about the network
    assert told <= hashed and "pose_nb.losses" in told


def test_a_changed_network_is_counted_anew():
    """The printed sizes belong to the printed network, input and skeleton, not to the id."""
    row = get_row("coco/resnet-50")
    assert size(row) == (33_999_697, 5_426_380_800)
    assert size(replace(row, network=networks.alexnet))[0] == FACTS["coco/alexnet"].parameters
    mpii = get_row("mpii/resnet-50")
    assert size(replace(row, benchmark=mpii.benchmark, codec=mpii.codec)) == size(mpii)


def test_a_difference_names_nested_fields():
    found = diff(get_row("wflw/hrnetv2-w18"), get_row("wflw/hrnetv2-w18-awing"))
    assert found["recipe.supervise.loss.losses"] == ("keypoint_mse", "adaptive_wing")
    assert set(found) == {"id", "published", "checkpoints", "recipe.supervise.loss.losses"}


def test_ids_are_listed_without_torch():
    code = "import sys, pose_nb; print(len(pose_nb.list_models()), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "87 False\n"
    assert pose_nb.list_models() == [row.id for row in ROWS]


def test_facts_are_those_of_the_result_pages(reference):
    """Figures, files and starts of all rows, against an independent list."""
    with open(reference / "rows.csv", encoding="utf-8") as file:
        lines = {line["row_id"]: line for line in csv.DictReader(file)}
    assert set(lines) == set(FACTS)
    for name, line in lines.items():
        facts = FACTS[name]
        figures = [line[f"metric{i}"] for i in range(1, 8) if line[f"metric{i}_name"]]
        assert list(facts.published.values()) == [float(value) for value in figures], name
        assert facts.input_size == (int(line["input_w"]), int(line["input_h"])), name
        assert facts.checkpoints == tuple(line["ckpt_url_file"].split(";")), name
        assert facts.continues == line["load_from"], name
        start = line["init_checkpoint"]
        assert facts.starts_from == ("" if "random" in start else start), name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_holds_objects_only(row):
    """Nothing is looked up by a word: the network is a function that imports what it needs."""
    network = row.network()
    assert row.network is getattr(networks, FACTS[row.id].network)
    assert callable(network.backbone) and callable(network.head)
    assert all(isinstance(rule, tuple) and len(rule) == 2 for rule in network.names)


@pytest.mark.parametrize("table", sorted({name.split("/")[0] for name in list_models()}))
def test_a_card_shows_what_tells_two_rows_apart(table):
    """Each value in which two rows of a table differ stands on both their cards."""
    rows = [get_row(name) for name in list_models(f"{table}/*")]
    cards = {row.id: str(row) for row in rows}
    assert len(set(cards.values())) == len(rows)
    for first in rows:
        for second in rows:
            for name, pair in diff(first, second).items():
                if name.startswith(("recipe.", "codec.")):
                    for row, value in zip((first, second), pair, strict=True):
                        assert str(value) in cards[row.id], f"{row.id}: {name} = {value}"


def test_nothing_told_of_a_row_is_an_address():
    for name in list_models():
        assert " at 0x" not in str(every_field(get_row(name))) + str(get_row(name))
