"""Reading the frames of threads does not end the process: python/cpython#106883."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOOKS = """
import gc, os, threading
from pagecache.engine.report.wait_snapshot import current_frames

asked, asks = os.pipe()
answered, answers = os.pipe()
main, looking = threading.get_ident(), False

def begin_threads():
    while os.read(asked, 1) == b"t":
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        os.write(answers, b"t")

def callback(phase, info):  # in the middle of a look another thread begins one, and the look goes on when it has
    if looking and threading.get_ident() == main:
        os.write(asks, b"t")
        os.read(answered, 1)

beginner = threading.Thread(target=begin_threads)
beginner.start()
gc.callbacks.append(callback)
gc.set_threshold(1)
for _ in range(100):
    looking = True
    frames = current_frames()
    looking = False
    assert main in frames
assert gc.isenabled()
gc.disable()
current_frames()
assert not gc.isenabled()
os.write(asks, b"e")
beginner.join()
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
