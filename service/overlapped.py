"""A form of the network whose batches overlap on the device: copy, compute and read-back of neighbours at a time."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service import batch_curve, forms
from service.arena import Arena
from service.cuda_device import CudaDevice
from service.forms import Form, Images, Scores, out_of_memory
from service.pipeline import LANES, NONE_DECODED, Decoded, Device, Pipeline, Times

log = logging.getLogger(__name__)

REPEATS = 5  # of which the fastest is believed; others on the device only ever make a batch slower


@dataclass
class Overlapped(Form):
    """A form on a device with lanes."""

    device: Device = field(kw_only=True)
    slots: int = field(kw_only=True)
    """of the arena, whose pixels are measured with, whatever they show"""

    def __post_init__(self) -> None:
        self.pipeline: Pipeline[Any] = Pipeline(self.device)

    def measure(self, staging: Images) -> Iterator[None]:
        """Prepare and time the batch sizes up to len(staging), or to what memory holds, pausing after every batch.

        The largest first: the memory that it needs serves the others, too. What is too large for it is left out.
        """
        for size in reversed(batch_curve.bucket_sizes(len(staging))):
            try:
                self.device.prepare(size)
            except Exception as error:
                if not out_of_memory(error) or size == 1:
                    raise
                log.warning("batches of %d images do not fit into the device's memory", size)
                continue
            yield
            runs = []
            for _ in range(REPEATS):
                runs.append(self._alone(size))
                yield
            self._note(size, Times(*(min(seconds) for seconds in zip(*runs, strict=True))))

    def warm_up(self, images: Images, rate: float) -> None:
        """Prepare a batch size, of which the images/s are known."""
        self.device.prepare(len(images))
        self._note(len(images), self._alone(len(images)), rate)

    def shrink(self, images: int) -> bool:
        """As any form; the pipeline forgets the times, too."""
        shrunk = super().shrink(images)
        self.pipeline.times = {size: self.pipeline.times[size] for size in self.curve}
        return shrunk

    def free_in(self, now: float, waiting: int) -> float:
        cap = self.cap
        return self.pipeline.free_in(now, self.padded(min(waiting, cap)), full=waiting >= cap)

    def lands_in(self, now: float) -> float:
        return self.pipeline.lands_in(now)

    @property
    def full(self) -> bool:
        """Whether no lane is free."""
        return len(self.pipeline) == LANES

    def submit(self, slots: Sequence[int], ticket: object, now: float, decoded: Decoded = NONE_DECODED) -> None:
        """Send the images of the slots on their way, those that were decoded on the device from there."""
        self.pipeline.submit(slots, self.padded(len(slots)), ticket, now, decoded)

    def scores(self, staging: Images, images: int) -> Scores:
        raise NotImplementedError("batches of an overlapped form are submitted")

    def _alone(self, size: int) -> Times:
        return self.pipeline.alone([at % self.slots for at in range(size)], size)

    def _note(self, size: int, times: Times, rate: float = 0.0) -> None:
        """While batches overlap, the slowest stage says how many there are a second."""
        self.pipeline.times[size] = times
        self.curve = dict(sorted({**self.curve, size: rate or size / max(times)}.items()))


def placed(form: Form, package: Path, arena: Arena, images: int) -> Form:
    """A form as its device runs batches of up to `images`: on a GPU they overlap, elsewhere it is what it was.

    What is compiled at start-up has the compiled package as a rival, where there is one. Raises PackageRefused.
    """
    if form.target.device != "cuda":
        return form
    ways = {form.name: form.run}
    if form.name == "jit" and package.exists():
        ways["aot"] = forms.aot(package, form.target).run
    device = CudaDevice(ways, arena, images)
    return Overlapped(form.name, form.run, form.target, device=device, slots=len(arena.pixels))
