"""What a network costs: its parameters and its multiply-adds, counted, not looked up."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def parameters(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, input_size: int) -> int:
    """Multiply-adds of convolutions and linear layers for one image [3, input_size, input_size]."""
    with torch.inference_mode(), _Counter() as counter:
        network(torch.zeros(1, 3, input_size, input_size))
    return counter.multiply_adds


class _Counter(TorchFunctionMode):
    """Sees every convolution and linear layer. (FlopCounterMode does, too, but takes 1.5 s to import what it needs.)"""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if function in (F.conv2d, F.linear):
            weight: Tensor = args[1]  # [out, in, …]: every output value is a sum of as many products
            self.multiply_adds += output.numel() * weight[0].numel()
        return output
