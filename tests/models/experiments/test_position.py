"""The position experiment: what its pictures ask, and that what was trained is kept and told."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from models.experiments import position
from models.experiments.gratings import GRID, LABELS, SIZE, Gratings, draw
from models.experiments.position import ATTENTIONS, TASKS, Result, Run, experiment, final, read, write


def test_both_tasks_ask_about_the_same_pictures():
    where, what = (next(Gratings(task, 3, 1, 32).epoch(0)) for task in ("where", "what"))

    assert torch.equal(where.pixels, what.pixels)
    assert not torch.equal(where.targets, what.targets)
    assert where.pixels.shape == (32, SIZE, SIZE, 3)


def test_no_epoch_has_held_out_pictures_or_those_of_another_seed():
    first = [next(Gratings("what", seed, 1, 8).epoch(number)).pixels for seed in (0, 1) for number in (0, 1)]
    first.append(next(Gratings("what", 0, 1, 8).held_out()).pixels)

    for index, pixels in enumerate(first):
        assert not any(torch.equal(pixels, other) for other in first[index + 1 :])


def test_every_class_is_as_likely_and_where_tells_nothing_about_what():
    batches = [draw(500, torch.Generator().manual_seed(seed)) for seed in range(40)]
    where, what = (torch.cat([getattr(batch, label) for batch in batches]) for label in ("where", "what"))

    joint = (where * 16 + what).bincount(minlength=256)

    # 78 are expected of each pair, with a standard deviation of 9.
    assert len(joint) == 256
    assert joint.min() > 35
    assert joint.max() < 125


def test_the_patch_is_where_the_label_says():
    pictures = draw(200, torch.Generator().manual_seed(0))
    pixels = pictures.pixels.float()
    # Stripes are what changes most from one pixel to the next, noise aside.
    change = pixels.diff(dim=2)[:, :-1].square().sum(dim=3) + pixels.diff(dim=1)[:, :, :-1].square().sum(dim=3)
    smooth = torch.nn.functional.avg_pool2d(change.unsqueeze(1), 15, 1).squeeze(1)
    place = smooth.flatten(1).argmax(dim=1)
    row, column = place // smooth.shape[2] + 7, place % smooth.shape[2] + 7
    expected_row = (0.15 + 0.7 * (pictures.where // GRID + 0.5) / GRID) * SIZE
    expected_column = (0.15 + 0.7 * (pictures.where % GRID + 0.5) / GRID) * SIZE

    near = ((row - expected_row).abs() < 12) & ((column - expected_column).abs() < 12)

    assert near.double().mean() > 0.8


def test_results_are_read_as_they_were_written(tmp_path: Path):
    results = [Result("where", "ca", 1, 10, 3, 0.5), Result("what", "none", 0, 10, 10, 0.25)]

    write(tmp_path / "r.csv", results)

    assert read(tmp_path / "r.csv") == results
    assert read(tmp_path / "missing.csv") == []


def test_a_finished_run_is_not_trained_again_and_the_report_has_every_mean(tmp_path: Path):
    results = [
        Result(task, attention, seed, 2, epoch, 0.1 * epoch + 0.01 * seed + 0.001 * index)
        for seed in (0, 1)
        for task in TASKS
        for index, attention in enumerate(ATTENTIONS)
        for epoch in (1, 2)
    ]
    write(tmp_path / position.RESULTS, results)

    lines = list(experiment(tmp_path, seeds=2, epochs=2, processes=1))

    assert lines == []
    report = (tmp_path / position.REPORT).read_text()
    assert "20.5 ± 0.7 (20.0 to 21.0)" in report
    assert "20.8 ± 0.7 (20.3 to 21.3)" in report
    assert Image.open(tmp_path / position.CHART).width > 800


@pytest.mark.slow
def test_a_run_learns_where_the_patch_is():
    results = position.train(Run("where", "none", seed=0), epochs=2)

    assert [result.epoch for result in results] == [1, 2]
    assert final(results, "where", "none")[0] > 3 / len(LABELS["where"])
