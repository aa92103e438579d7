"""The engine process: owns the device and the network, takes what waits, answers every slot.

One thread does everything in turn: between two batches it reads its doorbells and the supervisor's
messages; while a batch computes they wait in the sockets. (A compiled package holds the GIL anyway.)
On a GPU batches are only sent on their way, and the thread comes back for them (pipeline.py).
"""

import gc
import logging
import math
import os
import selectors
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

# Every layer's kernels stay prepared at every batch size; the default of 1024 holds one network's only just.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

import numpy as np
import torch
from numpy.typing import NDArray

from models import compile as compiler
from models import cost, directory
from models.config import ModelDirectoryError
from service import control, cuda_device, forms, jpeg_decoder, jpegs, logs, overlapped, process
from service.arena import Arena
from service.batcher import BatchQueue, Entry
from service.doorbell import DEFAULT_URGENCY, ORDER, REPLY, Command, Line, Status
from service.explainer import Explainer
from service.explanations import Method, pack
from service.forms import Form
from service.jpeg_decoder import NoDecoder
from service.metrics import EngineMetrics, name_process
from service.overlapped import Overlapped
from service.pipeline import NONE_DECODED, Decoded, DeviceHangs
from service.settings import Settings, available_cores

if TYPE_CHECKING:
    from service.tracing import BatchSpans

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.5
# So long after an image that is no background work, background batches are short ones.
ALERT_SECONDS = 1.0
# While batches fly, the loop sleeps so much less, and then polls: epoll counts in milliseconds, and rounds up.
EARLY_SECONDS = 0.001
NO_GPU = "PyTorch finds no CUDA device; COORDSERVE_DEVICE=auto or cpu serves without one"


