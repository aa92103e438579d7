"""Compiled packages: torch.export and AOTInductor, a cache on disk, and the check before one may serve.

A package is code. It is loaded only from files and folders that nobody else can write, under a key that names
everything it depends on, and it serves only if it agrees with the eager float32 network.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._C._aoti import AOTIModelPackageLoader

from models import cpu, fused, private
from models import directory as model_directory
from models.config import CONFIG_FILE
from models.inference import CHECKED_IMAGES, Classifier, check_images, for_inference

Run = Callable[[Tensor], Tensor]

PACKAGE_FILE = "package.pt2"
CHECK_FILE = "check.safetensors"  # images and the scores that eager float32 gives them
ENTRY_FILE = "entry.json"  # what the package was made for, for people

# Largest |score - eager float32 score| of an image, as a part of its highest score, over check_images().
# Measured: 2e-6 in float32; in bfloat16 0.006 to 0.06 at 224 pixels and 0.12 for the digits (docs/decisions.md), in
# float16 0.009 for the digits, on a CPU.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
UNFINISHED = ".compiling-"
ABANDONED_SECONDS = 3600.0  # far beyond what compiling takes
MAX_BATCH = 1024
MEASURED_BATCH = 64  # at which ways to compute a block are compared on a GPU: throughput is what it is for
INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
# Splitting less work than this over cores costs more in synchronisation than it saves.
SINGLE_THREAD_MULTIPLY_ADDS = 20_000_000

_OURS = f"chown the cache to user {os.getuid()} and chmod it go-w, or name another --cache-dir"

# What the arithmetic depends on: a change of these files must not find an older package.
SOURCES = (
    *(Path(__file__).with_name(name) for name in ("inference.py", "fused.py", "cpu.py")),
    *fused.SOURCES,
    *sorted((Path(__file__).parent / "networks").glob("*.py")),
)


class PackageRefused(Exception):
    """A compiled package that may not serve; the message says why."""


@dataclass(frozen=True)
class Target:
    """What a package is compiled for."""

    device: str  # cpu or cuda
    dtype: str  # float32, bfloat16 or float16
    threads: int

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.dtype]


def choose_target(device: str, dtype: str, cores: int, multiply_adds: int) -> Target:
    """Resolve `auto`: the GPU where there is one; bfloat16 where it is native and the network is worth it.

    A GPU always gets half precision, float16 where it lacks bfloat16: less memory is moved.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    small = multiply_adds < SINGLE_THREAD_MULTIPLY_ADDS
    if dtype == "auto":
        other = "float16" if device == "cuda" else "float32"
        dtype = "bfloat16" if has_native_bfloat16(device) and (device == "cuda" or not small) else other
    return Target(device, dtype, 1 if small else cores)


def configure(target: Target) -> None:
    """Have this process compute as the target says: so many threads, and float32 that is no TF32."""
    torch.set_num_threads(target.threads)
    if target.device == "cuda":  # whose convolutions else round to ten bits, as far from float32 as float16
        torch.backends.cudnn.allow_tf32 = False


def has_native_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & cpu.flags())


def package_path(cache: Path, directory: Path, target: Target) -> Path:
    """Where the cache keeps the package of a model directory for a target, whether or not it is there."""
    depends_on = {
        **asdict(target),
        "config": hashlib.sha256((directory / CONFIG_FILE).read_bytes()).hexdigest(),
        "weights": model_directory.weights_digest(directory),
        "sources": [hashlib.sha256(source.read_bytes()).hexdigest() for source in SOURCES],
        "torch": torch.__version__,
        "hardware": _hardware(target.device),
    }
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:20]
    return cache / f"{target.device}-{target.dtype}-{key}"


