"""A CUDA device as a pipeline needs it: three streams, static buffers, one captured graph for each batch size.

Copies start from the arena's own pages, which the driver has locked, so that no thread copies pixels on the host.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.compile import Run
from service.arena import Arena
from service.pipeline import LANES, Decoded, Stage, Times

# Before a graph is captured: the first call compiles or loads kernels, the second chooses among them, the third is as
# all others will be.
WARM_UPS = 3
TIMED_REPLAYS = 5


class Lane:
    """A place for one batch: pixels and scores on the device, scores on the host, and when each stage begins, ends."""

    def __init__(self, images: int, size: int, classes: int) -> None:
        self.pixels = torch.empty((images, size, size, 3), dtype=torch.uint8, device="cuda")
        self.scores = torch.empty((images, classes), dtype=torch.float32, device="cuda")
        self.answer = torch.empty((images, classes), dtype=torch.float32, pin_memory=True)
        self.began = [torch.cuda.Event(enable_timing=True) for _ in Stage]
        self.ended = [torch.cuda.Event(enable_timing=True) for _ in Stage]


class CudaDevice:
    """The current CUDA device, for batches of up to `images`; pipeline.Device says what each call does.

    runs: the ways to run the same network, by name. Each is captured at each batch size, and the fastest is kept.
    All calls belong to one thread.
    """

    def __init__(self, runs: Mapping[str, Run], arena: Arena, images: int) -> None:
        torch.backends.cudnn.benchmark = True  # shapes are static: what is measured once holds
        size, classes = arena.pixels.shape[1], arena.scores.shape[1]
        self.chosen: dict[int, str] = {}
        """by batch size, the name of the fastest way"""
        self._runs = runs
        self._slots = torch.from_numpy(arena.pixels)
        self._streams = {stage: torch.cuda.Stream() for stage in Stage}
        self.lanes = [Lane(images, size, classes) for _ in range(LANES)]
        # Every graph reads here, wherever its batch waited: one graph a batch size, not one a lane. Moving a batch
        # within the device takes a thousandth of the network's time.
        self._input = torch.zeros((images, size, size, 3), dtype=torch.uint8, device="cuda")
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        # Graphs never run at a time, and what one computed is moved out before the next: they share their memory.
        self._memory = torch.cuda.graph_pool_handle()

    def prepare(self, images: int) -> None:
        best = float("inf")
        for name, run in self._runs.items():
            graph, scores = self._capture(run, images)
            seconds = self._time(graph)
            if seconds < best:
                best, self.chosen[images], self._graphs[images] = seconds, name, (graph, scores)

    def copy_in(self, lane: int, slots: Sequence[int], decoded: Decoded) -> None:
        place, at = self.lanes[lane], 0
        with torch.cuda.stream(self._streams[Stage.COPY]):
            place.began[Stage.COPY].record()
            for first, count in stretches(slots):
                place.pixels[at : at + count].copy_(self._slots[first : first + count], non_blocking=True)
                at += count
            for at, slot in enumerate(slots if decoded else ()):
                if slot in decoded:
                    place.pixels[at].copy_(decoded[slot], non_blocking=True)
                    decoded[slot].record_stream(self._streams[Stage.COPY])  # its memory is another stream's
            place.ended[Stage.COPY].record()

    def launch(self, lane: int, images: int) -> None:
        place, (graph, scores) = self.lanes[lane], self._graphs[images]
        with torch.cuda.stream(self._streams[Stage.COMPUTE]):
            place.ended[Stage.COPY].wait()
            place.began[Stage.COMPUTE].record()
            self._input[:images].copy_(place.pixels[:images], non_blocking=True)
            graph.replay()
            place.scores[:images].copy_(scores, non_blocking=True)
            place.ended[Stage.COMPUTE].record()

    def copy_out(self, lane: int, images: int) -> None:
        place = self.lanes[lane]
        with torch.cuda.stream(self._streams[Stage.READ]):
            place.ended[Stage.COMPUTE].wait()
            place.began[Stage.READ].record()
            place.answer[:images].copy_(place.scores[:images], non_blocking=True)
            place.ended[Stage.READ].record()

    def done(self, lane: int, stage: Stage) -> bool:
        return self.lanes[lane].ended[stage].query()

    def scores(self, lane: int, images: int) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self.lanes[lane].answer[:images].numpy()
        return scores

    def seconds(self, lane: int) -> Times:
        place = self.lanes[lane]
        return Times(*(place.began[stage].elapsed_time(place.ended[stage]) / 1000 for stage in Stage))

    def _capture(self, run: Run, images: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        stream = self._streams[Stage.COMPUTE]
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                run(self._input[:images])
            with torch.cuda.graph(graph, pool=self._memory, stream=stream):
                scores = run(self._input[:images])
        return graph, scores

    def _time(self, graph: torch.cuda.CUDAGraph) -> float:
        """Seconds of the fastest of some replays."""
        if len(self._runs) == 1:
            return 0.0
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        found = []
        with torch.cuda.stream(self._streams[Stage.COMPUTE]):
            for _ in range(TIMED_REPLAYS):
                began.record()
                graph.replay()
                ended.record()
                ended.synchronize()
                found.append(began.elapsed_time(ended) / 1000)
        return min(found)


def pin(arena: Arena) -> None:
    """Have the driver lock the pages of the arena's pixels, so that copies from them need no other processor.

    Once in a process: a device that is made later finds them locked. Raises RuntimeError.
    """
    code = int(torch.cuda.cudart().cudaHostRegister(arena.pixels.ctypes.data, arena.pixels.nbytes, 0))
    if code != 0:
        raise RuntimeError(
            f"CUDA cannot lock the {arena.pixels.nbytes / 1e6:.0f} MB of the slots' pixels in memory (error {code}); "
            "lower COORDSERVE_QUEUE_IMAGES, or raise the container's limit of memory"
        )


def allocations() -> int:
    """How often memory of the device was allocated so far, by this process through PyTorch: constant once warm."""
    return int(torch.cuda.memory_stats()["allocation.all.allocated"])


def stretches(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Slots that lie side by side, as (first, count): each stretch is one copy."""
    at = 0
    while at < len(slots):
        first = at
        while at + 1 < len(slots) and slots[at + 1] == slots[at] + 1:
            at += 1
        at += 1
        yield slots[first], at - first
