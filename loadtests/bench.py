"""What the service reaches on this machine, as one JSON file: `make bench`."""

import argparse
import json
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import torch
from torch import nn

from loadtests import engine_alone, wrk
from loadtests.pictures import blots, photo
from loadtests.running import RunningService
from models import compile as compiler
from models import cost, directory
from models.config import BUNDLED_MODEL, ModelConfig, Network, Preprocessing
from models.inference import Classifier
from models.networks import create
from service import __version__
from service.settings import available_cores

ROUNDS = 5
SECONDS = 5.0
# Short turns: the machine's speed drifts, and the ratio must not.
ENGINE_ROUNDS, ENGINE_SECONDS = 25, 1.0
LOGITS_SPREAD = 0.3  # standard deviation, small: random weights make much more of rounding than trained ones do


def spread(values: list[float], digits: int = 2) -> dict[str, Any]:
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "runs": len(values),
    }


def start_up(cache: Path | None, until: Callable[[RunningService], bool]) -> float:
    """Seconds from the start of `coordserve serve` to the first 200 for which `until` holds."""
    with tempfile.TemporaryDirectory() as empty:
        service = RunningService(cache_dir=cache or empty)
        with service:
            picture = photo(224, 224, 75)
            answer = httpx.post(f"{service.url}/v1/predict", content=picture, headers={"Content-Type": "image/jpeg"})
            seconds = time.monotonic() - service.started
            assert answer.status_code == 200, answer.text
            assert until(service)
    return seconds


def loaded(service: RunningService, script: Path) -> dict[str, float]:
    run = wrk.run(f"{service.url}/v1/predict", script, SECONDS)
    assert run.errors == 0, run
    return {"requests_per_second": run.requests_per_second, "p50_ms": run.p50_ms, "p99_ms": run.p99_ms}


def memory(service: RunningService) -> dict[str, float]:
    """Resident MB; `proportional` counts what processes share once."""
    family = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children()]
    workers = service.children("service.worker")
    return {
        "worker_rss": round(max(process.memory_info().rss for process in workers) / 1e6),
        "engine_rss": round(service.children("service.engine")[0].memory_info().rss / 1e6),
        "supervisor_rss": round(family[0].memory_info().rss / 1e6),
        "total_rss": round(sum(process.memory_info().rss for process in family) / 1e6),
        "total_proportional": round(sum(process.memory_full_info().pss for process in family) / 1e6),
    }


def served(cache: Path, workers: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Requests/s of the bundled model by number of workers, in turns, with wrk on the same cores."""
    picture = photo(224, 224, 75)
    rounds: dict[int, list[dict[str, float]]] = {count: [] for count in workers}
    used: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        script = wrk.script(Path(folder), picture, "image/jpeg")
        for _ in range(ROUNDS):
            for count in workers:
                with RunningService(workers=count, cache_dir=cache) as service:
                    service.wait_compiled()
                    used[count] = memory(service)
                    loaded(service, script)  # warm
                    rounds[count].append(loaded(service, script))
    return {
        "image_bytes": len(picture),
        "connections": wrk.CONNECTIONS,
        "by_workers": {
            str(count): {
                **{name: spread([run[name] for run in runs]) for name in runs[0]},
                "idle_memory_mb": used[count],
            }
            for count, runs in rounds.items()
        },
    }


def imagenet_sized(folder: Path) -> Path:
    """A model directory of MobileNetV2+CA 1.0 at 224 with random weights, whose scores tell pictures apart.

    Without batch norms that know what they normalise the signal is lost on its way, and any arithmetic is right.
    """
    config = ModelConfig(
        name="mobilenetv2_ca_100",
        network=Network(family="mobilenetv2"),
        preprocessing=Preprocessing(
            input_size=224, resize_size=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        labels=tuple(f"class {index}" for index in range(1000)),
    )
    torch.manual_seed(0)
    network = create(config.network, config.num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        normalise = Classifier(network, config.preprocessing).normalise
        for seed in range(4):
            network.train()(normalise(torch.from_numpy(blots(8, 224, seed))))
        logits = network.eval()(normalise(torch.from_numpy(blots(8, 224, seed=9))))
        network.classifier[-1].weight *= LOGITS_SPREAD / logits.std()
    directory.save(folder / config.name, config, network)
    return folder / config.name


def compiled(model: Path, cache: Path, dtype: str = "auto") -> compiler.Target:
    """Compile a model into the cache as the service would; for what."""
    config, network = directory.load(model)
    work = cost.multiply_adds(network, config.preprocessing.input_size)
    target = compiler.choose_target("auto", dtype, available_cores(), work)
    compiler.compile_package(cache, model, target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not wrk.is_there("bench"):
        return 2
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        print("compiling two networks", file=sys.stderr)
        model = imagenet_sized(Path(folder))
        for compiled_model in (BUNDLED_MODEL, model):
            compiled(compiled_model, cache)
        print("start-up", file=sys.stderr)
        cold = [start_up(None, lambda service: True) for _ in range(ROUNDS)]
        warm = [start_up(cache, lambda service: service.card()["form"] == "aot") for _ in range(ROUNDS)]
        print("serving", file=sys.stderr)
        serving = served(cache)
        print("engine", file=sys.stderr)
        engine = engine_alone.compare(model, cache, tempfile.mkdtemp(dir=folder), ENGINE_ROUNDS, ENGINE_SECONDS)
    report = {
        "date": date.today().isoformat(),
        "versions": {"coordserve": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"cpu": cpu(), "cores": available_cores(), "kernel": platform.release()},
        "start_up_seconds": {
            "to_first_answer_with_an_empty_cache": spread(cold),
            "to_first_compiled_answer_with_a_warm_cache": spread(warm),
        },
        "served": serving,
        "engine": engine,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


def cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
