"""What every predicting route does: images into slots, through the engine, out as scores."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.config import Preprocessing
from models.images import ImageError, ImageTooLarge, Picture, Pixels
from models.resizing import resize_and_crop
from service import problems
from service.answers import Timing
from service.bodies import BodyRoom, Reception
from service.doorbell import Status
from service.explanations import Explanation
from service.metrics import WorkerMetrics
from service.parameters import Asked
from service.problems import Problem
from service.settings import Settings
from service.slots import Question, SlotPool, Ticket
from service.turns import DecodingTurns

if TYPE_CHECKING:
    from service.tracing import RequestSpans

Image = bytes | Pixels | Problem
"""An encoded picture, RGB pixels uint8 [height, width, 3], or what is wrong with one"""


@dataclass(slots=True)
class Computed:
    """The images of a request, answered by the engine. A context manager, inside which they can be read."""

    ticket: Ticket
    refused: dict[int, Problem]
    """what is wrong with the images that were left out"""
    timing: Timing
    seen: list[Pixels]
    """what the network saw of each image, uint8 [S, S, 3], if they were explained"""

    def __enter__(self) -> "Computed":
        return self

    def __exit__(self, *_: object) -> None:
        self.ticket.close()

    def explanation(self, index: int) -> Explanation:
        """Where the network looked in an image that was not refused, if that was the question."""
        return self.ticket.explanation(index)

    def scores(self, index: int) -> NDArray[np.float32]:
        """float32 [classes] of an image that was not refused."""
        return self.ticket.scores(index)


class Intake:
    """The way of one worker's images to the engine and back."""

    def __init__(
        self,
        settings: Settings,
        preprocessing: Preprocessing,
        pool: SlotPool,
        counters: WorkerMetrics,
        spans: "RequestSpans | None",
    ) -> None:
        self._preprocessing, self._pool, self._counters, self._spans = preprocessing, pool, counters, spans
        self._max_pixels = settings.max_pixels
        self._bodies = BodyRoom(settings.max_body_bytes)
        self.max_images = min(settings.max_images, pool.count)
        self._turns = DecodingTurns()

    def reception(self, urgency: int) -> Reception:
        """For the body of a request. Raises Problem as `computed` would: 429 (no room), 503 (no engine)."""
        self._pool.check_room(1, urgency)
        return self._bodies.reception()

    async def computed(
        self, images: Sequence[Image], asked: Asked, some: bool = False, question: Question | None = None
    ) -> Computed:
        """Have images computed, with a question explained, too.

        A bad image raises its Problem; if `some` it is named in `refused` instead. Raises Problem: 429 (no room),
        503 (no engine), 504 (deadline), 500 (the network failed).
        """
        ticket = self._pool.take(len(images), asked.urgency)
        try:
            async with asyncio.timeout(asked.deadline - time.monotonic()):
                return await self._compute(ticket, images, asked.deadline, some, question)
        except BaseException as error:
            ticket.close(type(error))
            if isinstance(error, TimeoutError):
                raise problems.deadline_exceeded() from error
            raise

    async def _compute(
        self, ticket: Ticket, images: Sequence[Image], deadline: float, some: bool, question: Question | None
    ) -> Computed:
        refused: dict[int, Problem] = {}
        seen: list[Pixels] = []
        decode_seconds = 0.0
        batch_size = queue_us = infer_us = 0
        as_jpegs = self._pool.jpegs_as_they_are and not question
        left: Sequence[int] = range(len(images))
        while left:
            started = time.perf_counter()
            with self._spans.decode() if self._spans else nullcontext():
                for index in left:
                    try:
                        await self._place(ticket, index, images[index], as_jpegs)
                    except Problem as problem:
                        if not some:
                            raise
                        refused[index] = problem
            decode_seconds += time.perf_counter() - started
            if question:
                seen = [ticket.pixels(index).copy() for index in left]
            accepted = [index for index in left if index not in refused]
            if not accepted:
                break
            if self._spans:
                self._spans.ordered(ticket.slots)
            replies = await ticket.infer(accepted, deadline, question)
            if self._spans:
                self._spans.answered(ticket.sent, replies)
            _, _, batch_size, queue_us, infer_us = map(max, zip(*replies, strict=True))
            if not as_jpegs:
                break
            # What the device could not decode is decoded here after all, or found to be broken.
            left = [ticket.slots.index(reply.slot) for reply in replies if reply.status == Status.UNDECODED]
            as_jpegs = False
        timing = Timing(decode_seconds, queue_us, infer_us, batch_size)
        self._counters.stages(decode_seconds, queue_us / 1e6, infer_us / 1e6)
        return Computed(ticket, refused, timing, seen)

    async def _place(self, ticket: Ticket, index: int, image: Image, as_jpegs: bool) -> None:
        """Write into its slot what the network sees of an image, or the JPEG itself if it may be. Raises Problem."""
        if isinstance(image, Problem):
            raise image
        try:
            if isinstance(image, bytes):
                picture = Picture(image, self._max_pixels)
                if as_jpegs and ticket.pack(index, picture):
                    return
                (width, height), work = picture.size, partial(picture.pixels, self._preprocessing)
            else:
                height, width, _ = image.shape
                if height * width > self._max_pixels:
                    raise ImageTooLarge(width, height, self._max_pixels)
                work = partial(resize_and_crop, image, self._preprocessing)
            pixels = await self._turns.decoded(work, width * height, ticket.urgency)
        except ImageError as error:
            raise problems.of_image(error) from error
        np.copyto(ticket.pixels(index), pixels)
