"""How much memory the device has, and how much of it is taken, in bytes."""

import os
from pathlib import Path

import torch


def device_memory(device: str) -> dict[str, int]:
    """`total` and `used` of a GPU by everybody, or of the host by this process."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return {"total": total, "used": total - free}
    page = os.sysconf("SC_PAGE_SIZE")
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"total": page * os.sysconf("SC_PHYS_PAGES"), "used": page * resident_pages}
