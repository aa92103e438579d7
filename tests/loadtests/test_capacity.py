"""The capacity planner against what is known without it: formulas of queueing, documented rules of the autoscalers."""

import asyncio
import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
import simpy

from loadtests.capacity import __main__ as command
from loadtests.capacity import arrivals, manifests, measure, plan, pod, table
from loadtests.capacity.autoscalers import DOWN, UP, Direction, Hpa, Keda, Policy, desired_by_pods, desired_by_total
from loadtests.capacity.cores import SLICE_SECONDS, Cores, Process
from loadtests.capacity.fleet import EVICTED_SECONDS, UNHEARD_SECONDS, Cluster, Failure, Fleet, History
from loadtests.capacity.plan import Objective
from loadtests.capacity.pod import NotMeasuredError, Pod, PodFileError
from loadtests.capacity.serving import closed_loop, open_loop
from loadtests.capacity.table import Table
from loadtests.client import poisson
from loadtests.running import RunningService, wait_until

BATCH_SECONDS = 0.01
# A server that takes one image at a time and always as long, and nothing else: a queue from the textbook.
SERVER = Pod(
    model="server",
    device="cuda",
    cores=2,
    workers=1,
    queue_images=100_000,
    batch_cap=1,
    threads=1,
    images_per_second={1: 1 / BATCH_SECONDS},
    decode_seconds=0.0,
    request_seconds=0.0,
    turn_seconds=0.0,
    batch_seconds=0.0,
)
SHARED = replace(
    SERVER,
    model="shared",
    device="cpu",
    workers=2,
    queue_images=64,
    batch_cap=8,
    threads=2,
    images_per_second={1: 100.0, 2: 160.0, 4: 200.0, 8: 220.0},
    decode_seconds=0.0003,
    request_seconds=0.0005,
    start_seconds=5.0,
)


@pytest.fixture(scope="module")
def shared() -> Table:
    return table.simulated(SHARED, requests=1500)


# -- one pod -----------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [0.3, 0.7])
def test_a_queue_with_constant_service_waits_as_pollaczek_and_khinchine_say(busy: float):
    rate = busy / BATCH_SECONDS
    served = open_loop(SERVER, poisson(rate, 40_000 / rate, seed=1))

    waited = fmean(served.latencies) - BATCH_SECONDS

    assert waited == pytest.approx(busy * BATCH_SECONDS / (2 * (1 - busy)), rel=0.05)


def test_what_is_too_much_is_refused_and_nothing_else_is_lost():
    small = replace(SERVER, queue_images=20)
    times = poisson(2 / BATCH_SECONDS, 50)

    served = open_loop(small, times)

    assert len(served.latencies) + served.refused == len(times) - int(0.1 * len(times))
    assert served.rate == pytest.approx(1 / BATCH_SECONDS, rel=0.01)
    assert max(served.latencies) <= 20 * BATCH_SECONDS + 1e-6


def test_batches_take_what_waits_and_are_padded():
    assert SHARED.batch_time(3) == SHARED.batch_time(4) == 4 / 200

    many = closed_loop(replace(SHARED, cores=8), 64, 1000)

    assert many.rate == pytest.approx(SHARED.images_per_second[8], rel=0.05)


def test_processes_take_turns_on_the_cores():
    env = simpy.Environment()
    cores = Cores(env, 2)
    ends: list[float] = []
    for process in range(3):
        cores.run(process, 1.0).callbacks.append(lambda _: ends.append(env.now))
    env.run()
    assert ends == pytest.approx([1.5] * 3, abs=2 * SLICE_SECONDS)
    assert cores.used == pytest.approx(3)


def test_whoever_wants_a_core_waits_for_a_slice_to_end():
    env = simpy.Environment()
    cores = Cores(env, 1)
    ends: list[float] = []
    cores.run("long", 1.0)

    def short() -> Process:
        yield env.timeout(SLICE_SECONDS / 4)
        for _ in range(3):  # it keeps its core from one piece of work to the next
            yield cores.run("short", SLICE_SECONDS / 8)
        ends.append(env.now)

    env.process(short())
    env.run()
    assert ends == pytest.approx([SLICE_SECONDS * (1 + 3 / 8)])


