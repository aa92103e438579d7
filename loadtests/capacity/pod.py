"""What one pod was measured to be: the file that `measure` writes and every simulation reads."""

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any


class PodFileError(Exception):
    """A pod file that cannot be used, and why."""


class NotMeasuredError(Exception):
    """A pod could not be measured, and why."""


@dataclass(frozen=True)
class Pod:
    """Seconds are what a piece of work takes while nothing else runs on its cores."""

    model: str
    device: str
    """cpu, where workers and engine share the cores, or cuda, where a batch takes none of them"""
    cores: int
    workers: int
    queue_images: int
    batch_cap: int
    threads: int
    """of the engine, on a CPU"""
    images_per_second: dict[int, float]
    """the measured curve, by batch size"""
    decode_seconds: float
    """of one image in a worker"""
    request_seconds: float
    """all else that a worker does for a request, half of it before decoding"""
    turn_seconds: float
    """what it does for a turn of its event loop, however many requests that is for: waking up, with cold caches"""
    batch_seconds: float
    """of a batch beyond what the curve says"""
    wire_seconds: float = 0.0
    """what a lone request takes beyond all this work"""
    client_seconds: float = 0.0
    """CPU of the load generator for a request, if it ran on the same cores"""
    client_turn_seconds: float = 0.0
    """what it takes when it has been idle before"""
    crowded: float = 1.0
    """how many times as long work takes while others keep the other cores busy"""
    start_seconds: float = 0.0
    """from the start to ready, with a compiled network in the cache"""
    compile_seconds: float = 0.0
    """what a start without one takes longer"""
    connections: int = 0
    """in the closed loop that found `capacity`"""
    capacity: float = 0.0
    """images/s that were answered in it"""
    measured: dict[str, Any] = field(default_factory=dict)
    """when, on what"""

    def alone(self) -> "Pod":
        """The same pod, its clients on other machines."""
        return replace(self, client_seconds=0.0, client_turn_seconds=0.0)

    def batch_time(self, images: int) -> float:
        """Seconds of a batch, padded to the next measured size as the engine does."""
        padded = min(size for size in self.images_per_second if size >= images)
        return padded / self.images_per_second[padded] + self.batch_seconds


def write(path: Path, pod: Pod) -> None:
    path.write_text(json.dumps(asdict(pod), indent=2) + "\n")


def read(path: Path) -> Pod:
    """Raises PodFileError, which names the field."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PodFileError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise PodFileError(f"{path}: a JSON object is needed, as `measure` writes it")
    known = {one.name: one for one in fields(Pod)}
    if unknown := sorted(found.keys() - known.keys()):
        raise PodFileError(f"{path}: unknown: {', '.join(unknown)}")
    for name, one in known.items():
        if name not in found and one.default is one.default_factory:  # both are "missing"
            raise PodFileError(f"{path}: {name} is missing; `measure` writes it")
    for name, kind in (("model", str), ("device", str), ("measured", dict), ("images_per_second", dict)):
        if not isinstance(found.get(name, kind()), kind):
            raise PodFileError(f"{path}: {name} has to be {'an object' if kind is dict else 'a text'}")
    if found["device"] not in ("cpu", "cuda"):
        raise PodFileError(f"{path}: device is {found['device']!r}, and not cpu or cuda")
    for name in known.keys() & found.keys() - {"model", "device", "images_per_second", "measured"}:
        least = 1 if known[name].type is int and name != "connections" else 0
        _check(path, name, found[name], least, whole=known[name].type is int)
    try:
        curve = {int(size): rate for size, rate in found["images_per_second"].items()}
    except ValueError as error:
        raise PodFileError(f"{path}: images_per_second: batch sizes are whole numbers") from error
    for size, rate in curve.items():
        _check(path, f"images_per_second of batches of {size}", rate, 1e-9)
    if not curve or max(curve) < found["batch_cap"]:
        raise PodFileError(f"{path}: images_per_second has no batch of batch_cap, {found['batch_cap']} images")
    return Pod(**{**found, "images_per_second": dict(sorted(curve.items()))})


def _check(path: Path, name: str, value: Any, least: float, whole: bool = False) -> None:
    number = isinstance(value, int) or (isinstance(value, float) and not whole)
    if not number or isinstance(value, bool) or not math.isfinite(value) or value < least:
        what = "a whole number" if whole else "a number"
        raise PodFileError(f"{path}: {name} has to be {what} of at least {least:g}, and is {value!r}")
