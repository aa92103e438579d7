"""How fast the device could be at best: bytes by its measured bandwidth, operations by its measured rate."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.inference import Pointwise
from models.networks.coordatt import CoordAtt

COPIED_BYTES = 1 << 30
PRODUCT = 8192
REPEATS = 10


@dataclass(frozen=True)
class Layer:
    """What a layer cannot do without: its input read, its output written, its weights read, its products."""

    name: str
    kind: str
    bytes: int
    operations: int


def layers(network: nn.Module, images: Tensor) -> tuple[list[Layer], dict[str, Tensor]]:
    """Every layer with weights at the size of `images`, and what comes in there.

    Activations and sums are left out: they can be computed on the way. Coordinate Attention reads its input twice.
    """
    found: list[Layer] = []
    inputs: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> None:
            x = arguments[0]
            inputs[name] = x
            weights = sum(parameter.numel() for parameter in module.parameters())
            reads = 2 if isinstance(module, CoordAtt) else 1
            moved = (reads * x.numel() + out.numel() + weights) * x.element_size()
            found.append(Layer(name, type(module).__name__, moved, _operations(module, x, out)))

        return hook

    kinds = nn.Conv2d, nn.Linear, Pointwise, CoordAtt
    within = [f"{name}." for name, module in network.named_modules() if isinstance(module, CoordAtt)]
    hooks = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, kinds) and not any(name.startswith(block) for block in within)
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return found, inputs


def seconds(layer: Layer, bandwidth: float, rate: float) -> float:
    """At best, by bytes/s and operations/s."""
    return max(layer.bytes / bandwidth, layer.operations / rate)


def run(network: nn.Module, images: Tensor, time: Callable[[Callable[[], object]], float]) -> dict[str, Any]:
    """The floor of a batch, and each layer's time, op by op, beside its own; time(call): seconds of a call."""
    dtype = next(network.parameters()).dtype
    bandwidth, rate = copy_bandwidth(images.device, time), product_rate(images.device, dtype, time)
    found, inputs = layers(network, images)
    modules = dict(network.named_modules())
    rows = []
    with torch.inference_mode():
        for layer in found:
            module, x = modules[layer.name], inputs[layer.name]
            took = time(lambda module=module, x=x: module(x))
            rows.append({**asdict(layer), "floor_ms": 1000 * seconds(layer, bandwidth, rate), "eager_ms": 1000 * took})
    rows.sort(key=lambda row: row["floor_ms"] - row["eager_ms"])
    return {
        "batch": len(images),
        "dtype": str(dtype).removeprefix("torch."),
        "copy_gb_per_second": bandwidth / 1e9,
        "product_tflops": rate / 1e12,
        "floor_ms": sum(row["floor_ms"] for row in rows),
        "layers": rows,
    }


def copy_bandwidth(device: torch.device, time: Callable[[Callable[[], object]], float]) -> float:
    """Bytes read and written a second within the device."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / time(lambda: target.copy_(source))


def product_rate(device: torch.device, dtype: torch.dtype, time: Callable[[Callable[[], object]], float]) -> float:
    """Operations a second of a large square product."""
    a = torch.randn(PRODUCT, PRODUCT, device=device, dtype=dtype)
    return float(2 * PRODUCT**3 / time(lambda: a @ a))


def _operations(module: nn.Module, x: Tensor, out: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        return 2 * out.numel() * module.weight[0].numel()
    if isinstance(module, CoordAtt):
        images, channels, height, width = x.shape
        products = 2 * 2 * images * (height + width) * channels * module.conv1.out_channels
        return products + 4 * x.numel()  # two sums, two gates
    weight = module.weight
    assert isinstance(weight, Tensor)
    return 2 * out.numel() * weight.shape[1]
