"""Folders of pictures: which are read, which are held out, and what is wrong with the others."""

import shutil
from pathlib import Path

import pytest

from models import imagenet
from models.config import ModelConfig, Network
from models.training.data import DataError
from models.training.folders import describe, read_evaluation, read_folder, read_split
from models.training.scanned_digits import PREPROCESSING
from tests.models.training.shapes import LABELS, draw_set

CONFIG = ModelConfig(name="shapes", network=Network(family="mobilenetv2"), preprocessing=PREPROCESSING, labels=LABELS)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return draw_set(tmp_path / "shapes", per_class=10)


def test_a_fifth_of_each_class_is_held_out(shapes: Path):
    split = read_split(shapes, PREPROCESSING)

    assert split.labels == LABELS
    assert [sum(item.target == target for item in split.held_out) for target in range(3)] == [2, 2, 2]
    assert [sum(item.target == target for item in split.train) for target in range(3)] == [8, 8, 8]
    assert not split.skipped


def test_the_held_out_pictures_do_not_depend_on_where_they_lie_or_how_they_are_called(shapes: Path, tmp_path: Path):
    before = {item.digest for item in read_split(shapes, PREPROCESSING).held_out}
    moved = shapes.rename(tmp_path / "elsewhere")
    for index, path in enumerate(sorted((moved / "circle").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed-{index}"))

    assert {item.digest for item in read_split(moved, PREPROCESSING).held_out} == before


def test_copies_of_a_picture_are_on_one_side(shapes: Path):
    for path in list((shapes / "circle").iterdir()):
        shutil.copy(path, path.with_name(f"copy-of-{path.name}"))

    split = read_split(shapes, PREPROCESSING)

    assert not {item.digest for item in split.train} & {item.digest for item in split.held_out}


def test_pictures_in_folders_below_a_class_are_its_pictures(shapes: Path):
    deeper = shapes / "circle" / "from the phone" / "2026"
    deeper.mkdir(parents=True)
    for path in list((shapes / "circle").glob("*.png")):
        path.rename(deeper / path.name)

    assert len(read_folder(shapes, PREPROCESSING).items) == 30


def test_train_and_val_are_taken_as_they_are(tmp_path: Path):
    draw_set(tmp_path / "train", per_class=4)
    draw_set(tmp_path / "val", per_class=2, seed=1)

    split = read_split(tmp_path, PREPROCESSING)

    assert len(split.train) == 12
    assert len(split.held_out) == 6
    assert {item.path.parent.parent.name for item in split.held_out} == {"val"}


def test_what_cannot_be_read_is_named_skipped_and_counted(shapes: Path):
    good = (shapes / "circle" / "001.jpg").read_bytes()
    for name, data in {
        "cut.jpg": good[: len(good) // 2],
        "stub.jpg": good[:300],
        "notes.txt": b"hello",
        "empty.png": b"",
    }.items():
        (shapes / "circle" / name).write_bytes(data)
    (shapes / "circle" / ".DS_Store").write_bytes(b"not looked at")

    split = read_split(shapes, PREPROCESSING)

    assert sorted(one.path.name for one in split.skipped) == ["cut.jpg", "empty.png", "notes.txt", "stub.jpg"]
    assert len(split.train) + len(split.held_out) == 30
    told = describe(split.skipped)
    assert "skipped, as no pictures that can be read: 4" in told
    assert "notes.txt: not a JPEG, PNG or WebP image" in told


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: shutil.rmtree(root), "is not a folder"),
        (lambda root: [shutil.rmtree(root / label) for label in LABELS], "has no folders"),
        (lambda root: [shutil.rmtree(root / label) for label in LABELS[1:]], "has one class, 'circle'"),
        (lambda root: [path.unlink() for path in root.rglob("*.*")], "no picture in"),
        (
            lambda root: [path.unlink() for path in (root / "square").iterdir()],
            "class 'square' has 0 different pictures",
        ),
        (lambda root: [path.write_bytes(b"x") for path in root.rglob("*.*")], "no picture in"),
    ],
    ids=["missing", "empty", "one class", "empty folders", "an empty class", "all broken"],
)
def test_a_set_that_cannot_be_learned_says_why(shapes: Path, spoil, words: str):
    spoil(shapes)

    with pytest.raises(DataError, match=words):
        read_split(shapes, PREPROCESSING)


def test_a_class_in_val_that_train_lacks_is_named(tmp_path: Path):
    draw_set(tmp_path / "train", per_class=2)
    draw_set(tmp_path / "val", per_class=2)
    (tmp_path / "val" / "circle").rename(tmp_path / "val" / "hexagon")

    with pytest.raises(DataError, match="'hexagon'; it knows 'circle', 'square', 'triangle'"):
        read_split(tmp_path, PREPROCESSING)


def test_measuring_takes_some_of_a_models_classes_in_its_order(shapes: Path):
    shutil.rmtree(shapes / "circle")

    folder = read_evaluation(shapes, CONFIG)

    assert {item.target for item in folder.items} == {1, 2}


def test_measuring_reads_imagenets_folders_by_their_wordnet_ids(shapes: Path):
    ids = imagenet.wordnet_ids()
    for label, target in zip(LABELS, (3, 999, 500), strict=True):
        (shapes / label).rename(shapes / ids[target])

    folder = read_evaluation(shapes, CONFIG.model_copy(update={"labels": imagenet.labels()}))

    assert {item.target for item in folder.items} == {3, 500, 999}


def test_imagenets_labels_are_a_thousand_different_ones():
    assert len(set(imagenet.labels())) == len(set(imagenet.wordnet_ids())) == 1000
    assert (imagenet.wordnet_ids()[0], imagenet.labels()[0]) == ("n01440764", "tench")
