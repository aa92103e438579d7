"""How much memory a service holds."""

import psutil

from loadtests.running import RunningService


def resident(service: RunningService) -> dict[str, float]:
    """Resident MB; `proportional` counts once what processes share."""
    supervisor = psutil.Process(service.process.pid)
    family = [supervisor, *supervisor.children()]
    return {
        "worker_mb": max(process.memory_info().rss for process in service.children("service.worker")) / 1e6,
        "engine_mb": service.children("service.engine")[0].memory_info().rss / 1e6,
        "supervisor_mb": supervisor.memory_info().rss / 1e6,
        "total_mb": sum(process.memory_info().rss for process in family) / 1e6,
        "total_proportional_mb": sum(process.memory_full_info().pss for process in family) / 1e6,
    }