def test_a_batch_ends_with_the_last_of_its_threads():
    env = simpy.Environment()
    cores = Cores(env, 2)
    ends: list[float] = []
    cores.run("engine", 1.0, threads=2).callbacks.append(lambda _: ends.append(env.now))
    cores.run("worker", 0.25).callbacks.append(lambda _: ends.append(env.now))
    env.run()
    assert ends == pytest.approx([0.375, 1.125], abs=2 * SLICE_SECONDS)  # two thirds of a core each, then alone


def test_the_load_generator_goes_first():
    env = simpy.Environment()
    cores = Cores(env, 1)
    ends: list[float] = []
    cores.run("worker", 0.1).callbacks.append(lambda _: ends.append(env.now))
    assert cores.client(0.02, turn=0.01) == pytest.approx(0.03)
    assert cores.client(0.02, turn=0.01) == pytest.approx(0.05)  # it was not idle
    env.run()
    assert ends == pytest.approx([0.15])
    assert cores.used == pytest.approx(0.1)


def test_on_shared_cores_decoding_costs_throughput_and_on_a_gpu_it_does_not():
    # 8 images decoded take 6.4 ms of a core beside a batch of 36 ms.
    on_cpu = closed_loop(SHARED, 64, 2000).rate
    on_gpu = closed_loop(replace(SHARED, device="cuda", cores=3), 64, 2000).rate

    assert on_cpu < 0.95 * on_gpu


def test_more_load_makes_more_late_and_more_waiting(shared: Table):
    loads = [part * shared.capacity for part in (0.2, 0.5, 0.8, 0.95)]

    assert shared.capacity < 220
    assert sorted(shared.waiting(load) for load in loads) == [shared.waiting(load) for load in loads]
    assert shared.misses(loads[0], 0.05) < shared.misses(loads[-1], 0.05)


# -- the real one ------------------------------------------------------------------------------


def test_what_is_measured_is_asked_of_every_worker_alike(service: RunningService):
    async def load() -> measure.Loaded:
        bench = measure.Bench(service, 8)
        await bench.connect()
        loaded = await bench.closed_loop(0.3)
        workers = service.children("service.worker")
        wait_until(lambda: [len(measure.peers(one)) for one in workers] == [4, 4], 10, "what is over is closed")
        return loaded

    loaded = asyncio.run(load())

    assert measure.good(loaded.answers) == loaded.answers
    assert 0 < measure.timing(loaded.answers, "decode_ms") < 1e3 * loaded.seconds
    assert loaded.workers_cpu > 0


def test_a_pod_that_answers_less_than_its_parts_could_was_crowded():
    busy = replace(SHARED, connections=32, crowded=1.5)
    capacity = closed_loop(busy, 32, measure.SIMULATED).rate

    found = measure.fitted(replace(busy, crowded=1.0, capacity=capacity))

    assert found.crowded == pytest.approx(1.5, abs=0.1)
    assert closed_loop(found, 32, measure.SIMULATED).rate == pytest.approx(capacity, rel=0.02)
    with pytest.raises(NotMeasuredError, match="busy with other work"):
        measure.fitted(replace(busy, crowded=1.0, capacity=10 * capacity))


# -- the autoscalers ---------------------------------------------------------------------------


def test_hpa_doubles_and_halves_as_documented():
    assert desired_by_pods([200.0] * 3, 100.0, 3) == 6
    assert desired_by_pods([50.0] * 4, 100.0, 4) == 2
    assert desired_by_pods([109.0] * 4, 100.0, 4) == 4, "within the tolerance"


