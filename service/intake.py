"""What every predicting route does: images into slots, through the engine, out as scores."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
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


@dataclass(frozen=True)
class Computed:
    """The images of a request, answered by the engine; valid inside the context of Intake.computed."""

    ticket: Ticket
    refused: dict[int, Problem]
    """what is wrong with the images that were left out"""
    timing: Timing
    seen: list[Pixels]
    """what the network saw of each image, uint8 [S, S, 3], if they were explained"""

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

    @asynccontextmanager
    async def computed(
        self, images: Sequence[Image], asked: Asked, some: bool = False, question: Question | None = None
    ) -> AsyncIterator[Computed]:
        """Have images computed; inside the context their scores can be read.

        With a question their explanations can, too. A bad image raises its Problem; if `some` it is
        named in `refused` instead. Raises Problem: 429 (no room), 503 (no engine), 504 (deadline), 500
        (the network failed).
        """
        try:
            with self._pool.take(len(images), asked.urgency) as ticket:
                async with asyncio.timeout(asked.deadline - time.monotonic()):
                    refused, timing, seen = await self._compute(ticket, images, asked.deadline, some, question)
                self._counters.decode.observe(timing.decode_seconds)
                self._counters.queue.observe(timing.queue_us / 1e6)
                self._counters.infer.observe(timing.infer_us / 1e6)
                yield Computed(ticket, refused, timing, seen)
        except TimeoutError as error:
            raise problems.deadline_exceeded() from error

    async def _compute(
        self, ticket: Ticket, images: Sequence[Image], deadline: float, some: bool, question: Question | None
    ) -> tuple[dict[int, Problem], Timing, list[Pixels]]:
        """What Computed says, beside the ticket."""
        started = time.perf_counter()
        refused: dict[int, Problem] = {}
        with self._spans.decode() if self._spans else nullcontext():
            for index, image in enumerate(images):
                try:
                    await self._place(ticket, index, image)
                except Problem as problem:
                    if not some:
                        raise
                    refused[index] = problem
        timing = Timing(time.perf_counter() - started)
        seen = [ticket.pixels(index).copy() for index in range(len(images))] if question else []
        accepted = [index for index in range(len(images)) if index not in refused]
        if not accepted:
            return refused, timing, seen
        if self._spans:
            self._spans.ordered(ticket.slots)
        replies = await ticket.infer(accepted, deadline, question)
        if self._spans:
            self._spans.answered(ticket.sent, replies)
        timing = Timing(
            timing.decode_seconds,
            max(reply.queue_us for reply in replies),
            max(reply.infer_us for reply in replies),
            max(reply.batch_size for reply in replies),
        )
        return refused, timing, seen

    async def _place(self, ticket: Ticket, index: int, image: Image) -> None:
        """Write into its slot what the network sees of an image. Raises Problem."""
        if isinstance(image, Problem):
            raise image
        try:
            if isinstance(image, bytes):
                picture = Picture(image, self._max_pixels)
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
