"""Every setting of the service: an environment variable COORDSERVE_…, a flag of `serve`, a row in the README."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.config import BUNDLED_MODEL
from models.images import MAX_PIXELS

PREFIX = "COORDSERVE_"
MAX_DEFAULT_WORKERS = 4
CPU_QUOTA = (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"])  # of cgroups, version 2 and 1


def available_cores() -> int:
    """Cores this process may use: its affinity, or the container's CPU quota where that is less."""
    cores = len(os.sched_getaffinity(0))
    for files in CPU_QUOTA:
        try:
            quota, period = (word for file in files for word in Path("/sys/fs/cgroup", file).read_text().split())
            if int(quota) > 0:
                return max(1, min(cores, round(int(quota) / int(period))))
        except (OSError, ValueError):  # the other version, or "max"
            continue
    return cores


def default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coordserve"


def mistyped_variables() -> dict[str, str | None]:
    """Variables COORDSERVE_… of the environment that no setting reads, and the one that may have been meant."""
    settings = [PREFIX + name.upper() for name in Settings.model_fields]
    given = [name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in settings]
    return {name: next(iter(get_close_matches(name.upper(), settings, n=1)), None) for name in sorted(given)}


class Settings(BaseSettings):
    """Read once, at the edge; inside, plain arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: Path = Field(BUNDLED_MODEL, description="model directory: config.json and model.safetensors")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(
        default_factory=lambda: min(MAX_DEFAULT_WORKERS, available_cores()),
        ge=1,
        le=256,
        description=f"front-end processes (default: one a core, at most {MAX_DEFAULT_WORKERS})",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    devices: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "auto",
        description="GPUs to use with DEVICE=cuda, an engine each; auto takes all that CUDA_VISIBLE_DEVICES leaves",
    )
    decode: Literal["auto", "cpu", "gpu"] = Field(
        "auto",
        description="where baseline JPEGs are decoded; auto takes a GPU with the extra nvjpeg where that is faster",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="arithmetic of the network; auto takes bfloat16 where the device has it and it is faster, "
        "float16 on GPUs without",
    )
    compile: Literal["aot", "jit", "off"] = Field(
        "aot", description="ahead of time with a cache on disk, at start-up, or not at all"
    )
    wait_for_compile: bool = Field(False, description="be ready only once compiled, instead of serving eagerly before")
    cache_dir: Path = Field(
        default_factory=default_cache_dir, description="compiled packages (default: ~/.cache/coordserve)"
    )
    queue_images: int = Field(512, ge=1, le=1_000_000, description="images queued and in flight before 429")
    max_batch: int = Field(64, ge=1, le=1024, description="largest batch; the one used is measured and may be smaller")
    max_delay_ms: float = Field(0.0, ge=0, le=1000, description="how long a batch may wait to fill")
    request_timeout: float = Field(30.0, gt=0, le=3600, description="seconds until 504, unless X-Request-Timeout says")
    shutdown_grace: float = Field(
        3.0, ge=0, le=3600, description="seconds of serving on, not ready, after SIGTERM: others must notice first"
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="largest request body before 413")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="largest image, width times height, before 413")
    api_keys_file: Path | None = Field(
        None, description="keys, one a line, that predicting needs; read again when changed"
    )
    protect_metrics: bool = Field(False, description="whether /metrics needs a key, too")
    cors_origins: str = Field("", description="origins whose pages may ask, separated by commas; * for all")
    max_images: int = Field(64, ge=1, le=1024, description="most images in one request")
    log_format: Literal["console", "json"] = Field("console", description="how log lines look")
    access_log: float = Field(
        0.0, ge=0, le=1, description="share of requests that leave a log line, and every 5xx unless it is 0"
    )
    tracing: bool = Field(
        False, description="spans to the OpenTelemetry collector that the usual OTEL_ variables name (extra otel)"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity logged")

    @field_validator("model", "cache_dir", "api_keys_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @model_validator(mode="after")
    def _keys_for_metrics(self) -> Self:
        if self.protect_metrics and not self.api_keys_file:
            raise ValueError(
                "to protect /metrics there must be keys: give --api-keys-file or COORDSERVE_API_KEYS_FILE, "
                "or leave out --protect-metrics"
            )
        return self

    @model_validator(mode="after")
    def _gpus_for_devices(self) -> Self:
        if self.devices not in ("auto", 1) and self.device != "cuda":
            raise ValueError(
                "only GPUs can be several: give --device cuda or COORDSERVE_DEVICE, or leave out --devices"
            )
        return self

    @property
    def slots_per_worker(self) -> int:
        return max(1, self.queue_images // self.workers)
