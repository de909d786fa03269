"""What a process and all that it has started cost: processor time and memory, from /proc."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and its living descendants."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its living descendants have used so far."""
    fields = (_stat(each) for each in family(pid))
    return sum((int(stat[11]) + int(stat[12])) / _TICKS for stat in fields if stat)


def memory_bytes(pid: int) -> int:
    """Memory of a process and its living descendants; what they share counts once."""
    total = 0
    for each in family(pid):
        try:
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
        total += 1024 * int(line.split()[1])
    return total


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*"):
        if stat := _stat(int(path.name)):
            yield int(path.name), int(stat[1])


def _stat(pid: int) -> list[str]:
    """The fields behind the name, which may hold spaces; none where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
