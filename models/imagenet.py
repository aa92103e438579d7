"""The 1000 classes of ImageNet (ILSVRC 2012) in their usual order, and the preprocessing that networks for it share."""

from functools import cache
from pathlib import Path

from models.config import Preprocessing

LABELS_FILE = Path(__file__).with_name("imagenet_labels.tsv")  # WordNet id, tab, name

PREPROCESSING = Preprocessing(
    input_size=224, resize_size=256, interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


@cache
def labels() -> tuple[str, ...]:
    """A name for each class, each different, such as `tench`."""
    return tuple(name for _, name in _rows())


@cache
def wordnet_ids() -> tuple[str, ...]:
    """A WordNet id for each class, such as `n01440764`: what ImageNet's folders are called."""
    return tuple(wordnet_id for wordnet_id, _ in _rows())


def _rows() -> list[tuple[str, str]]:
    return [
        (wordnet_id, name) for line in LABELS_FILE.read_text().splitlines() for wordnet_id, name in [line.split("\t")]
    ]