def compile_package(cache: Path, directory: Path, target: Target) -> Path:
    """Compile, check and publish the package; returns its path, at once if it is there already.

    Takes 20 to 60 s of one core. Raises PackageRefused, ModelDirectoryError.
    """
    path = package_path(cache, directory, target)
    if path.exists():
        return path
    unfinished = _begin(cache)
    try:
        configure(target)
        config, network = model_directory.load(directory)
        reference = for_inference(network, config)
        images = check_images(config.preprocessing.input_size)
        with torch.inference_mode():
            scores = reference(images)
        classifier = for_compiling(directory, target)
        fusible = target.device == "cpu" and fused.knows(target.torch_dtype)
        served = fused.FusedClassifier(classifier) if fusible else classifier
        started = time.monotonic()
        _export(served, images.to(target.device), target.torch_dtype, unfinished / PACKAGE_FILE)
        save_file({"images": images, "scores": scores}, unfinished / CHECK_FILE)
        entry = {
            **asdict(target),
            "model": config.name,
            "network": config.network.name,
            "torch": torch.__version__,
            "sha256": _digest(unfinished / PACKAGE_FILE),
            "seconds": round(time.monotonic() - started, 1),
        }
        (unfinished / ENTRY_FILE).write_text(json.dumps(entry, indent=2) + "\n")
        for file in unfinished.iterdir():  # a umask may have opened them to the group
            file.chmod(0o600)
        load_package(unfinished, target)
        unfinished.rename(path)
    except OSError:
        if not path.exists():  # otherwise another process has just published the same package
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def for_compiling(directory: Path, target: Target) -> Classifier:
    """The network on its device, in the form that compiles best. Raises ModelDirectoryError.

    On CUDA Coordinate Attention is three kernels of ours, alone or with the projection behind it, in blocks where that
    was just measured to be faster.
    """
    config, network = model_directory.load(directory)
    served = for_inference(network, config, target.torch_dtype).to(target.device)
    if target.device == "cuda":
        from models.networks import coordatt_fused  # without Triton, defining the operator leaves a warning

        images = check_images(config.preprocessing.input_size).repeat(MEASURED_BATCH // CHECKED_IMAGES, 1, 1, 1)
        coordatt_fused.fuse_where_faster(served, images.to(target.device), coordatt_fused.replayed_seconds)
    return served


def _begin(cache: Path) -> Path:
    """A new unfinished directory in the cache, which is made where it is missing. Raises PackageRefused."""
    try:
        with _ours(cache):
            remove_abandoned(cache)
            return Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=cache))
    except OSError as error:
        raise _unwritable(cache, error) from error


def _unwritable(cache: Path, error: OSError) -> PackageRefused:
    return PackageRefused(f"cannot write to {cache}: {error.strerror}; name another --cache-dir")


def _ours(cache: Path) -> private.Folder:
    """The cache, made where it is missing. Raises PackageRefused."""
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        return private.Folder(cache)
    except OSError as error:
        raise _unwritable(cache, error) from error
    except private.NotPrivate as error:
        raise PackageRefused(f"{error}, and compiled packages are code; {_OURS}") from error


def remove_abandoned(cache: Path) -> None:
    """Remove what compilers that were killed have left behind in the cache."""
    for unfinished in cache.glob(f"{UNFINISHED}*"):
        if time.time() - unfinished.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(unfinished, ignore_errors=True)


