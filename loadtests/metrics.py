"""What /metrics says of the time since it was last asked."""

import math
import re
import urllib.request

_LINE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_MEANS = {
    "decode_ms": ("coordserve_stage_duration_seconds", '{stage="decode"}', 1e3),
    "queue_ms": ("coordserve_stage_duration_seconds", '{stage="queue"}', 1e3),
    "infer_ms": ("coordserve_stage_duration_seconds", '{stage="infer"}', 1e3),
    "request_ms": ("coordserve_request_duration_seconds", '{route="/v1/predict"}', 1e3),
    "batch_images": ("coordserve_batch_images", "", 1.0),
}
_NOW = {"queue_images": "coordserve_queue_images", "slots_used": "coordserve_slots_used"}
SECONDS = 5.0
FIELDS = (*_MEANS, *_NOW)


class Metrics:
    """Of one service, by its address."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._request = urllib.request.Request(f"{url}/metrics", headers=headers)
        self._last: dict[str, float] = {}

    def sample(self) -> dict[str, float]:
        """Means since the last sample, and what is true now; NaN for what is not known."""
        try:
            with urllib.request.urlopen(self._request, timeout=SECONDS) as answer:
                found = parse(answer.read().decode())
        except OSError:
            found = {}
        last, self._last = self._last, found
        means = {name: _mean(*where, found, last) for name, where in _MEANS.items()}
        return means | {name: found.get(metric, math.nan) for name, metric in _NOW.items()}


def parse(text: str) -> dict[str, float]:
    """Of Prometheus' text format: value by name and labels."""
    return {name + labels: float(value) for name, labels, value in _LINE.findall(text)}


def _mean(name: str, labels: str, scale: float, found: dict[str, float], last: dict[str, float]) -> float:
    def more(what: str) -> float:
        key = f"{name}_{what}{labels}"
        return found.get(key, math.nan) - (last.get(key, 0.0) if last else math.nan)

    return scale * more("sum") / more("count") if more("count") > 0 else math.nan