@pytest.mark.parametrize(
    ("used", "target", "replicas", "unready", "expected"),
    [
        ([300, 500, 700], 300, 3, 0, 5),
        ([500, 700], 300, 3, 1, 4),  # the one that is not ready counts as 0
        ([400], 300, 3, 2, 3),  # which here would turn the direction
        ([100, 300, 500, 250, 250], 500, 5, 0, 3),
        ([100, 300, 500], 500, 5, 2, 2),  # scaling down, they are left out
    ],
)
def test_hpa_counts_pods_as_kubernetes_own_tests_have_it(
    used: list[float], target: float, replicas: int, unready: int, expected: int
):
    assert desired_by_pods(used, target, replicas, unready) == expected


def test_hpa_takes_pods_without_a_metric_for_what_stops_it():
    assert desired_by_pods([1000.0], 500.0, 4, missing=3) == 4, "0 for each would turn the direction"
    assert desired_by_pods([100.0] * 3, 500.0, 4, missing=1) == 2, "the target for the one"
    assert desired_by_pods([], 500.0, 4, missing=4) is None


def test_an_external_average_is_over_all_replicas():
    assert desired_by_total(8600, 2150, 3) == 4
    assert desired_by_total(8600, 2867, 5) == 3
    assert desired_by_total(64 * 4 * 1.09, 64, 4) == 4, "within the tolerance"


def test_scaling_down_by_policies_as_in_the_documentation():
    # "if there are 80 replicas and the target has to be scaled down to 10": 4 pods or 10 %, whichever is more, a minute
    rules = Direction(0, (Policy("Pods", 4, 60), Policy("Percent", 10, 60)))
    hpa, replicas, seen = Hpa(1, 100, down=rules), 80, []
    for minute in range(12):
        replicas = hpa.scale(60.0 * minute, replicas, 10)
        seen.append(replicas)

    assert seen[:3] == [72, 64, 57]
    assert [before - after for before, after in pairwise(seen[8:])] == [4, 4, 4]


@pytest.mark.parametrize(("select", "left"), [("Max", 90), ("Min", 95), ("Disabled", 100)])
def test_select_policy(select: str, left: int):
    rules = Direction(0, (Policy("Percent", 10, 60), Policy("Pods", 5, 60)), select)

    assert Hpa(1, 200, down=rules).scale(0.0, 100, 1) == left


def test_scaling_up_by_default_is_four_pods_or_twice_as_many_in_fifteen_seconds():
    hpa, replicas, seen = Hpa(1, 100), 1, []
    for sync in range(5):
        replicas = hpa.scale(15.0 * sync, replicas, 1000)
        seen.append(replicas)

    assert seen == [5, 10, 20, 40, 80]


def test_a_period_longer_than_a_sync_remembers_what_was_done_in_it():
    rules = Direction(0, (Policy("Percent", 100, 30),))
    hpa = Hpa(2, 100, up=rules)

    assert hpa.scale(0.0, 2, 50) == 4
    assert hpa.scale(15.0, 4, 50) == 4
    assert hpa.scale(30.0, 4, 50) == 8


def test_scaling_down_waits_for_its_window_and_then_follows_its_highest_recommendation():
    hpa = Hpa(1, 100)

    asked = [(0.0, 10), (15.0, 4), (150.0, 6), (301.0, 2)]
    assert [hpa.scale(at, 10, desired) for at, desired in asked] == [10, 10, 10, 6]


def test_replicas_stay_within_their_bounds():
    assert Hpa(2, 10).scale(0.0, 4, 50) == 8
    assert Hpa(2, 10).scale(0.0, 8, 50) == 10
    assert Hpa(2, 10, down=replace(DOWN, window=0)).scale(0.0, 8, 0) == 2
    assert Hpa(2, 10).scale(0.0, 1, 1) == 2


