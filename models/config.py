"""What a model directory's config.json says: the network, how pixels reach it, and its labels. Needs no torch."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
BUNDLED_MODEL = Path(__file__).parent / "bundled" / "digits"

Family = Literal["mobilenetv2", "mobilenext", "efficientnet_b0"]
Attention = Literal["ca", "se", "cbam", "none"]
Channels = Annotated[tuple[float, float, float], Field(description="red, green, blue; of pixels scaled to 0..1")]


class ModelDirectoryError(Exception):
    """A model directory that cannot be used; the message names the file and says what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Strict):
    """Which network to build; `models.networks.create` does."""

    family: Family
    attention: Attention = "ca"
    width: float = Field(default=1.0, gt=0, le=4)

    @property
    def name(self) -> str:
        """Such as `mobilenetv2_ca_100`."""
        return f"{self.family}_{self.attention}_{round(self.width * 100):03d}"

    @classmethod
    def parse(cls, name: str) -> "Network":
        """The network of a name. Raises ValueError."""
        match = re.fullmatch(r"(.+)_([a-z]+)_(\d{3})", name)
        if match and match[1] in get_args(Family) and match[2] in get_args(Attention) and match[3] != "000":
            return cls(family=match[1], attention=match[2], width=int(match[3]) / 100)  # type: ignore[arg-type]
        raise ValueError(
            f"{name!r} is no network; a name is one of {', '.join(get_args(Family))}, then one of "
            f"{', '.join(get_args(Attention))}, then the width in hundredths, such as mobilenetv2_ca_100"
        )


class Preprocessing(_Strict):
    """From a decoded picture to what the network sees, in timm's words."""

    input_size: int = Field(ge=16, le=4096, description="edge of the square that the network sees, pixels")
    resize_size: int = Field(ge=8, le=4096, description="length the shorter side is resized to before the centre crop")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Channels
    std: Channels

    @model_validator(mode="after")
    def _sizes_and_std(self) -> "Preprocessing":
        if self.resize_size < self.input_size:
            raise ValueError(f"resize_size {self.resize_size} is smaller than input_size {self.input_size}")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class ModelConfig(_Strict):
    """config.json of a model directory."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    description: str = ""
    network: Network
    preprocessing: Preprocessing
    labels: tuple[str, ...] = Field(min_length=2)
    weights_sha256: str | None = Field(default=None, description="of model.safetensors; not checked if absent")
    training: dict[str, Any] = Field(default_factory=dict, description="how the weights came to be; not interpreted")

    @model_validator(mode="after")
    def _labels_differ(self) -> "ModelConfig":
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"labels has {twice!r} more than once")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.labels)


def read_config(directory: Path) -> ModelConfig:
    """Read and check `directory`/config.json. Raises ModelDirectoryError."""
    path = directory / CONFIG_FILE
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelDirectoryError(
            f"cannot read {path}: {error.strerror}; --model must name a directory with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelDirectoryError(f"{path} is not a model configuration: {where}: {first['msg']}") from error
