"""Times a network at each batch size, because the best one is a property of the machine and not a guess."""

import time
from collections.abc import Callable, Iterator

# Other processes only ever make a batch slower, so the fastest of a few runs is the one to believe.
REPEATS = 5
ENOUGH_SECONDS = 0.1  # a batch size that took this long in all needs no further repeat
# Past its peak the curve only falls (caches overflow): stop at the second size that is this far below,
# the first may have been unlucky.
PAST_PEAK = 0.85
# The smallest batch within this of the best rate wins: nearly the throughput, less waiting.
NEARLY_BEST = 0.95
# What a batch of any size costs the engine beside the network: 0.18 to 0.31 ms, measured with batches of 1, 4 and 12.
BATCH_SECONDS = 0.00025


def bucket_sizes(max_batch: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … up to `max_batch`: padding to the next one wastes at most a third."""
    sizes = {max_batch}
    power = 1
    while power <= max_batch:
        sizes |= {size for size in (power, power * 3 // 2) if size <= max_batch}
        power *= 2
    return sorted(sizes)


def measure(run: Callable[[int], object], sizes: list[int], curve: dict[int, float]) -> Iterator[None]:
    """Fill `curve` with images/s by batch size; pauses after every batch, so that others can be served between.

    run(n) computes one batch of n images. Every size in the curve is warm afterwards.
    """
    below = 0
    for size in sizes:
        run(size)  # the first call of a size prepares its kernels
        yield
        seconds: list[float] = []
        while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
            started = time.perf_counter()
            run(size)
            seconds.append(time.perf_counter() - started)
            yield
        curve[size] = size / min(seconds)
        below = below + 1 if curve[size] < PAST_PEAK * max(curve.values()) else 0
        if below == 2:
            return


def best_batch(curve: dict[int, float]) -> int:
    """The batch cap that a measured curve suggests."""
    served = {size: size / (size / rate + BATCH_SECONDS) for size, rate in curve.items()}
    best = max(served.values())
    return min(size for size, rate in served.items() if rate >= NEARLY_BEST * best)
