"""`coordserve predict`: where pictures come from, how answers look, and a running server in place of a model."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.running import RunningService
from service.cli.predicting import find
from tests.conftest import DIGITS
from tests.service.test_cli import coordserve

COORDSERVE = Path(sys.executable).with_name("coordserve")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a seven and, deeper, a three; a text and a broken picture beside them."""
    folder = tmp_path / "photos [2026]"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(DIGITS / "dejavu-sans-7.png", folder / "a.PNG")
    shutil.copy(DIGITS / "dejavu-sans-3.jpg", folder / "deeper" / "b.jpg")
    (folder / "notes.txt").write_text("no picture")
    return folder


def labels(output: str) -> list[str]:
    return [line.rpartition(": ")[2].split()[0] for line in output.splitlines()]


def test_a_folder_stands_for_its_pictures(photos: Path):
    done = coordserve("predict", photos)

    assert done.returncode == 0, done.stderr
    assert labels(done.stdout) == ["seven", "three"]


def test_a_pattern_stands_for_what_it_matches(photos: Path):
    done = coordserve("predict", f"{photos.parent}/*/**/*.jpg")

    assert done.returncode == 0, done.stderr
    assert labels(done.stdout) == ["three"]


@pytest.mark.parametrize("pattern", ["", "/**/*"])
def test_a_loop_of_links_shows_a_picture_once_and_a_link_to_nothing_fails(photos: Path, pattern: str):
    (photos / "notes.txt").unlink()
    (photos / "deeper" / "loop").symlink_to(photos)
    (photos / "lost.png").symlink_to("nowhere")

    done = coordserve("predict", f"{photos.parent}/photos*{pattern}" if pattern else photos)

    assert done.returncode == 1
    assert labels(done.stdout) == ["seven", "three"]
    assert "lost.png: No such file" in done.stderr
    assert "1 of 3 images failed" in done.stderr


def test_a_folder_that_cannot_be_read_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch):
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may read every folder
        if path.endswith("deeper"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    assert list(find([str(photos)])) == [str(photos / "a.PNG"), str(photos / "deeper")]


def test_a_picture_from_stdin():
    with (DIGITS / "dejavu-sans-7.png").open("rb") as file:
        done = subprocess.run([COORDSERVE, "predict", "-"], stdin=file, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("-: seven ")


def test_json_lines_have_one_object_a_picture_in_order(photos: Path):
    (photos / "c.png").write_bytes(b"broken")

    done = coordserve("predict", photos, "--format", "jsonl", "--top-k", 2)

    assert done.returncode == 1
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first["predictions"][0]["label"] == "seven"
    assert len(first["predictions"]) == 2
    assert second == {"image": str(photos / "c.png"), "error": "not a JPEG, PNG or WebP image"}
    assert third["predictions"][0]["index"] == 3
    assert "1 of 3 images failed" in done.stderr


def test_csv_has_a_row_a_picture(photos: Path):
    (photos / "c.png").write_bytes(b"broken")

    rows = list(csv.DictReader(io.StringIO(coordserve("predict", photos, "--format", "csv", "--top-k", 2).stdout)))

    assert list(rows[0]) == ["image", "label1", "score1", "label2", "score2", "error"]
    assert [row["label1"] for row in rows] == ["seven", "", "three"]
    assert rows[1]["error"] == "not a JPEG, PNG or WebP image"
    assert 0.3 < float(rows[0]["score1"]) <= 1


def test_a_server_answers_as_the_model_does_here(service: RunningService, photos: Path):
    here = coordserve("predict", photos, "--format", "jsonl", "--top-k", 3)
    there = coordserve("predict", photos, "--format", "jsonl", "--top-k", 3, "--url", service.url)

    assert there.returncode == 0, there.stderr
    for one, other in zip(
        map(json.loads, here.stdout.splitlines()), map(json.loads, there.stdout.splitlines()), strict=True
    ):
        assert one["image"] == other["image"]
        assert [p["index"] for p in one["predictions"]] == [p["index"] for p in other["predictions"]]
        assert one["predictions"][0]["score"] == pytest.approx(other["predictions"][0]["score"], abs=1e-3)


def test_what_a_server_says_of_a_bad_picture_is_passed_on(service: RunningService, photos: Path):
    done = coordserve("predict", photos / "notes.txt", photos / "a.PNG", "--url", service.url)

    assert done.returncode == 1
    assert "notes.txt: not a JPEG, PNG or WebP image" in done.stderr
    assert labels(done.stdout) == ["seven"]


def test_a_full_server_is_asked_again(compiled_cache: Path, tmp_path: Path):
    for index in range(20):
        shutil.copy(DIGITS / "dejavu-sans-7.png", tmp_path / f"{index}.png")

    with RunningService(workers=1, queue_images=2, cache_dir=compiled_cache) as small:
        done = coordserve("predict", tmp_path, "--url", small.url)

    assert done.returncode == 0, done.stderr
    assert labels(done.stdout) == ["seven"] * 20


def test_a_key_for_the_server_comes_from_the_environment(compiled_cache: Path, tmp_path: Path):
    (tmp_path / "keys").write_text("secret\n")
    picture = DIGITS / "dejavu-sans-7.png"

    with RunningService(workers=1, cache_dir=compiled_cache, api_keys_file=tmp_path / "keys") as guarded:
        command = [COORDSERVE, "predict", picture, "--url", guarded.url]
        refused = subprocess.run(command, capture_output=True, text=True)
        accepted = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "COORDSERVE_API_KEY": "secret"}
        )

    assert refused.returncode == 1
    assert "send a key" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


def test_a_key_that_cannot_be_sent_is_said_to_be_one():
    environment = {**os.environ, "COORDSERVE_API_KEY": "schlüssel"}
    command = [COORDSERVE, "predict", DIGITS / "dejavu-sans-7.png", "--url", "http://127.0.0.1:1"]

    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert done.returncode == 1
    assert "COORDSERVE_API_KEY has characters" in done.stderr


def test_a_picture_larger_than_the_server_takes_is_said_to_be_so(service: RunningService, tmp_path: Path):
    (tmp_path / "large.png").write_bytes(bytes(40_000_000))

    done = coordserve("predict", tmp_path / "large.png", "--url", service.url)

    assert done.returncode == 1
    assert "16,777,216 bytes" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.png", "--url", "localhost:8000"], "is not an address such as"),
        (["x.png", "--url", "http://[::1"], "is not an address such as"),
        (["x.png", "--url", "http://127.0.0.1:99999"], "is not an address such as"),
        (["x.png", "--url", "http://127.0.0.1:1"], "x.png: No such file"),
        ([DIGITS / "dejavu-sans-7.png", "--url", "http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
        (["nothing-here-*.png"], "there are no pictures in nothing-here-*.png"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(arguments: list, words: str):
    done = coordserve("predict", *arguments)

    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path):
    done = coordserve("predict", tmp_path)

    assert done.returncode == 1
    assert "there are no pictures in" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_scripts_know_the_commands(shell: str):
    done = coordserve("completion", shell)

    assert done.returncode == 0
    assert "--top-k" in done.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
