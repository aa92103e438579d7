"""The digits that come along, as something to learn from: varied ones that never run out, and the scans held out."""

from collections.abc import Iterator

from torch import Generator

from models.config import Preprocessing
from models.training import scanned_digits
from models.training.data import Examples
from models.training.drawn_digits import ON_CANVAS, TrainingDigits

NAME = "digits"
DESCRIPTION = "Handwritten and printed digits: scikit-learn's 8x8 scans, and digits drawn from paths and a font."
EPOCH_BATCHES = 100  # varied digits never run out, so an epoch is a number of batches
HELD_OUT_BATCH = 256
# Small digits of any colour anywhere in the picture teach a new network next to nothing for hundreds of steps. What
# fills the frame, light on dark, it learns in a hundred, and then keeps up as the pictures become harder.
EASY = 0.35  # of all steps, over which difficulty rises from 0 to 1


class DigitsSource:
    """Varied digits for a training of `epochs`, and the held-out scans as they are. Raises DataError."""

    labels = scanned_digits.LABELS
    preprocessing = scanned_digits.PREPROCESSING
    epoch_batches = EPOCH_BATCHES

    def __init__(self, epochs: int, batch_size: int, seed: int) -> None:
        self._steps, self._batch_size, self._seed = epochs * self.epoch_batches, batch_size, seed
        self._generator, self._drawn = Generator(), 0
        scans, _ = scanned_digits.load(ON_CANVAS)
        self._varied = TrainingDigits(scans)

    def epoch(self, number: int) -> Iterator[Examples]:
        begin = number * self.epoch_batches
        if not 0 < self._drawn <= begin:
            self._generator.manual_seed(self._seed)
            self._drawn = 0
        while self._drawn < begin:  # one stream of random numbers: a resumed training draws its beginning again
            self._draw()
        for _ in range(self.epoch_batches):
            yield self._draw()

    def _draw(self) -> Examples:
        difficulty = min(1.0, self._drawn / (EASY * self._steps))
        self._drawn += 1
        return self._varied.batch(self._batch_size, self._generator, difficulty)

    def held_out(self) -> Iterator[Examples]:
        return held_out(self.preprocessing)


def held_out(preprocessing: Preprocessing) -> Iterator[Examples]:
    """The held-out scans, in batches, seen with any preprocessing. Raises DataError."""
    _, scans = scanned_digits.load(preprocessing)
    return scans.split(HELD_OUT_BATCH)
