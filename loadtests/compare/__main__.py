"""`make compare`: every server in every setting, and what is found into docs/comparison.md."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from loadtests import machine, wrk
from loadtests.arguments import count, positive
from loadtests.bench.ingest import milliseconds
from loadtests.compare import behaviours, page
from loadtests.compare.answers import OtherAnswers, difference
from loadtests.compare.environments import ENVIRONMENTS, make, version
from loadtests.compare.rounds import SUSTAINED, Turns, closed, figures, opened
from loadtests.compare.servers import PEERS, NotStarted, ours, peer
from loadtests.compare.settings import SETTINGS, Setting
from loadtests.networks import compiled, imagenet_sized
from loadtests.pictures import encoded_blots, photo
from models import compile as compiler
from models.config import BUNDLED_MODEL, read_config
from models.images import Picture
from service import allocator

# What is the same for every run: compiled packages and the network with random weights.
KEPT = ENVIRONMENTS.parent / "compare"
CHECKED = 8
DECODED_SECONDS = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description=__doc__)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--settings", nargs="+", choices=[one.name for one in SETTINGS])
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=5.0, help="of a turn")
    parser.add_argument("--out", type=Path, required=True, help="the page")
    parser.add_argument("--json", type=Path, help="all figures of all rounds")
    options = parser.parse_args()
    if not wrk.is_there("compare"):
        return 2
    for path in (options.out, options.json):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # too much load is many connections
    report: dict[str, Any] = {
        "conditions": machine.conditions("torch"),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {},
        "left_out": {},
        "settings": {},
    }
    environments = installed(options.peers, report)
    for setting in SETTINGS:
        if options.settings and setting.name not in options.settings:
            continue
        compare(setting, environments, options.rounds, options.seconds, report)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
        page.save(report, options.out)
    return 0


def installed(peers: list[str], report: dict[str, Any]) -> dict[str, Path]:
    """The Python of every peer that can be installed."""
    found = {}
    for name in peers:
        try:
            found[name] = make(name)
            report["versions"][name] = version(name, found[name])
        except subprocess.CalledProcessError as error:
            report["left_out"][name] = f"it cannot be installed ({error})"
    return found


def compare(
    setting: Setting, environments: dict[str, Path], rounds: int, seconds: float, report: dict[str, Any]
) -> None:
    say(setting.title)
    KEPT.mkdir(parents=True, exist_ok=True, mode=0o700)
    model = network(setting)
    target = compiled(model, KEPT)
    package = compiler.package_path(KEPT, model, target)
    picture = photo(*setting.picture)
    with ExitStack() as running, tempfile.TemporaryDirectory() as folder:
        service = running.enter_context(ours(model, KEPT))
        servers = [service]
        differences = {}
        for name, python in environments.items():
            try:
                server = running.enter_context(peer(name, python, setting, model, package, picture, Path(folder)))
                checked = [picture, *encoded_blots(CHECKED, setting.picture[1])]
                differences[name] = difference(service, server, checked, setting.tolerance)
                servers.append(server)
            except (NotStarted, OtherAnswers) as error:
                report["left_out"][name] = f"{setting.name}: {error}"
                say(f"without {name}: {error}")
        turns = Turns(servers)
        card = httpx.get(f"http://127.0.0.1:{service.port}/v1/models").json()["models"][0]
        say("closed loop")
        found: dict[str, Any] = {
            "picture_bytes": len(picture),
            "batch_cap": card["batch_cap"],
            "least_cpu_ms": least_cpu_ms(model, picture, card),
            "idle_cores": turns.idle_cores,
            "differences": differences,
            "closed": turns.measure(rounds, lambda server: closed(server, picture, seconds, Path(folder))),
            "open": [],
        }
        rates = {server.name: median(figures(found, server.name, "requests_per_second")) for server in servers}
        found["rate"] = rate = max(1.0, SUSTAINED * rates[page.best_peer(found)])
        say(f"open loop, {rate:.0f} requests/s")
        found["open"] = turns.measure(rounds, lambda server: opened(server, picture, rate, seconds))
        report["settings"][setting.name] = found
        if setting is SETTINGS[0]:
            say("behaviours")
            report["behaviours"] = behaviours.all_of(turns, picture, rates, 2 * seconds)


def network(setting: Setting) -> Path:
    """Its model directory."""
    if setting.network == "bundled":
        return BUNDLED_MODEL
    [*made] = KEPT.glob("mobilenetv2*")
    return made[0] if made else imagenet_sized(KEPT)


def least_cpu_ms(model: Path, picture: bytes, card: dict[str, Any]) -> float:
    """Of the decoder and the network alone, in batches of the best size: less than any server can spend."""
    preprocessing = read_config(model).preprocessing
    allocator.keep_free_memory()
    decoding = milliseconds(lambda: Picture(picture).pixels(preprocessing), DECODED_SECONDS)
    return decoding + 1000 * card["threads"] / max(card["images_per_second"].values())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
