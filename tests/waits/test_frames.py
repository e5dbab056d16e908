"""Who looks what threads are in does not end the process: python/cpython#106883."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOOKS = """
import gc, sys, threading, time
from pagecache.engine.look import current_frames

def callback(phase, info):
    time.sleep(0.0005)  # lets go of the GIL

over = False
def churn():
    while not over:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()

churning = threading.Thread(target=churn)
gc.callbacks.append(callback)
gc.set_threshold(1)
churning.start()
for _ in range(300):
    assert threading.get_ident() in current_frames()
assert gc.isenabled()
gc.disable()
current_frames()
assert not gc.isenabled()
over = True
churning.join()
print("through")
"""


def test_threads_that_begin_and_a_collector_with_callbacks_stop_no_look() -> None:
    """[T-80]"""
    done = subprocess.run(
        [sys.executable, "-c", LOOKS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "through\n", done.stderr
