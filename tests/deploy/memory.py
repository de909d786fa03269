"""What the guide's section on sizing adds up, for the shipped values."""

from service.settings import Settings

UNITS = {"m": 2**20, "Mi": 2**20, "g": 2**30, "Gi": 2**30}
# Measured; docs/operations.md says of what.
PROCESS_BYTES = 800_000_000
BYTES_PER_PIXEL = 32
JSON_BYTES = 250_000_000
INPUT_BYTES = 224 * 224 * 3


def size(text: str) -> int:
    """Bytes of `512m`, `6g`, `512Mi` or `6Gi`."""
    number = text.rstrip("migMIG")
    return int(number) * UNITS[text.removeprefix(number)]


def needed(settings: Settings, scratch: str) -> int:
    """Bytes that a replica takes at worst on a CPU."""
    return (
        PROCESS_BYTES
        + settings.adapter_memory_bytes
        + 3 * settings.max_buffered_bytes
        + settings.decoders * settings.max_image_pixels * BYTES_PER_PIXEL
        + JSON_BYTES
        + settings.queue_images * INPUT_BYTES
        + size(scratch)
    )
