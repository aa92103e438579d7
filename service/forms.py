"""The forms a network is served in: eager, compiled ahead of time (aot), or compiled at start-up (jit)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models import compile as compiler
from models import directory
from models.compile import Run, Target
from models.inference import check_images, for_inference
from service import batch_curve

# How long a batch of background work may keep the device while others may come, in times of a lone image.
PATIENCE = 1.25

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]


@dataclass
class Form:
    """A way to run the network, and the batch sizes it is warm for with their measured images/s."""

    name: str
    run: Run
    target: Target
    curve: dict[int, float] = field(default_factory=dict)

    @property
    def cap(self) -> int:
        """The most images worth computing at once; needs a measured curve."""
        return batch_curve.best_batch(self.curve)

    def padded(self, images: int) -> int:
        """The measured batch size that so many images are computed at.

        At any other size kernels would be prepared first, for 10 to 30 ms, at the expense of whoever sent the batch.
        """
        return min(size for size in self.curve if size >= images)

    def free_in(self, now: float, waiting: int) -> float:
        """Seconds until a batch of what waits should be started: whenever the loop comes by, the device is free."""
        return 0.0

    def lands_in(self, now: float) -> float:
        """Seconds until a batch that was started comes back; inf when none is on its way."""
        return math.inf

    def quick(self) -> int:
        """The most images that take at most PATIENCE times as long as one."""
        lone = PATIENCE / self.curve[1]
        return max(size for size, rate in self.curve.items() if size / rate <= lone and size <= self.cap)

    def shrink(self, images: int) -> bool:
        """Do without the batch size that so many images were computed at, and larger ones; False if that is all."""
        smaller = {size: rate for size, rate in self.curve.items() if size < self.padded(images)}
        if smaller:
            self.curve = smaller
        return bool(smaller)

    def measure(self, staging: Images) -> Iterator[None]:
        """Warm up and time the batch sizes up to len(staging), or to what memory holds, pausing after every batch."""
        sizes = batch_curve.bucket_sizes(len(staging))
        try:
            yield from batch_curve.measure(lambda size: self._compute(staging[:size]), sizes, self.curve)
        except Exception as error:
            if not (self.curve and out_of_memory(error)):
                raise

    def warm_up(self, images: Images, rate: float) -> None:
        """Prepare a batch size, of which the images/s are known."""
        self._compute(images)
        self.curve[len(images)] = rate

    def scores(self, staging: Images, images: int) -> Scores:
        """Scores float32 [images, classes] of the first `images` of staging uint8 [max_batch, S, S, 3].

        Computed at the padded size; what stands in the padding is ignored.
        """
        return self._compute(staging[: self.padded(images)])[:images]

    def _compute(self, images: Images) -> Scores:
        with torch.inference_mode():
            return self.run(torch.from_numpy(images).to(self.target.device)).cpu().numpy()


def out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may do, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def eager(model: Path, target: Target) -> Form:
    """The network as PyTorch runs it op by op: ready at once, several times slower. Raises ModelDirectoryError."""
    config, network = directory.load(model)
    return Form("eager", for_inference(network, config, target.torch_dtype).to(target.device), target)


def aot(package: Path, target: Target) -> Form:
    """A compiled package. Raises compiler.PackageRefused."""
    return Form("aot", compiler.load_package(package, target), target)


def jit(
    model: Path, target: Target, staging: Images, cache: Path, place: Callable[[Form], Form] = lambda form: form
) -> Form:
    """torch.compile, every batch size compiled and measured (minutes); what was compiled is cached.

    place: makes of it what is measured and served.
    Raises PackageRefused, ModelDirectoryError. From then on a batch of another size is an error and not a compilation.
    """
    config, network = directory.load(model)
    images = check_images(config.preprocessing.input_size)
    with torch.inference_mode():
        expected = for_inference(network, config)(images)
    served = compiler.for_compiling(model, target)
    form = place(Form("jit", compiler.jit(served, cache, target.device), target))
    for _ in form.measure(staging):
        pass
    torch.compiler.set_stance("fail_on_recompile")

    def one_by_one(batch: torch.Tensor) -> torch.Tensor:
        # clone() makes an inference tensor, as those that are served are; any other would be a recompilation.
        return torch.cat([form.run(image.clone()) for image in batch.split(1)])

    compiler.refuse_disagreement(one_by_one, images.to(target.device), expected, target.dtype)
    return form
