"""Which batch is copied, computed and read back, and what becomes of it when the device fails in each."""

import math

import numpy as np
import pytest

from service.arena import Arena
from service.pipeline import AHEAD, HANG_SECONDS, LANES, DeviceHangs, Pipeline, Stage, Times
from tests.service.fake_device import FakeDevice

SLOTS, CLASSES = 8, 3


@pytest.fixture
def arena() -> Arena:
    arena = Arena.create(SLOTS, 2, CLASSES)
    arena.pixels[:] = np.arange(SLOTS).reshape(-1, 1, 1, 1)
    return arena


def first_pixel(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[:, 0, 0, :1], CLASSES, axis=1).astype(np.float32)


def pipeline_on(arena: Arena, *held: Stage) -> tuple[FakeDevice, Pipeline[str]]:
    device = FakeDevice(arena, first_pixel, held)
    pipeline: Pipeline[str] = Pipeline(device)
    for size in (1, 2, 4):
        device.prepare(size)
        pipeline.times[size] = Times(0.001, 0.010, 0.0001)
    return device, pipeline


def test_a_batch_comes_back_with_the_scores_of_its_slots(arena: Arena):
    _, pipeline = pipeline_on(arena)
    pipeline.submit([6, 1, 5], 4, "batch", now=0.0)

    [(ticket, scores)] = [(ticket, scores.copy()) for ticket, scores in pipeline.landed(now=0.1)]

    assert ticket == "batch"
    assert scores[:, 0].tolist() == [6, 1, 5]
    assert len(pipeline) == 0


def test_one_is_read_back_while_the_next_computes_and_another_is_copied(arena: Arena):
    device, pipeline = pipeline_on(arena, *Stage)
    pipeline.submit([0], 1, "a", now=0.0)
    assert pipeline.stages() == [Stage.COPY]
    device.finish(2, Stage.COPY)
    pipeline.submit([1], 1, "b", now=0.0)
    device.finish(1, Stage.COPY)
    assert pipeline.stages() == [Stage.COMPUTE, Stage.COMPUTE]
    assert pipeline.free_in(now=0.0, size=1, full=True) == math.inf  # there is a lane, but it would only wait there
    device.finish(2, Stage.COMPUTE)
    pipeline.submit([2], 1, "c", now=0.0)

    assert pipeline.stages() == [Stage.READ, Stage.COMPUTE, Stage.COPY]
    assert len(pipeline) == LANES > AHEAD
    assert pipeline.free_in(now=0.0, size=1, full=True) == math.inf
    assert list(pipeline.landed(now=0.1)) == []
    device.finish(2, Stage.READ)
    assert [ticket for ticket, _ in pipeline.landed(now=0.1)] == ["a"]
    assert len(pipeline) == 2


def test_batches_land_in_the_order_in_which_they_went(arena: Arena):
    device, pipeline = pipeline_on(arena, Stage.READ)
    pipeline.submit([0], 1, "a", now=0.0)
    pipeline.submit([1], 1, "b", now=0.0)
    device.finish(1, Stage.READ)  # b's lane, as no device would

    assert list(pipeline.landed(now=0.1)) == []
    device.finish(2, Stage.READ)
    assert [ticket for ticket, _ in pipeline.landed(now=0.1)] == ["a", "b"]


def test_a_batch_that_may_still_grow_is_cut_when_the_device_is_about_to_be_free(arena: Arena):
    _, pipeline = pipeline_on(arena, Stage.COMPUTE)
    assert pipeline.free_in(now=5.0, size=4, full=False) == 0.0
    pipeline.submit([0, 1], 2, "a", now=5.0)  # copied until 5.001, computed until 5.011

    assert pipeline.free_in(now=5.0, size=4, full=True) == 0.0
    assert pipeline.free_in(now=5.0, size=4, full=False) == pytest.approx(0.010)
    assert pipeline.free_in(now=5.02, size=4, full=False) == 0.0
    assert pipeline.lands_in(now=5.0) == pytest.approx(0.0111)
    assert pipeline.lands_in(now=6.0) == 0.0


def test_nothing_is_awaited_when_nothing_flies(arena: Arena):
    _, pipeline = pipeline_on(arena)

    assert pipeline.lands_in(now=0.0) == math.inf
    assert list(pipeline.landed(now=0.0)) == []


@pytest.mark.parametrize("call", ["copy_in", "launch", "copy_out"])
def test_an_order_that_fails_leaves_the_batch_on_the_ground_and_the_lane_free(arena: Arena, call: str):
    device, pipeline = pipeline_on(arena)
    device.faults[call] = MemoryError()
    with pytest.raises(MemoryError):
        pipeline.submit([0, 1], 2, "too large", now=0.0)

    del device.faults[call]
    pipeline.submit([1], 1, "smaller", now=0.0)

    [(ticket, scores)] = [(ticket, scores.copy()) for ticket, scores in pipeline.landed(now=0.1)]
    assert (ticket, scores[0, 0]) == ("smaller", 1)


def test_what_failed_on_the_device_is_raised_when_it_is_asked(arena: Arena):
    device, pipeline = pipeline_on(arena)
    pipeline.submit([0], 1, "batch", now=0.0)
    device.faults["done"] = RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(pipeline.landed(now=0.1))


@pytest.mark.parametrize("stage", list(Stage))
def test_a_device_that_hangs_is_found_in_each_stage(arena: Arena, stage: Stage):
    _, pipeline = pipeline_on(arena, stage)
    pipeline.submit([0], 1, "batch", now=0.0)

    assert list(pipeline.landed(now=HANG_SECONDS)) == []
    with pytest.raises(DeviceHangs, match=f"stage {stage.name} for 1"):
        list(pipeline.landed(now=HANG_SECONDS + 1))


def test_waiting_behind_a_long_batch_is_no_hang(arena: Arena):
    device, pipeline = pipeline_on(arena, Stage.COMPUTE)
    pipeline.submit([0], 1, "long", now=0.0)
    pipeline.submit([1], 1, "next", now=0.0)
    device.finish(2, Stage.COMPUTE)
    assert [ticket for ticket, _ in pipeline.landed(now=HANG_SECONDS - 1)] == ["long"]

    assert list(pipeline.landed(now=HANG_SECONDS + 5)) == []
