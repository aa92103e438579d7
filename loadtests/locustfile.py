"""Users of the service, for locust: `python -m loadtests.loadtest` starts them, and the pods of deploy/ do.

    locust --locustfile loadtests/locustfile.py --headless --host URL --shape steady --users 8 --run-time 30s

A pod has locust and Python's own library: what is imported here needs no more.
"""

import json
import os
import random
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from gevent.event import Event
from gevent.pool import Group
from locust import FastHttpUser, LoadTestShape, between, events, runners, task

from loadtests.answers import Answer
from loadtests.figures import REFUSED
from loadtests.metrics import Metrics
from loadtests.questions import CORPUS, Mix
from loadtests.record import Record
from loadtests.shapes import SHAPES
from loadtests.slo import SloError, read

KEY_VARIABLE = "COORDSERVE_API_KEY"
HEADERS = {"Authorization": f"Bearer {key}"} if (key := os.environ.get(KEY_VARIABLE)) else {}
NO_ANSWER_SECONDS = 10.0  # then it is an error; --stop-timeout must be longer, for it to be counted
MOST_CONNECTIONS = 1000  # of an open loop; what is due beyond them waits, and the waiting counts
SPAWNED_PER_SECOND = 100  # as many as locust advises

# Workers tell the master every second, so that it can draw one; and what is under 10 ms differs, too.
runners.WORKER_REPORT_INTERVAL = 1.0
locust.stats.bucket_response_time = lambda milliseconds: float(f"{milliseconds:.3g}")


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    parser.add_argument("--shape", choices=SHAPES, default="steady", help="how load goes up and down")
    parser.add_argument("--rate", type=float, default=50.0, help="requests/s of the shape poisson, all together")
    parser.add_argument("--slo", default=str(Path(__file__).with_name("slo.toml")), help="the file of objectives")
    parser.add_argument("--corpus", default=str(CORPUS), help="the folder of pictures")
    parser.add_argument("--wait", type=float, default=0.0, help="for so many seconds until the service answers")
    parser.add_argument("--record", default="", help="write what happened there, and sample /metrics for it")


class Load:
    """What a process of locust knows of its run; the record is kept where all figures meet."""

    mix: Mix
    ready = Event()
    """there is a mix; a worker gets its users as soon as it has a connection to the master"""
    record: Record | None = None


@events.init.add_listener
def _prepare(environment: Any, runner: Any, **_: Any) -> None:
    options = environment.parsed_options
    try:
        card = _card(environment.host, options.wait)
        Load.mix = Mix(Path(options.corpus), card["name"], card["labels"])
        Load.ready.set()
        objectives = read(Path(options.slo))
    except (OSError, SloError) as error:
        sys.exit(f"loadtest: {environment.host}: {error}")
    if not isinstance(runner, runners.WorkerRunner):
        shape = SHAPES[options.shape]
        options.run_time = options.run_time or shape.seconds
        server = Metrics(environment.host, HEADERS).sample if options.record else dict
        Load.record = Record(
            environment.stats, shape, options.run_time, objectives, lambda: runner.user_count, server, options.rate
        )


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    if Load.record:
        Load.record.start()
        if environment.parsed_options.record:
            gevent.spawn(_keep_sampling, Load.record)


@events.quitting.add_listener
def _decide(environment: Any, **_: Any) -> None:
    record = Load.record
    if not record:
        return
    record.finish()
    options = environment.parsed_options
    for period in record.periods if len(record.periods) > 1 else []:
        print(period)
    for verdict in record.verdicts:
        print(verdict)
    for exception in environment.runner.exceptions.values():
        print(f"BROKEN the load itself: {exception['msg']}")
    passed = record.passed and not environment.runner.exceptions
    print(f"{options.shape}: {'passed' if passed else 'FAILED'}", flush=True)
    if options.record:
        asked = {"shape": options.shape, "users": options.num_users, "rate": options.rate}
        Path(options.record).write_text(json.dumps({**asked, **record.json(), "passed": passed}))
    environment.process_exit_code = 0 if passed else 1


def _keep_sampling(record: Record) -> None:
    while True:
        gevent.sleep(record.interval)
        record.sample()


def _card(host: str, wait: float) -> dict[str, Any]:
    request = urllib.request.Request(f"{host}/v1/models", headers=HEADERS)
    limit = time.monotonic() + wait
    while True:
        try:
            with urllib.request.urlopen(request, timeout=NO_ANSWER_SECONDS) as answer:
                return json.load(answer)["models"][0]
        except OSError:
            if time.monotonic() > limit:
                raise
            gevent.sleep(1)


class User(FastHttpUser):
    """Asks one question after the other, and looks at the answers."""

    abstract = True
    network_timeout = connection_timeout = NO_ANSWER_SECONDS

    def on_start(self) -> None:
        Load.ready.wait()

    def ask(self, due: float | None = None) -> None:
        """One question. `due`, of time.monotonic(), is when it should have left: latency counts from then."""
        question = Load.mix.draw()
        late = time.monotonic() - due if due else 0.0
        headers = HEADERS | question.headers
        with self.client.post(
            question.path, question.body, name=question.name, headers=headers, catch_response=True
        ) as found:
            found.request_meta["response_time"] += late * 1000
            if not found.status_code:
                return  # the connection failed, and locust says how
            if found.status_code in (429, 503) and found.headers.get("retry-after"):
                found.request_meta["request_type"] = REFUSED
                found.success()
            elif wrong := question.complaint(Answer(found.status_code, found.headers, found.content)):
                found.failure(wrong)
            else:
                found.success()


class Client(User):
    """Closed loop: waits for its answer, and then a little."""

    wait_time = between(0.05, 0.15)

    @task
    def one(self) -> None:
        self.ask()


class Arrivals(User):
    """Open loop: its part of a Poisson process, one such user for each process of locust."""

    concurrency = MOST_CONNECTIONS

    def on_start(self) -> None:
        super().on_start()
        options = self.environment.parsed_options
        self.rate = options.rate / options.expect_workers
        self.due = time.monotonic()
        self.waiting = Group()

    def wait_time(self) -> float:
        self.due += random.expovariate(self.rate)
        return max(0.0, self.due - time.monotonic())

    @task
    def one(self) -> None:
        self.waiting.spawn(self.ask, self.due).link_exception(self._tell)

    def on_stop(self) -> None:
        self.waiting.join(NO_ANSWER_SECONDS)

    def _tell(self, failed: gevent.Greenlet) -> None:
        """As locust itself does of what a task raises."""
        self.environment.events.user_error.fire(user_instance=self, exception=failed.exception, tb=failed.exc_info[2])


class Course(LoadTestShape):
    """The shape that --shape names."""

    use_common_options = True

    def tick(self) -> tuple[int, float, list[type]] | None:
        options = self.runner.environment.parsed_options
        shape, second = SHAPES[options.shape], self.get_run_time()
        if Load.record.over(second):
            return None
        if shape.open_loop:
            return options.expect_workers, SPAWNED_PER_SECOND, [Arrivals]
        return shape.users(second / options.run_time, options.num_users), SPAWNED_PER_SECOND, [Client]
