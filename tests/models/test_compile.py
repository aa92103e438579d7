"""Packages: they agree with eager float32, or they do not serve."""

import hashlib
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models import directory
from models.compile import (
    ABANDONED_SECONDS,
    CHECK_FILE,
    ENTRY_FILE,
    PACKAGE_FILE,
    TOLERANCE,
    UNFINISHED,
    PackageRefused,
    Target,
    choose_target,
    compile_package,
    jit,
    load_package,
    package_path,
    refuse_disagreement,
    remove_abandoned,
)
from models.config import BUNDLED_MODEL, CONFIG_FILE
from models.inference import check_images, for_inference
from tests.conftest import noise

TARGET = Target("cpu", "float32", 1)


@pytest.fixture
def package(compiled_cache: Path, tmp_path: Path) -> Path:
    """A copy of the bundled model's package, to be spoilt."""
    copy = tmp_path / "cache" / "package"
    shutil.copytree(package_path(compiled_cache, BUNDLED_MODEL, TARGET), copy)
    copy.parent.chmod(0o700)
    return copy


@pytest.mark.parametrize("images", [1, 2, 7, 64])
def test_a_package_agrees_with_eager_float32_at_any_batch_size(compiled_cache: Path, images: int):
    run = load_package(package_path(compiled_cache, BUNDLED_MODEL, TARGET), TARGET)
    config, network = directory.load(BUNDLED_MODEL)
    batch = torch.from_numpy(np.stack([noise(seed) for seed in range(images)]))

    with torch.inference_mode():
        torch.testing.assert_close(run(batch), for_inference(network, config)(batch), atol=1e-4, rtol=1e-3)


def test_a_package_that_is_there_is_not_made_again(compiled_cache: Path):
    path = package_path(compiled_cache, BUNDLED_MODEL, TARGET)
    made = (path / PACKAGE_FILE).stat().st_mtime_ns

    assert compile_package(compiled_cache, BUNDLED_MODEL, TARGET) == path
    assert (path / PACKAGE_FILE).stat().st_mtime_ns == made


def test_what_a_killed_compiler_left_is_removed_once_it_is_old(tmp_path: Path):
    young, old = tmp_path / f"{UNFINISHED}young", tmp_path / f"{UNFINISHED}old"
    young.mkdir()
    old.mkdir()
    long_ago = time.time() - ABANDONED_SECONDS - 1
    os.utime(old, (long_ago, long_ago))

    remove_abandoned(tmp_path)

    assert list(tmp_path.iterdir()) == [young]


def test_a_changed_package_is_refused(package: Path):
    with (package / PACKAGE_FILE).open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")

    with pytest.raises(PackageRefused, match="not the file that was compiled"):
        load_package(package, TARGET)


def test_a_package_that_disagrees_with_eager_float32_is_refused(package: Path):
    check = load_file(package / CHECK_FILE)
    check["scores"] = check["scores"].roll(1, dims=1)  # as if it had been compiled wrongly
    save_file(check, package / CHECK_FILE)

    with pytest.raises(PackageRefused, match="away from eager float32"):
        load_package(package, TARGET)


def test_scores_that_are_no_numbers_disagree():
    images, scores = check_images(8), torch.full((16, 3), 1 / 3)

    with pytest.raises(PackageRefused):
        refuse_disagreement(lambda batch: torch.full((len(batch), 3), torch.nan), images, scores, "float32")


def test_a_cache_that_others_can_write_is_refused(package: Path):
    package.parent.chmod(0o777)

    with pytest.raises(PackageRefused, match="can be written by others"):
        load_package(package, TARGET)


@pytest.mark.parametrize("name", [".", PACKAGE_FILE, CHECK_FILE, ENTRY_FILE])
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_package_of_which_others_can_write_anything_is_refused(package: Path, name: str, mode: int):
    (package / name).chmod(mode)

    with pytest.raises(PackageRefused, match="can be written by others"):
        load_package(package, TARGET)


@pytest.mark.parametrize("name", [PACKAGE_FILE, CHECK_FILE, ENTRY_FILE])
def test_a_package_with_a_file_that_lies_elsewhere_is_refused(package: Path, tmp_path: Path, name: str):
    (package / name).rename(tmp_path / "elsewhere")
    (package / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PackageRefused, match="cannot be read"):
        load_package(package, TARGET)


def test_a_package_that_lies_elsewhere_is_refused(package: Path, tmp_path: Path):
    package.rename(tmp_path / "elsewhere")
    package.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PackageRefused, match="cannot be read"):
        load_package(package, TARGET)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["..", ".", PACKAGE_FILE])
