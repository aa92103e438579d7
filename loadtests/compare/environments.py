"""An environment for each peer: what its requirements.txt names, and the same versions of what all share."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import loadtests.peers

PEERS = Path(loadtests.peers.__file__).parent
ENVIRONMENTS = PEERS.parent.parent / ".cache" / "peers"
SHARED = ("torch", "numpy", "pillow", "simplejpeg", "cykooz-resizer", "safetensors", "pydantic")
STAMP = "installed"


def make(peer: str) -> Path:
    """The Python of a peer's environment, which is installed unless it is there. Raises CalledProcessError."""
    folder, requirements = ENVIRONMENTS / peer, PEERS / peer / "requirements.txt"
    python, stamp = folder / "bin" / "python", folder / STAMP
    shared = [*filter(None, map(_installed, SHARED))]
    wanted = "\n".join([*shared, requirements.read_text()])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {peer} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *shared]
        subprocess.run([*install, "--requirement", requirements], check=True)
        stamp.write_text(wanted)
    return python


def _installed(name: str) -> str | None:
    """What asks pip for the version that is installed here; None where there is none for this machine."""
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"{name}=={found.partition('+')[0]}"  # +cpu names a build of torch that an index may not have


def version(peer: str, python: Path) -> str:
    """Name and version of what the first line of requirements.txt names, as installed."""
    name = (PEERS / peer / "requirements.txt").read_text().partition("==")[0].partition("[")[0]
    [found, *_] = importlib.metadata.distributions(
        name=name, path=[str(path) for path in (python.parent.parent / "lib").glob("python*/site-packages")]
    )
    return f"{name} {found.version}"
