"""What a killed training goes on from: its state after the last whole epoch, in one file."""

import io
from pathlib import Path
from typing import Any

import torch

from models import files
from models.training.fit import State


class CheckpointError(Exception):
    """A checkpoint that cannot be written or gone on from; the message says what to do."""


def save(path: Path, state: State, settings: dict[str, Any]) -> None:
    """Write state and the `settings` it depends on; on failure the one before stays. Raises CheckpointError."""
    buffer = io.BytesIO()
    torch.save({"settings": settings, **state.to_dict()}, buffer)
    try:
        files.write(path, buffer.getvalue())
    except OSError as error:
        before = len(state.history) - 1
        kept = f"epoch {before} is safe" if path.exists() else "nothing was saved before"
        raise CheckpointError(
            f"cannot save {path}: {error.strerror}; {kept}: make room and run the same command to go on"
        ) from error


def restore(path: Path, state: State, settings: dict[str, Any]) -> None:
    """Bring `state` to where the checkpoint was written. Raises CheckpointError if it is of other settings."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make the unpickler raise nearly anything
        raise CheckpointError(f"cannot read {path}: {error}; remove it to start anew") from error
    before = saved.pop("settings")
    if before != settings:
        changed = [
            f"{name} {before.get(name)!r}, now {settings.get(name)!r}"
            for name in {**before, **settings}
            if before.get(name) != settings.get(name)
        ]
        raise CheckpointError(
            f"{path.parent.parent} holds an unfinished training with other settings ({'; '.join(changed)}); "
            f"go on with those, remove {path} to start anew, or name another --out"
        )
    state.restore(saved)