def load_package(path: Path, target: Target) -> Run:
    """The package as a function of images uint8 [N, S, S, 3] on the target's device to float32 scores.

    Raises PackageRefused if anything of it is not ours alone, the file is not the one that was
    written, or its scores disagree with those of the eager float32 network.
    """
    try:
        with private.Folder(path.parent) as cache, cache.folder(path.name) as package:
            check = safetensors_load(package.read(CHECK_FILE))
            images, scores = check["images"], check["scores"]
            with package.file(PACKAGE_FILE) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != json.loads(package.read(ENTRY_FILE))["sha256"]:
                    raise PackageRefused(f"{path / PACKAGE_FILE} is not the file that was compiled; remove {path}")
                configure(target)
                # What torch._inductor.aoti_load_package wraps; the wrapper imports all of Inductor first, for 1.5 to
                # 2.7 s. By its descriptor, the file is the one that was digested, whatever has its name by now.
                # Single-threaded, it synchronises nothing that a captured graph could not.
                single_threaded = target.device == "cuda"
                loader = AOTIModelPackageLoader(f"/proc/self/fd/{file.fileno()}", "model", single_threaded, 1, -1)
    except private.NotPrivate as error:
        raise PackageRefused(f"{error}, and compiled packages are code; {_OURS}") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:  # half of it, or not ours
        raise PackageRefused(f"{path} cannot be read ({type(error).__name__}: {error}); remove it") from error
    except RuntimeError as error:
        raise PackageRefused(
            f"{path} cannot be loaded ({error}); it is unpacked into {tempfile.gettempdir()}, which must not be noexec"
        ) from error

    def run(images: Tensor) -> Tensor:
        return loader.boxed_run([images])[0]

    refuse_disagreement(run, images.to(target.device), scores, target.dtype)
    return run


def refuse_disagreement(run: Run, images: Tensor, scores: Tensor, dtype: str) -> None:
    """Raise PackageRefused unless run(images) is close to the float32 `scores` [N, classes]."""
    with torch.inference_mode():
        found = run(images).cpu()
    worst = float(((found - scores).abs().amax(dim=1) / scores.amax(dim=1)).max())
    if not worst <= TOLERANCE[dtype]:  # also when it is NaN
        raise PackageRefused(
            f"its scores are up to {worst:.2g} of the highest away from eager float32, more than {TOLERANCE[dtype]:g}"
        )


def jit(classifier: Classifier, cache: Path, device: str = "cpu") -> Run:
    """torch.compile for static batch sizes; each new one compiles for 20 to 60 s when first called, and is cached.

    On CUDA the fastest of several kernels is chosen for each product and convolution, and graphs are the caller's.

    Raises PackageRefused.
    """
    with _ours(cache):
        # Inductor loads what it finds there; its own choice is a folder under /tmp that anybody may have made.
        os.environ.setdefault(INDUCTOR_CACHE, str(cache / "inductor"))
    torch._dynamo.config.recompile_limit = MAX_BATCH  # else it gives up at the ninth batch size
    options: dict[str, Any] = {"max_autotune": True} if device == "cuda" else {"freezing": True}
    return torch.compile(classifier, fullgraph=True, dynamic=False, options=options)


def _export(classifier: nn.Module, images: Tensor, dtype: torch.dtype, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    # Inductor's own files go where ours do: a read-only root or a user without a name has no other place.
    # On CUDA the fastest of several kernels is chosen for each product and convolution.
    options = {"max_autotune": True} if images.is_cuda else {}
    if isinstance(classifier, fused.FusedClassifier):
        options = fused.inductor_configs(dtype)
    with torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as scratch, _inductor_cache(scratch):
        program = torch.export.export(classifier, (images,), dynamic_shapes=({0: batch},))
        # Freezing folds the weights into their final layout: 2x on a CPU.
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            # Precompiled headers would be taken from a folder under /tmp that anybody may have made.
            inductor_configs={
                "freezing": True,
                "compile_threads": 1,
                "aot_inductor.precompile_headers": False,
                **options,
            },
        )


@contextmanager
def _inductor_cache(folder: str) -> Iterator[None]:
    """Where Inductor keeps its files meanwhile; afterwards whoever is started by us must not inherit it."""
    before = os.environ.get(INDUCTOR_CACHE)
    os.environ[INDUCTOR_CACHE] = folder
    try:
        yield
    finally:
        del os.environ[INDUCTOR_CACHE]
        if before is not None:
            os.environ[INDUCTOR_CACHE] = before


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hardware(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()} {torch.cuda.get_device_capability()}"
    return hashlib.sha256(" ".join([platform.machine(), *sorted(cpu.flags())]).encode()).hexdigest()
