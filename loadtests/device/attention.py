"""What Coordinate Attention costs: the network beside the one without, and each block, in all ways to compute it."""

from typing import Any

from loadtests.device import compute
from loadtests.device.subject import LARGEST, Subject
from models.compile import MEASURED_BATCH
from models.inference import check_images
from models.networks import coordatt_fused


def run(subject: Subject, seconds: float) -> dict[str, Any]:
    """Images/s of both at the served dtype, compiled, and ms of every block at 64 images as CUDA graphs."""
    rates = {}
    for name, model in (("with", subject.model), ("without", subject.plain)):
        form = compute.warm(subject.form("aot", subject.target.dtype, model), (LARGEST, MEASURED_BATCH))
        for size in (LARGEST, MEASURED_BATCH):
            rates[f"{name}_{size}"] = compute.sustained(form, size, seconds)
    network = subject.classifier(subject.target.torch_dtype)
    images = check_images(subject.arena.pixels.shape[1]).repeat(MEASURED_BATCH // 16, 1, 1, 1).to(subject.target.device)
    blocks = coordatt_fused.fuse_where_faster(network, images, coordatt_fused.replayed_seconds)
    return {
        "images_per_second": rates,
        "cost": {str(size): 1 - rates[f"with_{size}"] / rates[f"without_{size}"] for size in (MEASURED_BATCH, LARGEST)},
        "blocks_ms": {name: {way: 1000 * took for way, took in ways.items()} for name, ways in blocks.items()},
    }
