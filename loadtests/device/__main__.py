"""`python -m loadtests.device --out DIR`, which is `coordserve bench device --out DIR`."""

import argparse
import sys
from pathlib import Path

from loadtests.device.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="coordserve bench device", description=run.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for device.json, device.txt and plots")
    return run(parser.parse_args().out)


if __name__ == "__main__":
    sys.exit(main())
