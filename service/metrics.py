"""What the service tells Prometheus.

Every process writes into files of its own (prometheus-client's multiprocess mode), named after its place
and not its pid, so that they neither grow in number nor lose their counts when a process is replaced.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS)
BATCH_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DROP_REASONS = ("deadline", "disconnect", "shed")


def name_process(name: str) -> None:
    """Call before any metric is made in this process; `name` must not contain an underscore."""
    values.ValueClass = values.MultiProcessValue(lambda: name)


class WorkerMetrics:
    """What a front-end worker counts."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        requests = Counter("coordserve_http_requests", "Requests answered", ["route", "code"], registry=registry)
        duration = Histogram(
            "coordserve_request_duration_seconds",
            "From the request's head to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        stage = Histogram(
            "coordserve_stage_duration_seconds",
            "Time of a request in decoding, waiting for a batch, and computing",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self._requests, self._duration = requests, duration
        self._by_route: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._stages = [stage.labels(name) for name in ("decode", "queue", "infer")]
        self._dropped = _dropped(registry)

    def answered(self, route: str, code: int, seconds: float) -> None:
        children = self._by_route.get((route, code))
        if children is None:
            children = self._requests.labels(route, str(code)), self._duration.labels(route)
            self._by_route[route, code] = children
        children[0].inc()
        children[1].observe(seconds)

    def stages(self, *seconds: float) -> None:
        """Of a request in decoding, waiting for its batch, and being computed."""
        for stage, value in zip(self._stages, seconds, strict=True):
            stage.observe(value)

    def dropped(self, reason: str, images: int) -> None:
        self._dropped.labels(reason).inc(images)


class EngineMetrics:
    """What an engine counts."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._batch = Histogram(
            "coordserve_batch_images", "Images computed together", buckets=BATCH_IMAGES, registry=registry
        )
        self._waiting = _gauge("coordserve_queue_images", "Images waiting for a batch", registry)
        self._inflight = _gauge("coordserve_inflight_images", "Images being computed", registry)
        self._dropped = _dropped(registry)
        self._out_of_memory = Counter(
            "coordserve_out_of_memory", "Batches that did not fit into the device's memory", registry=registry
        )
        self._not_finite = Counter(
            "coordserve_not_finite_images", "Images whose scores were NaN or infinite: a 500 each", registry=registry
        )
        for gauge in (self._waiting, self._inflight):
            gauge.set(0)

    def batch_started(self, images: int) -> None:
        self._batch.observe(images)
        self._inflight.inc(images)

    def waiting(self, images: int) -> None:
        self._waiting.set(images)

    def out_of_memory(self) -> None:
        self._out_of_memory.inc()

    def not_finite(self, images: int) -> None:
        self._not_finite.inc(images)

    def batch_ended(self, images: int) -> None:
        self._inflight.dec(images)

    def dropped(self, reason: str, images: int) -> None:
        self._dropped.labels(reason).inc(images)


class GpuMetrics:
    """What is seen of GPUs; `gpu` is a UUID, of a MIG slice its own. What is not known is NaN."""

    def __init__(self) -> None:
        registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"coordserve_gpu_{name}", text, ["gpu", "name"], multiprocess_mode="sum", registry=registry)

        self._gauges = {
            "up": gauge("up", "1 while the GPU answers its driver"),
            "used": gauge("memory_used_bytes", "Memory in use, by anybody"),
            "total": gauge("memory_total_bytes", "Memory there is"),
            "utilisation": gauge(
                "utilization_ratio", "Part of the time in which a kernel ran; not known of MIG slices"
            ),
            "clock": gauge("clock_hertz", "Clock of the multiprocessors"),
        }
        self._errors = Counter(
            "coordserve_gpu_xid_errors", "XID errors that the driver reported", ["gpu"], registry=registry
        )

    def seen(self, gpu: str, name: str, **values: float) -> None:
        for key, value in values.items():
            self._gauges[key].labels(gpu, name).set(value)

    def errors(self, gpu: str, count: int) -> None:
        self._errors.labels(gpu).inc(count)


class StatusCollector(Collector):
    """What a worker knows of the whole service at the moment of the scrape."""

    def __init__(self, status: Any, model: str, slots: int, used: Any) -> None:
        self._status, self._model, self._slots, self._used = status, model, slots, used

    def collect(self) -> list[Metric]:
        status, card = self._status, self._status.card
        compiled = card.get("form") in ("aot", "jit")
        restarts = Metric("coordserve_engine_restarts", "Engine processes started after the first", "counter")
        restarts.add_sample("coordserve_engine_restarts_total", {}, status.engine_restarts)
        info = GaugeMetricFamily("coordserve_model_info", "The model served; always 1", labels=_INFO)
        info.add_metric([self._model, *(str(card.get(key, "")) for key in _INFO[1:])], 1)
        capacity = GaugeMetricFamily(
            "coordserve_images_per_second_capacity", "Measured at start-up, by batch size", labels=["batch"]
        )
        for size, rate in status.capacity.items():
            capacity.add_metric([size], rate)
        return [
            GaugeMetricFamily("coordserve_slots", "Images the service has room for", self._slots),
            GaugeMetricFamily("coordserve_slots_used", "Images it holds", int(self._used().sum())),
            GaugeMetricFamily("coordserve_engine_up", "1 while an engine answers", int(status.ready)),
            GaugeMetricFamily("coordserve_engines", "Engines there should be, one a device", len(status.engines)),
            GaugeMetricFamily("coordserve_engines_up", "Engines that answer", status.engines.count("ready")),
            GaugeMetricFamily("coordserve_compiled", "1 if the network is compiled", int(compiled)),
            restarts,
            info,
            capacity,
        ]


_INFO = ["model", "weights_sha256", "device", "dtype"]


def render(status: StatusCollector) -> bytes:
    """The whole service in Prometheus' text format, whichever worker is asked."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    registry.register(status)
    return generate_latest(registry)


def _gauge(name: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, text, multiprocess_mode="sum", registry=registry)


def _dropped(registry: CollectorRegistry) -> Counter:
    counter = Counter("coordserve_dropped_images", "Images given up before compute", ["reason"], registry=registry)
    for reason in DROP_REASONS:
        counter.labels(reason)
    return counter
