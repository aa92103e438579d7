"""A front-end worker: uvicorn on the shared listener, a line to each engine, an ear for the supervisor."""

import asyncio
import gc
import logging
import os
import socket
import sys
from functools import partial

import uvicorn
import uvloop

from models.config import read_config
from service import allocator, control, logs, metrics, process
from service.app import create_app
from service.arena import Arena
from service.connection import KEEP_ALIVE_SECONDS, Connection
from service.control import Message
from service.listener import Server
from service.metrics import StatusCollector, WorkerMetrics
from service.settings import Settings
from service.slots import ServiceStatus, SlotPool

HEARTBEAT_SECONDS = 0.5


async def serve(channel: socket.socket, start: Message) -> None:
    settings, worker = Settings(**start.fields["settings"]), start.fields["worker"]
    logs.configure(settings.log_format, settings.log_level, f"worker {worker}")
    config = read_config(settings.model)
    arena = Arena(start.fds[0], *start.fields["arena"])
    listener = socket.socket(fileno=start.fds[1])
    status = ServiceStatus()
    counters = WorkerMetrics()
    count, engines = settings.slots_per_worker, start.fields["engines"]
    pool = SlotPool(arena, worker * count, count, status, counters.dropped, engines)
    collector = StatusCollector(status, config.name, len(arena.used), lambda: arena.used)
    spans = None
    if settings.tracing:
        from service.tracing import RequestSpans

        spans = RequestSpans(f"worker {worker}", arena)
    app = create_app(settings, config, pool, status, counters, lambda: metrics.render(collector), spans)
    server = Server(
        uvicorn.Config(
            app,
            http=partial(Connection, count=counters.answered),  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            headers=[("X-Content-Type-Options", "nosniff")],  # no answer is a script or a page but those of the page
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )

    def on_control() -> None:
        message = control.receive(channel)
        if message is None:
            os._exit(1)  # without a supervisor nobody would replace what fails
        elif message.kind == "stop":
            server.should_exit = True
        elif message.kind == "status":
            vars(status).update(message.fields)
            pool.check_hope()
        elif message.kind == "connect":
            pool.connect(socket.socket(fileno=message.fds[0]), message.fields["engine"])

    async def heartbeat() -> None:
        while True:
            control.send(channel, "alive")
            await asyncio.sleep(HEARTBEAT_SECONDS)

    asyncio.get_running_loop().add_reader(channel, on_control)
    # What start-up made lives for ever, and requests leave hardly a cycle: collecting took 7 % of a busy worker's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
    beating = asyncio.create_task(heartbeat())
    await server.serve(sockets=[listener])
    beating.cancel()
    if spans:
        spans.close()


def main() -> int:
    allocator.use_one_arena()
    allocator.keep_free_memory()
    channel = process.channel_of_child()
    start = control.receive(channel)
    if start is None:
        return 1
    metrics.name_process(f"worker{start.fields['worker']}")
    uvloop.run(serve(channel, start))
    return 0


if __name__ == "__main__":
    sys.exit(main())
