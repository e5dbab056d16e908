"""Run a command that is killed when the process that started it is gone, whatever ended that.

    python mortal.py PID command...        PID: of the process that starts this one, from its main thread

The kernel sends the signal when the *thread* that started the child ends. It survives exec.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() == int(sys.argv[1]):  # else it ended before it could be followed
        os.execv(sys.argv[2], sys.argv[2:])
