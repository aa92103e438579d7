"""What wrk prints, read."""

from loadtests import wrk

GOOD = """Running 5s test @ http://127.0.0.1:8000/v1/predict
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    30.93ms    8.11ms  80.10ms   70.77%
    Req/Sec     2.08k   145.14     2.35k    72.00%
  Latency Distribution
     50%  850.00us
     75%   35.13ms
     90%   41.58ms
     99%    1.20s
  10342 requests in 5.00s, 6.44MB read
Requests/sec:   2067.42
Transfer/sec:      1.29MB
"""
BAD = GOOD.replace(
    "Requests/sec:",
    "  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 5171\nRequests/sec:",
)


def test_a_good_run():
    run = wrk.read(GOOD)

    assert run == wrk.Run(requests=10342, errors=0, requests_per_second=2067.42, p50_ms=0.85, p99_ms=1200.0)


def test_errors_are_counted_and_are_no_throughput():
    run = wrk.read(BAD)

    assert run.errors == 5171 + 6
    assert run.requests_per_second == 2067.42 / 2


def test_nobody_listens():
    assert wrk.read("").errors > 0
