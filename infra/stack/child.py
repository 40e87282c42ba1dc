"""`python child.py PARENT_PID NICE COMMAND...` becomes COMMAND: it gets SIGTERM when its parent dies, and steps back.

On Linux the kernel sends the signal (PR_SET_PDEATHSIG outlives the exec); elsewhere the command just runs. The signal
comes when the parent's *thread* that started this process ends: services are started from the supervisor's main thread.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
AUTOGROUP = "/proc/self/autogroup"
TRIES_MAX = 20
PAUSE_S = 0.1  # the kernel takes one such write in a tenth of a second, from all users but root together


def main() -> None:
    """Tie this process to its parent, lower its priority, then become the command."""
    parent, nice, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    if nice:
        step_back(nice)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def step_back(nice: int) -> None:
    """Leave the cores to others that want them: this process, and its session where the kernel weighs sessions.

    Where autogroups are on (sched(7)), a process's own value counts within its session alone, and each service has
    its own. A kernel that has none, or refuses, is no reason not to start.
    """
    os.nice(nice)
    for _ in range(TRIES_MAX):
        try:
            os.write(os.open(AUTOGROUP, os.O_WRONLY), b"%d" % nice)  # the exec closes it
        except BlockingIOError:
            time.sleep(PAUSE_S)
        except OSError:
            return
        else:
            return


if __name__ == "__main__":
    main()
