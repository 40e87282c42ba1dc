"""`python die_with_parent.py PARENT_PID COMMAND...` becomes COMMAND, which gets SIGTERM when its parent dies.

On Linux the kernel sends the signal (PR_SET_PDEATHSIG outlives the exec); elsewhere the command just runs. The signal
comes when the parent's *thread* that started this process ends: services are started from the supervisor's main thread.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
