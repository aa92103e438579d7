"""TorchServe: one worker whose handler decodes a batch, runs the network, and writes the answers.

Started as its documentation says: an archive, a config.properties with batch size and delay, `torchserve --start`;
stopped by `torchserve --stop`, as a signal reaches only the program that starts Java. A delay of 1 ms was faster than
5 and 20 on a busy machine (three runs of 2 s each).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.peers.shared import MAX_BATCH, PORT
from loadtests.running import free_port

MAX_BATCH_DELAY_MS = 1
CONFIGURATION = """
inference_address=http://127.0.0.1:{port}
management_address=unix:{folder}/management
grpc_inference_port={grpc[0]}
grpc_management_port={grpc[1]}
enable_metrics_api=false
disable_system_metrics=true
async_logging=true
job_queue_size=1000
load_models=classifier.mar
models={models}
"""


def main(folder: str) -> int:
    programs = Path(sys.executable).parent
    os.environ |= {"LOG_LOCATION": folder, "METRICS_LOCATION": folder, "TEMP": folder, "TMPDIR": folder}
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    handler = Path(__file__).with_name("handler.py")
    archive = ["--model-name", "classifier", "--version", "1.0", "--handler", str(handler), "--export-path", folder]
    subprocess.run(["torch-model-archiver", *archive], check=True)
    workers = {"minWorkers": 1, "maxWorkers": 1, "batchSize": MAX_BATCH, "maxBatchDelay": MAX_BATCH_DELAY_MS}
    models = {"classifier": {"1.0": {"defaultVersion": True, "marName": "classifier.mar", **workers}}}
    configuration = Path(folder, "config.properties")
    grpc = free_port(), free_port()
    configuration.write_text(CONFIGURATION.format(port=PORT, grpc=grpc, folder=folder, models=json.dumps(models)))
    start = ["torchserve", "--start", "--foreground", "--disable-token-auth", "--model-store", folder]
    serving = subprocess.Popen([*start, "--ts-config", str(configuration)])
    signal.signal(signal.SIGTERM, lambda number, frame: subprocess.Popen(["torchserve", "--stop"]))
    return serving.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(folder))
