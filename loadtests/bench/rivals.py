"""The ways to run the same network: pixels uint8 [N, S, S, 3] in, scores float32 [N, classes] out.

Each gets as many threads as the service gives the network. ONNX Runtime and OpenVINO get it as it was trained, batch
norms and all: they fold those by themselves, and were no faster with our forms of layers.
"""

import importlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from models import compile as compiler
from models import directory
from models.compile import Run, Target
from models.config import read_config
from models.inference import Classifier, check_images, for_inference

STREAM_JOBS = 4  # that each stream of OpenVINO computes before all wait for the last


class LeftOut(Exception):
    """A way that there is not, here; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A network, what it is to be run for, and folders."""

    model: Path
    target: Target
    cache: Path
    """has its compiled package"""
    scratch: Path
    """for exported files"""

    def served(self, dtype: torch.dtype | None = None) -> Classifier:
        """As it is served, op by op."""
        config, network = directory.load(self.model)
        return for_inference(network, config, dtype or self.target.torch_dtype)

    def trained(self) -> Classifier:
        config, network = directory.load(self.model)
        return Classifier(network.eval(), config.preprocessing).eval()

    def images(self, batch: int) -> Tensor:
        every = check_images(read_config(self.model).preprocessing.input_size)
        return every[torch.arange(batch) % len(every)]


Make = Callable[[Subject, Tensor], Run]
"""Makes a way ready for batches such as the one given. Raises LeftOut."""


def eager(subject: Subject, images: Tensor) -> Run:
    return subject.served()


def aot(subject: Subject, images: Tensor) -> Run:
    return compiler.load_package(compiler.package_path(subject.cache, subject.model, subject.target), subject.target)


def jit(subject: Subject, images: Tensor) -> Run:
    return _compiled_now(lambda: compiler.jit(subject.served(), subject.cache), subject, images)


def torch_compile(subject: Subject, images: Tensor) -> Run:
    return _compiled_now(lambda: torch.compile(subject.served()), subject, images)


def onnx_runtime(subject: Subject, images: Tensor) -> Run:
    if subject.target.dtype != "float32":
        raise LeftOut("has no bfloat16 on CPUs")
    runtime = _installed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = subject.target.threads
    options.add_free_dimension_override_by_name("batch", len(images))
    session = runtime.InferenceSession(str(_onnx(subject)), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def openvino(subject: Subject, images: Tensor) -> Run:
    """One batch after the other, all threads on each."""
    request = _openvino(subject, images, streams=1).create_infer_request()

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(request.infer({0: images.numpy()}, share_inputs=True, share_outputs=True)[0])

    return run


def openvino_streams(subject: Subject, images: Tensor) -> Run:
    """As many batches at a time as there are threads: the scores of several of the same batch."""
    streams = subject.target.threads
    if streams == 1:
        raise LeftOut("the same, with one thread")
    queue = _installed("openvino").AsyncInferQueue(_openvino(subject, images, streams), streams)
    done: list[Tensor] = []
    queue.set_callback(lambda request, _: done.append(torch.from_numpy(request.get_output_tensor(0).data.copy())))

    def run(images: Tensor) -> Tensor:
        done.clear()
        for _ in range(STREAM_JOBS * streams):
            queue.start_async({0: images.numpy()}, share_inputs=True)
        queue.wait_all()
        return torch.cat(done)

    return run


RIVALS: dict[str, Make] = {
    "aot": aot,
    "eager": eager,
    "torch.compile": torch_compile,
    "jit": jit,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
    "OpenVINO, a stream a core": openvino_streams,
}
COMPILING = torch_compile, jit  # for every batch size, half a minute each


def _compiled_now(make: Callable[[], Run], subject: Subject, images: Tensor) -> Run:
    torch.compiler.reset()  # it counts what was compiled before against a limit
    folder = tempfile.mkdtemp(dir=subject.scratch)
    with patch.dict(os.environ, {compiler.INDUCTOR_CACHE: folder}), torch.inference_mode():
        run = make()
        run(images)
    return run


def _onnx(subject: Subject) -> Path:
    """The network in float32 as an ONNX file, exported once."""
    path = subject.scratch / f"{subject.model.name}.onnx"
    if not path.exists():
        for needed in ("onnx", "onnxscript"):
            _installed(needed)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
        options: dict[str, Any] = {
            "dynamo": True,
            "dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=compiler.MAX_BATCH)},),
            "input_names": ["images"],
            "output_names": ["scores"],
            "verbose": False,
        }
        torch.onnx.export(subject.trained(), (subject.images(2),), str(path), **options)
    return path


def _openvino(subject: Subject, images: Tensor, streams: int) -> Any:
    core = _installed("openvino").Core()
    model = core.read_model(str(_onnx(subject)))
    model.reshape({0: list(images.shape)})
    return core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[subject.target.dtype],
            "INFERENCE_NUM_THREADS": subject.target.threads,
            "NUM_STREAMS": streams,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        },
    )


def _installed(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LeftOut(f"{module} is not installed") from error
