"""What the service itself reaches on this machine, a module a question: `make bench`."""

from loadtests import wrk
from loadtests.bench.turns import spread
from loadtests.machine import cpu
from loadtests.networks import compiled, imagenet_sized

WRK_BODY = wrk.SCRIPT % ("%s", "image/jpeg")

__all__ = ["WRK_BODY", "compiled", "cpu", "imagenet_sized", "spread", "wrk"]
