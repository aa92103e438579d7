"""What a network costs: its parameters and its multiply-adds, counted, not looked up."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, input_size: int) -> int:
    """Multiply-adds of convolutions and matrix products for one image [3, input_size, input_size]."""
    network = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, input_size, input_size, device="meta"))
    return counter.get_total_flops() // 2
