"""How the service's processes are started, and how none outlives the supervisor."""

import ctypes
import os
import signal
import socket
import subprocess  # nosec B404 # our own interpreter, no shell
import sys

from service import control

PR_SET_PDEATHSIG = 1


def start(module: str, environment: dict[str, str] | None = None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start `python -m module` in a fresh interpreter (CUDA does not survive a fork); its process and our channel end.

    Its own process group keeps a terminal's Ctrl-C for the supervisor, which stops the others in order.
    """
    ours, theirs = control.pair()
    with theirs:
        process = subprocess.Popen(  # nosec B603 # nothing in it comes from a client
            [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            process_group=0,
            env={**os.environ, **(environment or {})},
        )
    return process, ours


def channel_of_child() -> socket.socket:
    """First thing in a child: die with the supervisor, and open the channel to it."""
    die_with(parent=int(sys.argv[2]))
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    return channel


def die_with(parent: int, signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when `parent` ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
