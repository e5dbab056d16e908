"""Commands as a user calls them: in this process, or in a terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys

from click.testing import CliRunner, Result

from pagecache.cli import main

TIMEOUT_S = 60.0


def call(*arguments: str) -> Result:
    """Run a command, and handle SIGTERM as before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(main, arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


class Terminal:
    """A command in a terminal of 120 by 30."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = os.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
        command = [sys.executable, "-m", "pagecache", *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.output = b""

    def shows(self, text: str) -> None:
        """Wait for new output with the text."""
        self.output = b""
        while text not in re.sub(r"\x1b\[[0-9;]*m", "", self.output.decode(errors="replace")):
            assert select.select([self._master], [], [], TIMEOUT_S)[0], self.output
            self.output += os.read(self._master, 1 << 16)

    def end(self, text: str) -> int:
        """Wait for the last output; return the exit status."""
        self.shows(text)
        status = self.process.wait(TIMEOUT_S)
        os.close(self._master)
        return status