class Engine:
    """The loop around one network on one device."""

    def __init__(
        self,
        channel: socket.socket,
        settings: Settings,
        arena: Arena,
        former: dict[str, Any],
        spans: "BatchSpans | None" = None,
    ) -> None:
        """Load the model directory. Raises ModelDirectoryError, NoDecoder.

        former: the card of the engine in whose place this one is; {} of the first.
        """
        self._metrics = EngineMetrics()  # first: what a lost engine had in its hands is 0 even if no other can start
        self._former = former
        self._channel, self._settings, self._arena, self._spans = channel, settings, arena, spans
        config, network = directory.load(settings.model)
        size = config.preprocessing.input_size
        self._facts: dict[str, Any] = {
            "parameters": cost.parameters(network),
            "multiply_adds": cost.multiply_adds(network, size),
            "weights_sha256": directory.weights_digest(settings.model),
        }
        self._target = compiler.choose_target(
            settings.device, settings.dtype, available_cores(), self._facts["multiply_adds"]
        )
        compiler.configure(self._target)
        self._package = compiler.package_path(settings.cache_dir, settings.model, self._target)
        self._staging = np.zeros((settings.max_batch, size, size, 3), np.uint8)
        if self._target.device == "cuda":
            cuda_device.pin(arena)
        self._form: Form | None = None
        self._candidate: tuple[Form, Iterator[None]] | None = None
        self._compile_state = "off"

        self._decoder = jpeg_decoder.made(settings.decode, self._target.device, config.preprocessing)
        self._queue = BatchQueue()
        self._explanations = BatchQueue()  # one at a time, when nothing else waits
        self._explainer = Explainer(settings.model, self._target.device)
        self._lines: dict[int, Line] = {}  # by worker
        self._heartbeat_due = 0.0
        self._alert_until = 0.0
        self._running = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, self._on_control)

    def run(self) -> None:
        """Serve until the supervisor says stop or is gone."""
        self._start_form()
        # What start-up made lives for ever: keep the collector from walking through it again and again.
        gc.collect()
        gc.freeze()
        while self._running:
            now = time.monotonic()
            if now >= self._heartbeat_due:
                control.send(self._channel, "alive")
                self._metrics.waiting(len(self._queue) + len(self._explanations))
                self._heartbeat_due = now + HEARTBEAT_SECONDS
            lands = self._form.lands_in(now) if self._form else math.inf
            wait = self._due(now) if lands == math.inf else max(0.0, min(self._due(now), lands) - EARLY_SECONDS)
            if self._candidate or (self._explanations.wait(now, 1, 0.0) == 0.0 and wait == math.inf):
                wait = 0.0
            for key, events in self._selector.select(self._heartbeat_due - now if wait == math.inf else wait):
                key.data(key.fileobj, events)
            self._land()
            self._serve_batch()
            if not len(self._queue) and not self._flying():
                self._serve_explanation()
            if self._candidate:
                self._advance_candidate(*self._candidate)

    # -- the network ---------------------------------------------------------------------------

    def _start_form(self) -> None:
        """Serve in the best form there is now; ask for a compiled package where there is none."""
        mode = self._settings.compile
        try:
            if mode == "aot" and self._package.exists():
                self._serve_as(self._measured(self._place(forms.aot(self._package, self._target))))
                return
            if mode == "jit":
                self._report(ready=False, reason="compiling the network (jit)")
                settings = self._settings
                self._serve_as(forms.jit(settings.model, self._target, self._staging, settings.cache_dir, self._place))
                return
        except (compiler.PackageRefused, OSError) as error:
            log.error("the compiled network may not serve: %s; serving eagerly", error)
            self._compile_state = f"refused: {error}"
        else:
            self._compile_state = "compiling" if mode == "aot" else "off"
        if self._compile_state == "compiling" and self._settings.wait_for_compile:
            self._report(ready=False, reason="compiling the network")
        else:
            self._serve_as(self._measured(self._eager()))
        if self._compile_state == "compiling":
            control.send(self._channel, "compile", target=vars(self._target), package=str(self._package))

    def _eager(self) -> Form:
        return self._place(forms.eager(self._settings.model, self._target))

    def _place(self, form: Form) -> Form:
        return overlapped.placed(form, self._package, self._arena, self._settings.max_batch)

    def _measured(self, form: Form) -> Form:
        """Warm at every batch size, whose rates are those of the engine before if it served the same.

        That one was measured before it had requests to answer; this one may have to share the machine with them.
        """
        same = {"form": form.name, **vars(self._target)}
        if all(self._former.get(name) == value for name, value in same.items()):
            known = {int(size): rate for size, rate in self._former["images_per_second"].items()}
            for size in sorted(known, reverse=True):
                form.warm_up(self._staging[:size], known[size])
        else:
            for _ in form.measure(self._staging):
                pass
        return form

    def _serve_as(self, form: Form) -> None:
        self._form = form
        if form.name != "eager":
            self._compile_state = "compiled"
        log.info("serving %s, %s, batches of up to %d images", form.name, self._target.dtype, form.cap)
        self._report(ready=True)

    def _advance_candidate(self, form: Form, measuring: Iterator[None]) -> None:
        """One timed batch of the form that is to take over; once all are done it does, between two batches."""
        self._drain()
        if next(measuring, measuring) is measuring:
            self._candidate = None
            self._serve_as(form)

    def _report(self, ready: bool, reason: str = "") -> None:
        form = self._form
        control.send(
            self._channel,
            "status",
            ready=ready,
            reason=reason,
            card={
                **self._facts,
                **vars(self._target),
                "form": form.name if form else None,
                "compile": {"mode": self._settings.compile, "state": self._compile_state},
                "decode": "gpu" if form and self._decodes(form) else "cpu",
                "batch_cap": form.cap if form else None,
                "images_per_second": {str(size): round(rate, 1) for size, rate in form.curve.items()} if form else {},
            },
        )

    def _decodes(self, form: Form) -> bool:
        """Whether workers are to pass on JPEGs as they are."""
        return self._decoder is not None and self._decoder.pays(max(form.curve.values()), self._settings.workers)

    # -- batches -------------------------------------------------------------------------------

    @property
    def _cap(self) -> int:
        return self._form.cap if self._form else 0

    def _due(self, now: float) -> float:
        """Seconds until the next batch is to be started; inf when nothing waits, or the device is full."""
        wait = self._queue.wait(now, self._cap, self._settings.max_delay_ms / 1000)
        if wait is None:
            return math.inf
        return max(wait, self._form.free_in(now, len(self._queue))) if self._form else wait

    def _serve_batch(self) -> None:
        started = time.monotonic()
        if not self._form or self._due(started) != 0.0:
            return
        batch, expired = self._queue.cut(started, self._cap, self._background_cap)
        if expired:
            self._metrics.dropped("deadline", len(expired))
            self._answer(expired, [Status.EXPIRED] * len(expired), 0, started, 0.0)
        if not batch:
            return
        if batch[0].urgency <= DEFAULT_URGENCY:
            self._alert_until = started + ALERT_SECONDS
        self._metrics.batch_started(len(batch))
        self._metrics.waiting(len(self._queue) + len(self._explanations))
        if isinstance(self._form, Overlapped):
            self._submit(self._form, sorted(batch, key=lambda entry: entry.slot), started)
        else:
            self._finish(batch, self._compute(self._form, [entry.slot for entry in batch]), started)

    def _finish(self, batch: list[Entry], statuses: list[Status], started: float) -> None:
        self._answer(batch, statuses, len(batch), started, time.monotonic() - started)
        self._metrics.batch_ended(len(batch))

    def _submit(self, form: Overlapped, batch: list[Entry], started: float) -> None:
        """Send a batch on its way, in as many parts as fit into memory."""
        decoded = NONE_DECODED
        if packed := [entry for entry in batch if entry.jpeg]:
            decoded = self._decoded([entry.slot for entry in packed])
            if left := [entry for entry in packed if entry.slot not in decoded]:
                self._finish(left, [Status.UNDECODED] * len(left), started)
                batch = [entry for entry in batch if entry not in left]
        while batch:
            part = batch[: max(form.curve)]
            try:
                form.submit([entry.slot for entry in part], (part, started), time.monotonic(), decoded)
            except Exception as error:
                if forms.out_of_memory(error) and form.shrink(len(part)):
                    self._note_shrunk(form, len(part))
                    continue
                log.exception("the network failed on a batch of %d images", len(part))
                if self._is_lost(error):
                    raise
                self._finish(part, [Status.FAILED] * len(part), started)
            batch = batch[len(part) :]
            while batch and form.full:
                self._land()

    def _decoded(self, slots: list[int]) -> Decoded:
        """Pixels of the JPEGs in the slots, on the device, by slot; without those that cannot be decoded there."""
        assert self._decoder
        try:
            pixels = self._decoder.pixels([jpegs.unpack(self._arena.pixels[slot]) for slot in slots])
        except Exception as error:
            log.exception("decoding %d JPEGs on the device failed", len(slots))
            if self._is_lost(error):
                raise
            return NONE_DECODED
        return {slot: image for slot, image in zip(slots, pixels, strict=True) if image is not None}

    def _land(self) -> None:
        """Answer the batches that have come back."""
        if isinstance(self._form, Overlapped):
            for (batch, started), scores in self._form.pipeline.landed(time.monotonic()):
                self._finish(batch, self._hand_over([entry.slot for entry in batch], scores), started)

    def _drain(self) -> None:
        """Wait for what is on its way."""
        while self._flying():
            self._land()

    def _flying(self) -> bool:
        return self._form is not None and self._form.lands_in(time.monotonic()) != math.inf

    def _background_cap(self, others: int) -> int:
        """Background work fills the padding beside others; alone it keeps the device only for a short while."""
        assert self._form
        if others:
            return self._form.padded(others)
        return self._form.quick() if time.monotonic() < self._alert_until else self._form.cap

    def _serve_explanation(self) -> None:
        started = time.monotonic()
        batch, expired = self._explanations.cut(started, 1, lambda others: 1)
        if expired:
            self._metrics.dropped("deadline", len(expired))
            self._answer(expired, [Status.EXPIRED] * len(expired), 0, started, 0.0)
        for entry in batch:
            try:
                pixels = self._arena.pixels[entry.slot]
                scores, explanation = self._explainer.explain(pixels, Method(entry.method), entry.target)
                pack(explanation, pixels)
                self._arena.scores[entry.slot] = scores
                status = Status.OK
                if not np.isfinite(scores).all():
                    status = Status.NOT_FINITE
                    self._note_not_finite(1, 1)
            except Exception as error:
                log.exception("explaining an image failed")
                if self._is_lost(error):
                    raise
                status = Status.FAILED
            self._answer([entry], [status], 1, started, time.monotonic() - started)

    def _compute(self, form: Form, slots: list[int]) -> list[Status]:
        """Scores of the slots' pixels into the slots, in as many parts as fit into memory; what became of each."""
        statuses: list[Status] = []
        while len(statuses) < len(slots):
            statuses += self._compute_part(form, slots[len(statuses) :][: max(form.curve)])
        return statuses

    def _compute_part(self, form: Form, slots: list[int]) -> list[Status]:
        """The same; [] if it did not fit, and from now on less is tried at once."""
        images = len(slots)
        # Slots are in range; with mode="raise" NumPy would copy everything twice.
        np.take(self._arena.pixels, slots, axis=0, out=self._staging[:images], mode="clip")
        try:
            scores = form.scores(self._staging, images)
        except Exception as error:
            if forms.out_of_memory(error) and form.shrink(images):
                self._note_shrunk(form, images)
                return []
            log.exception("the network failed on a batch of %d images", images)
            if self._is_lost(error):
                raise
            return [Status.FAILED] * images
        return self._hand_over(slots, scores)

    def _hand_over(self, slots: list[int], scores: forms.Scores) -> list[Status]:
        """Scores of a batch into its slots; what each image is answered."""
        images = len(slots)
        self._arena.scores[slots] = scores
        finite: NDArray[np.bool_] = np.all(np.isfinite(scores), axis=1)
        if finite.all():
            return [Status.OK] * images
        self._note_not_finite(images - int(finite.sum()), images)
        return [Status.OK if good else Status.NOT_FINITE for good in finite]

    def _note_shrunk(self, form: Form, images: int) -> None:
        log.error("%d images do not fit into memory; from now on at most %d at once", images, max(form.curve))
        self._metrics.out_of_memory()
        if self._target.device == "cuda":
            torch.cuda.empty_cache()
        self._report(ready=True)

    def _note_not_finite(self, bad: int, images: int) -> None:
        log.error("the network returned NaN or infinity for %d of %d images", bad, images)
        self._metrics.not_finite(bad)

    def _is_lost(self, error: Exception) -> bool:
        """Whether only a new process gets rid of an error: those of CUDA are sticky, but for want of memory."""
        on_cuda = self._target.device == "cuda" and not forms.out_of_memory(error)
        return isinstance(error, torch.AcceleratorError) or on_cuda

    def _answer(
        self, entries: list[Entry], statuses: list[Status], batch_size: int, started: float, seconds: float
    ) -> None:
        if self._spans and batch_size:
            self._spans.batch([entry.slot for entry in entries], statuses, started, seconds)
        infer_us = round(seconds * 1e6)
        replies: dict[Line, bytearray] = defaultdict(bytearray)
        for entry, status in zip(entries, statuses, strict=True):
            queue_us = max(0, round((started - entry.sent) * 1e6))
            replies[entry.line] += REPLY.pack(entry.slot, status, batch_size, queue_us, infer_us)
        for line, records in replies.items():
            self._send(line, bytes(records))

    # -- doorbells -----------------------------------------------------------------------------

    def _on_line(self, line: Line, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(line, b"")
        orders = line.receive() if events & selectors.EVENT_READ else iter(())
        if orders is None:
            if line in self._lines.values():  # else it was dropped in this very turn
                self._drop_line(line)
            return
        for slot, command, urgency, sent, deadline, method, target in orders:
            if command == Command.PREDICT:
                self._queue.push(Entry(line, slot, sent, deadline, urgency))
            elif command == Command.EXPLAIN:
                self._explanations.push(Entry(line, slot, sent, deadline, urgency, method, target))
            elif command == Command.DECODE:
                jpeg = Entry(line, slot, sent, deadline, urgency, jpeg=True)
                if self._decoder:
                    self._queue.push(jpeg)
                else:  # the engine before this one had a decoder
                    self._answer([jpeg], [Status.UNDECODED], 0, time.monotonic(), 0.0)
            elif entry := self._queue.cancel(slot) or self._explanations.cancel(slot):
                self._answer([entry], [Status.CANCELLED], 0, time.monotonic(), 0.0)

    def _send(self, line: Line, records: bytes) -> None:
        try:
            done = line.send(records)
        except OSError:
            return  # the worker is gone; reading its end of file drops the line
        self._selector.modify(line, selectors.EVENT_READ | (0 if done else selectors.EVENT_WRITE), self._on_line)

    def _drop_line(self, line: Line) -> None:
        """A worker is gone: nobody waits for its images. None of them may fly when its successor gets the slots."""
        self._drain()
        if dropped := self._queue.disconnect(line) + self._explanations.disconnect(line):
            self._metrics.dropped("disconnect", dropped)
        self._selector.unregister(line)
        (worker,) = (worker for worker, other in self._lines.items() if other is line)
        del self._lines[worker]
        line.close()
        control.send(self._channel, "released", worker=worker)

    # -- the supervisor ------------------------------------------------------------------------

    def _on_control(self, channel: socket.socket, events: int) -> None:
        message = control.receive(channel)
        if message is None or message.kind == "stop":
            self._running = False
        elif message.kind == "connect":
            worker = message.fields["worker"]
            if worker in self._lines:  # its predecessor, whose slots it takes over
                self._drop_line(self._lines[worker])
            line = Line(socket.socket(fileno=message.fds[0]), ORDER)
            self._lines[worker] = line
            self._selector.register(line, selectors.EVENT_READ, self._on_line)
        elif message.kind == "compiled":
            self._take_package(message.fields["error"])

    def _take_package(self, error: str | None) -> None:
        try:
            if error:
                raise compiler.PackageRefused(error)
            form = self._place(forms.aot(self._package, self._target))
        except (compiler.PackageRefused, OSError) as refusal:
            log.error("no compiled network: %s", refusal)
            self._compile_state = f"refused: {refusal}"
            if not self._form:
                self._form = self._measured(self._eager())
            self._serve_as(self._form)
        else:
            self._candidate = (form, form.measure(self._staging))


def main() -> int:
    channel = process.channel_of_child()
    start = control.receive(channel)
    if start is None:
        return 1
    settings = Settings(**start.fields["settings"])
    index = start.fields["engine"]
    name = "engine" if index is None else f"engine {index}"
    logs.configure(settings.log_format, settings.log_level, name)
    name_process(name.replace(" ", ""))
    arena, former = Arena(start.fds[0], *start.fields["arena"]), start.fields["former"]
    spans = None
    if settings.tracing:
        from service.tracing import BatchSpans

        spans = BatchSpans(name, arena)
    try:
        # One of several is only as lost as its device, and is tried again.
        if index is None and settings.device == "cuda" and not former and not torch.cuda.is_available():
            control.send(channel, "fatal", message=NO_GPU)
            return 1
        Engine(channel, settings, arena, former, spans).run()
    except (ModelDirectoryError, NoDecoder) as error:
        control.send(channel, "fatal", message=str(error))
        return 1
    except DeviceHangs as error:
        log.error("the engine cannot go on: %s", error)
        os._exit(1)  # an orderly end would wait for the device
    except Exception:
        log.exception("the engine cannot go on")
        return 1
    if spans:
        spans.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
