"""Every question in turn, within eight minutes: what fails or finds no time is noted, and the others are asked."""

import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from service.settings import available_cores

BUDGET_SECONDS = 8 * 60
EAGER_SIZES = 1, 8, 64, 256  # of what is served in a hurry only; cuDNN tries its ways at each
NO_GPU = "PyTorch finds no CUDA device: nothing was measured. It needs a GPU, its driver and a PyTorch built for CUDA"

Question = Callable[[Callable[[], bool]], Any]
"""Asked with going(), which says whether there is still time; returns what goes into the JSON"""


def run(out: Path) -> int:
    """Check and measure everything on the CUDA device; its exit code: 1 something was wrong, 2 there is no device."""
    if not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    from loadtests.device.subject import Subject

    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject.made(Path(folder))
        report = {**conditions(), **ask(questions(subject), begun + BUDGET_SECONDS)}
    report["seconds"] = round(time.monotonic() - begun)
    return written(out, report)


def ask(questions: Mapping[str, Question], until: float) -> dict[str, Any]:
    """The answers by name; `until` of time.monotonic() nothing new begins."""
    report: dict[str, Any] = {}
    begun = time.monotonic()
    for name, question in questions.items():
        if time.monotonic() >= until:
            report[name] = {"left_out": "there was no time for it"}
            continue
        print(f"{time.monotonic() - begun:5.0f} s  {name}", file=sys.stderr, flush=True)
        try:
            report[name] = question(lambda: time.monotonic() < until)
        except Exception as error:  # the others may still be answered
            traceback.print_exc()
            report[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    return report


def questions(subject: Any) -> dict[str, Question]:
    """In order of importance."""
    from loadtests.device import attention, checks, compute, decoding, floor, litserve, serving, start_up
    from loadtests.device.subject import LARGEST
    from models import compile as compiler
    from models.inference import check_images
    from models.networks.coordatt_fused import replayed_seconds
    from service.cuda_device import allocations

    served = subject.target.dtype
    settings = {"max_batch": LARGEST, "queue_images": 1536, "device": "cuda", "devices": 1}
    counts = tuple(count for count in serving.WORKERS if count < available_cores()) or (1,)
    forms: dict[str, Any] = {}

    def agree(going: Callable[[], bool]) -> Any:
        form = forms["aot"] = compute.measured(subject.form("aot", served), LARGEST)
        reference = subject.classifier(torch.float32)

        def spoil() -> None:
            for lane in form.device.lanes:
                lane.scores.fill_(torch.nan)
                lane.answer.fill_(torch.nan)
            torch.cuda.synchronize()  # what computes next does so on another stream

        @torch.inference_mode()
        def expected(images: torch.Tensor) -> torch.Tensor:
            return reference(images.cuda())

        found = checks.agreement(form, subject.arena, expected, list(form.curve), spoil)
        before = allocations()
        compute.sustained(form, max(form.curve), 0.5)
        return {"batches": found, "allocations_once_warm": allocations() - before}

    def computed(going: Callable[[], bool]) -> Any:
        rows = list(compute.rows(forms["aot"], 0.3))
        for dtype in ("bfloat16", "float16", "float32"):
            if going() and not (dtype == "bfloat16" and served != "bfloat16"):
                rows += compute.rows(compute.warm(subject.form("eager", dtype), EAGER_SIZES), 0.3)
        return rows

    def jit(going: Callable[[], bool]) -> Any:
        """One batch size only: each takes a minute or more to tune."""
        return list(compute.rows(compute.warm(subject.form("jit", served), [compiler.MEASURED_BATCH]), 0.3))

    def lowest(going: Callable[[], bool]) -> Any:
        images = check_images(subject.arena.pixels.shape[1]).repeat(compiler.MEASURED_BATCH // 16, 1, 1, 1)
        return floor.run(subject.classifier(subject.target.torch_dtype), images.cuda(), replayed_seconds)

    def serve(going: Callable[[], bool]) -> Any:
        forms.clear()  # its memory is the service's
        torch.cuda.empty_cache()
        return serving.run(subject.model, subject.cache, 3.0, counts, going, decode="cpu", **settings)

    def decoded(going: Callable[[], bool]) -> Any:
        few_and_many = tuple(sorted({counts[0], counts[-1]}))
        return decoding.run(subject.model, subject.cache, 3.0, few_and_many, going, **settings)

    package = compiler.package_path(subject.cache, subject.model, subject.target)
    return {
        "checks": agree,
        "compute": computed,
        "floor": lowest,
        "serving": serve,
        "decoding": decoded,
        "attention": lambda going: attention.run(subject, 0.5),
        "start_up": lambda going: start_up.run(subject.model, subject.cache, **settings),
        "litserve": lambda going: litserve.run(subject.model, package, 3.0),
        "jit": jit,
    }


def conditions() -> dict[str, Any]:
    """What the figures belong to."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": available_cores(),
        "date": time.strftime("%Y-%m-%d"),
    }


def written(out: Path, report: dict[str, Any]) -> int:
    """Write JSON, table and plots, print the table last; 1 if a check or a measurement failed."""
    from loadtests.device import page

    out.mkdir(parents=True, exist_ok=True)
    (out / "device.json").write_text(json.dumps(report, indent=1) + "\n")
    page.plots(report, out)
    text = page.table(report)
    (out / "device.txt").write_text(text)
    print(text, end="")
    return int(bool(page.wrong(report)))
