"""`protuning serve` as a process of its own, for tests of whole servers."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

MEBIBYTE = 2**20


class ServerProcess:
    """A server on a free port; `settings` are those of `service.settings`."""

    def __init__(self, **settings: object) -> None:
        settings = {
            "device": "cpu",
            "port": 0,
            "batch_images": 8,
            "adapter_memory_bytes": 64 * MEBIBYTE,
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from service.cli import app; app()", "serve"],
            env=os.environ
            | {f"PROTUNING_{name.upper()}": str(value) for name, value in settings.items()},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._address: str | None = None
        self._has_address = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def address(self) -> str:
        """Its URL, once it serves."""
        assert self._has_address.wait(120), self.log
        assert self._address is not None, self.log
        return self._address

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join(20)
        self.process.stderr.close()
        return code

    def peak_memory(self) -> int:
        """The most bytes that it has held so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(line)
            if '"serving"' in line:
                self._address = json.loads(line)["address"]
                self._has_address.set()
        self._has_address.set()  # it has ended