def test_keda_holds_through_failures_and_then_falls_back():
    keda = Keda(10, Hpa(2, 20), failure_threshold=3, fallback_replicas=4, fallback_behavior="currentReplicasIfHigher")

    assert [keda.desired(None, 2) for _ in range(4)] == [None, None, None, 4]
    assert keda.desired(None, 9) == 9
    assert keda.desired(55, 9) == 6
    assert keda.desired(None, 9) is None, "counted anew"
    assert replace(keda, fallback_behavior="static", _failures=3).desired(None, 9) == 4


def test_keda_goes_to_zero_only_after_the_cooldown():
    keda = Keda(10, Hpa(1, 20), cooldown=300, to_zero=True)

    assert keda.activate(0.0, 3.0, 0) == 1
    assert [keda.activate(at, 0.0, 1) for at in (30.0, 299.0, 300.0)] == [1, 1, 0]
    assert keda.hpa.scale(330.0, 0, 5) == 0, "the other controller leaves it there"


def test_the_rules_are_those_that_are_deployed():
    keda, (hpa, target) = manifests.keda(), manifests.hpa()

    assert keda.threshold > 0
    assert keda.fallback_replicas is not None
    assert keda.hpa.least == hpa.least == 2
    assert keda.hpa.up != UP
    assert keda.hpa.down.window == hpa.down.window == 300
    assert 0 < target < 1
    assert manifests.scrape_seconds() == 15


# -- the fleet ---------------------------------------------------------------------------------


def _run(shared: Table, pods: float, replicas: int, *failures: Failure, seconds: int = 1500) -> History:
    """A steady load of so many pods' capacity, and as many replicas all the time."""
    cluster = Cluster(SHARED.start_seconds, zones=2, failures=failures)
    keda = replace(manifests.keda(), hpa=Hpa(replicas, replicas))
    return Fleet(shared, 1.0, cluster, keda).run([pods * shared.capacity] * seconds, replicas)


def test_a_zone_that_fails_drops_what_it_gets_until_that_is_noticed_and_its_pods_come_back(shared: Table):
    failed, back = 100, round(100 + EVICTED_SECONDS + SHARED.start_seconds)

    history = _run(shared, 2, 10, Failure("zone", failed, 1000))

    assert sum(history.lost[:failed]) == 0
    noticed = round(failed + UNHEARD_SECONDS)
    assert sum(history.lost[failed:noticed]) == pytest.approx(sum(history.load[failed:noticed]) / 2, rel=0.05)
    assert sum(history.lost[noticed:]) == 0
    assert (history.ready[failed - 1], history.ready[failed + 1], history.ready[back + 1]) == (10, 5, 10)
    assert set(history.replicas) == {10}


def test_too_few_pods_refuse_what_is_too_much(shared: Table):
    history = _run(shared, 4, 2)

    assert sum(history.refused) / history.images == pytest.approx(0.5, abs=0.02)
    assert sum(history.late) / history.images == pytest.approx(0, abs=0.02), (
        "64 slots are emptied in less than a second"
    )


def test_the_autoscaler_follows_the_load(shared: Table):
    rates = [shared.capacity] * 600 + [10 * shared.capacity] * 900

    made = plan.with_keda(shared, rates, Objective(0.2, 0.5), Cluster(SHARED.start_seconds))

    assert made.met
    assert made.history.ready[0] < 5
    assert made.history.ready[-1] >= 10


def test_a_stricter_objective_has_a_lower_threshold_and_fewer_images_for_a_pod(shared: Table):
    found = [plan.threshold_at_rest(shared, Objective(seconds)) for seconds in (0.07, 0.1, 0.2, 0.5)]

    assert found == sorted(found)
    assert found[0] < found[-1]
    assert plan.threshold_at_rest(shared, Objective(0.001)) == (0.0, 0.0)


# -- what comes in -----------------------------------------------------------------------------


def test_arrivals_have_the_mean_that_was_asked_for():
    assert fmean(arrivals.daily(100, arrivals.DAY)) == pytest.approx(100)
    assert fmean(arrivals.bursty(100, 30 * arrivals.DAY)) == pytest.approx(100, rel=0.05)
    assert len(arrivals.bursty(100, 1234)) == len(arrivals.steady(1, 1234)) == 1234