def test_a_package_of_another_user_is_refused(package: Path, name: str):
    os.chown(package / name, 12345, -1)

    with pytest.raises(PackageRefused, match="can be written by others"):
        load_package(package, TARGET)


def test_a_cache_may_be_reached_by_a_symlink(package: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(package.parent)

    assert load_package(tmp_path / "link" / package.name, TARGET)


def test_what_is_loaded_is_what_was_digested(package: Path, monkeypatch: pytest.MonkeyPatch):
    """Another file takes the package's name between the two."""
    digest = hashlib.file_digest

    def swapped_after(file: BinaryIO, name: str) -> object:
        found = digest(file, name)
        (package / "other").write_bytes(b"another program")
        (package / "other").replace(package / PACKAGE_FILE)
        return found

    monkeypatch.setattr(hashlib, "file_digest", swapped_after)

    run = load_package(package, TARGET)

    assert (package / PACKAGE_FILE).read_bytes() == b"another program"
    assert run(check_images(32)).shape == (16, 10)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"sha256": '])
@pytest.mark.parametrize("name", [CHECK_FILE, ENTRY_FILE])
def test_a_package_that_was_half_written_is_refused(package: Path, name: str, content: bytes):
    (package / name).write_bytes(content)

    with pytest.raises(PackageRefused, match="cannot be read"):
        load_package(package, TARGET)


@pytest.mark.parametrize("name", [PACKAGE_FILE, CHECK_FILE, ENTRY_FILE])
def test_a_package_that_lacks_a_file_is_refused(package: Path, name: str):
    (package / name).unlink()

    with pytest.raises(PackageRefused, match="cannot be read"):
        load_package(package, TARGET)


def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(package: Path):
    (package / ENTRY_FILE).unlink()
    os.mkfifo(package / ENTRY_FILE, 0o600)

    with pytest.raises(PackageRefused, match="neither a file nor a folder"):
        load_package(package, TARGET)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path):
    file = tmp_path / "cache"
    file.touch()

    with pytest.raises(PackageRefused, match=r"cannot write to .*; name another --cache-dir"):
        compile_package(file, BUNDLED_MODEL, TARGET)


def test_jit_keeps_what_it_compiled_in_a_cache_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "to be put back")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    config, network = directory.load(BUNDLED_MODEL)
    classifier = for_inference(network, config)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    with pytest.raises(PackageRefused, match="can be written by others"):
        jit(classifier, tmp_path / "open")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ

    jit(classifier, tmp_path / "new")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "new" / "inductor")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_half_precision_stays_within_its_tolerance(name: str, dtype: torch.dtype):
    config, network = directory.load(BUNDLED_MODEL)
    images = check_images(config.preprocessing.input_size)
    with torch.inference_mode():
        scores = for_inference(network, config)(images)
    _, network = directory.load(BUNDLED_MODEL)

    served = for_inference(network, config, dtype)
    refuse_disagreement(served, images, scores, name)
    with pytest.raises(PackageRefused):  # and it is really another arithmetic
        refuse_disagreement(served, images, scores, "float32")
    assert TOLERANCE["float32"] < TOLERANCE["float16"] < TOLERANCE["bfloat16"]


def test_the_key_names_all_that_a_package_depends_on(tmp_path: Path):
    cache = tmp_path / "cache"
    other = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, other)
    same = package_path(cache, other, TARGET)
    config = json.loads((other / CONFIG_FILE).read_text())
    (other / CONFIG_FILE).write_text(json.dumps({**config, "description": "another"}))

    paths = {
        package_path(cache, BUNDLED_MODEL, TARGET),
        package_path(cache, BUNDLED_MODEL, Target("cpu", "bfloat16", 1)),
        package_path(cache, BUNDLED_MODEL, Target("cpu", "float32", 2)),
        package_path(cache, other, TARGET),
    }

    assert same in paths
    assert len(paths) == 4


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_gets_half_precision_of_the_kind_that_it_has(monkeypatch: pytest.MonkeyPatch, native: bool, dtype: str):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)

    assert choose_target("cuda", "auto", cores=8, multiply_adds=300_000_000).dtype == dtype
    assert choose_target("cuda", "auto", cores=8, multiply_adds=1_000_000).dtype == dtype
    assert choose_target("cuda", "float32", cores=8, multiply_adds=300_000_000).dtype == "float32"


def test_small_networks_stay_on_one_thread_in_float32():
    assert choose_target("cpu", "auto", cores=8, multiply_adds=1_000_000) == Target("cpu", "float32", 1)
    assert choose_target("cpu", "float32", cores=8, multiply_adds=300_000_000) == Target("cpu", "float32", 8)
    assert choose_target("cpu", "bfloat16", cores=8, multiply_adds=1_000_000) == Target("cpu", "bfloat16", 1)
