"""What numbers on a command line may be, for argparse."""

import argparse

MOST = 1e12


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < MOST:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below {MOST:g}")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