def test_a_recording_is_counted_by_second(tmp_path: Path):
    times, rates = tmp_path / "times.csv", tmp_path / "rates.csv"
    times.write_text("second\n0.1\n0.9\n3.0\n")
    rates.write_text("second,images\n0,2\n3,1\n")

    assert arrivals.recorded(times) == arrivals.recorded(rates) == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "first line"),
        ("time\n1\n", "first line"),
        ("second\n", "no arrivals"),
        ("second\n1\nx\n", "line 3"),
        ("second\n2\n1\n", "line 3: earlier"),
        ("second,images\n1,-1\n", "line 2"),
        ("second\nnan\n", "line 2"),
    ],
)
def test_a_bad_recording_is_named(tmp_path: Path, text: str, complaint: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "trace.csv").write_text(text)
    pod.write(tmp_path / "pod.json", SHARED)

    with pytest.raises(arrivals.TraceError, match=complaint):
        arrivals.recorded(tmp_path / "trace.csv")


def test_a_pod_file_comes_back_as_it_was_written(tmp_path: Path):
    pod.write(tmp_path / "pod.json", SHARED)

    assert pod.read(tmp_path / "pod.json") == SHARED


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cores": None}, "cores is missing"),
        ({"cores": 0}, "cores has to be a whole number of at least 1"),
        ({"decode_seconds": "fast"}, "decode_seconds has to be a number"),
        ({"decode_seconds": -1}, "decode_seconds has to be"),
        ({"device": "tpu"}, "'tpu'"),
        ({"images_per_second": {}}, "batch_cap"),
        ({"images_per_second": {"one": 1}}, "whole numbers"),
        ({"images_per_second": {"8": 0}}, "batches of 8"),
        ({"colour": "red"}, "unknown: colour"),
    ],
)
def test_a_bad_pod_file_is_named(
    tmp_path: Path, change: dict[str, object], complaint: str, capsys: pytest.CaptureFixture[str]
):
    fields = {name: value for name, value in (asdict(SHARED) | change).items() if value is not None}
    path = tmp_path / "pod.json"
    path.write_text(json.dumps(fields))

    with pytest.raises(PodFileError, match=complaint):
        pod.read(path)
    assert command.main(["plan", "--pod", str(path)]) == 2
    assert complaint in capsys.readouterr().err


def test_plan_prints_the_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pod.write(tmp_path / "pod.json", SHARED)
    plot = tmp_path / "day.svg"

    status = command.main(
        ["plan", "--pod", str(tmp_path / "pod.json"), "--load", "300", "--hours", "1", "--plot", str(plot)]
    )

    said = capsys.readouterr().out
    assert status == 0, said
    assert "threshold: " in said
    assert "is met" in said
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--max-replicas", "1"], "--max-replicas is less than the 2"),
        (["--autoscaler", "hpa", "--max-replicas", "1"], "--max-replicas is less than the 2"),
        (["--hours", "1", "--failure", "zone:3600:10"], "comes after the end"),
        (["--trace", "nobody.csv"], "no arrivals"),
    ],
)
def test_a_plan_for_what_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    complaint: str,
):
    monkeypatch.chdir(tmp_path)
    pod.write(Path("pod.json"), SHARED)
    Path("nobody.csv").write_text("second,images\n0,0\n1,0\n")

    assert command.main(["plan", "--pod", "pod.json", *options]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--plot", "day.foo"], "day.foo"),
        (["--load", "1e12"], "1e12 is not above 0 and below 1e+12"),
        (["--failure", "zone:a:b"], "'zone:a:b' is not node or zone"),
    ],
)
def test_options_of_a_plan_that_are_refused(capsys: pytest.CaptureFixture[str], options: list[str], complaint: str):
    with pytest.raises(SystemExit) as ended:
        command.main(["plan", "--pod", "pod.json", *options])

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
