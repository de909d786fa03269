"""All that can be set about a server: `PROTUNING_*` in the environment, flags named alike."""

import ipaddress
import math
import os
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.limits import Rate, TenantLimits
from service.types import BatchLimits

PREFIX = "PROTUNING_"
# What commands other than `serve`, the page's examples and the tests take from the environment.
OTHERS = (
    *("URL", "API_KEY", "KEY", "FROM_INDEX", "FROM_STORE", "TO_INDEX", "TO_STORE"),
    *("DATA", "REAL_INPUTS", "TEST_DEVICE"),
)
MEBIBYTE = 2**20
GIBIBYTE = 2**30

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "protuning"


def default_cache() -> Path:
    """Where compiled code is kept if nobody says where."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "protuning"


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores that this process may use: fewer than the machine has where somebody said so.

    Args:
        quota: A file as Linux has it of a container: microseconds, or "max", and of how many.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        allowed, period = map(int, quota.read_text().split())
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, math.ceil(allowed / period)))


class Settings(BaseSettings):
    """How to serve. An argument goes before the environment, and that before the default.

    Raises:
        pydantic.ValidationError: a value out of its bounds.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    backbone: str = Field(default="resnet50", description="The timm model that is served.")
    weights: str = Field(default="hub", description="A safetensors file, hub, or random.")
    engine: Literal["auto", "torch", "compiled", "onnx"] = Field(
        default="torch",
        description="torch starts at once; compiled is faster, and takes a minute or two to start "
        "for the first time; onnx is ONNX Runtime; auto takes the fastest that this machine runs.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, or cuda:N.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32",
        description="What the engine computes in; auto takes bfloat16 where the machine is fast at "
        "it and the backbone bears it.",
    )
    cache_dir: Path = Field(
        default_factory=default_cache,
        description="Where compiled code is kept; nobody else may write there.",
    )

    index: str = Field(
        default_factory=lambda: f"sqlite:///{_default_directory() / 'index.db'}",
        description="The index of tasks: sqlite:///PATH, or redis://HOST:PORT/DATABASE.",
    )
    store: str = Field(
        default_factory=lambda: str(_default_directory() / "store"),
        description="Where checkpoints lie: a directory, or a URL that fsspec reaches.",
    )

    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8000, ge=0, le=65_535, description="The port, 0 for a free one.")
    http_workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Processes that parse and decode in front of the engine's; 0 for none.",
    )
    insecure: bool = Field(
        default=False, description="Listen beyond this machine although there are no keys."
    )

    bootstrap_key_file: Path | None = Field(
        default=None, description="A file with an administrator's key, made where there is none."
    )

    adapter_memory_bytes: Count = Field(
        default=GIBIBYTE, description="Memory of the engine for adapters, taken at the start."
    )
    host_cache_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Host memory for adapters beside the engine's: 1 GiB, or 0 on a CPU.",
    )
    loaders: Count = Field(default=4, description="Adapters that are loaded at the same time.")

    batch_images: Count = Field(default=32, description="Most images in a batch.")
    batch_window_ms: float | None = Field(
        default=None,
        ge=0,
        le=1_000,
        description="How long work may wait for company while the engine is busy: by default "
        "most of what a batch takes.",
    )
    queue_images: Count = Field(default=1_024, description="Most images that may wait to be run.")
    requests_in_flight: Count = Field(
        default=512, description="Most predictions between their admission and their answer."
    )
    watch_period: Seconds = Field(
        default=5.0, description="Most seconds between two looks at what others have changed."
    )
    collect_period: Seconds = Field(
        default=3_600.0, description="Seconds between two deletions of what no version needs."
    )
    load_hold_off: Seconds = Field(
        default=5.0, description="Seconds for which a failed load is not tried again."
    )
    load_patience: Seconds = Field(
        default=5.0, description="Seconds that a load waits for room in the engine."
    )
    timeout_ms: Count = Field(
        default=10_000, description="How long a prediction may take where the client says nothing."
    )
    max_timeout_ms: Count = Field(default=60_000, description="The longest a client may ask for.")

    tenant_requests_per_second: Rate | None = Field(
        default=None, description="A tenant's predictions a second; none is no limit of its own."
    )
    tenant_images_per_second: Rate | None = Field(
        default=None,
        description="A tenant's images a second, once for each task that sees them.",
    )
    tenant_concurrent_images: Count | None = Field(
        default=None, description="A tenant's images between their arrival and their answer."
    )
    tenant_tasks: Count = Field(default=10_000, description="A tenant's tasks.")
    tenant_stored_bytes: Count = Field(
        default=256 * GIBIBYTE, description="Bytes of all of a tenant's checkpoints."
    )
    rate_limits: str | None = Field(
        default=None,
        description="Where rates are counted: memory, or redis://...; else in the index's Redis.",
    )

    max_image_bytes: Count = Field(default=16 * MEBIBYTE, description="Most bytes of an image.")
    max_image_pixels: Count = Field(default=50_000_000, description="Most pixels of an image.")
    max_images: Count = Field(default=64, description="Most images of a request.")
    max_body_bytes: Count = Field(
        default=64 * MEBIBYTE, description="Most bytes of a request's body, checkpoints included."
    )
    max_buffered_bytes: Count = Field(
        default=GIBIBYTE,
        description="Most bytes of all bodies that are being worked on; of one "
        "tenant's alone, half of them.",
    )
    body_timeout: Seconds = Field(
        default=60.0, description="Seconds within which a client sends its body."
    )
    decoders: Count = Field(
        default_factory=usable_cores,
        description="Images decoded at the same time: by default one on each core that is ours.",
    )
    shutdown_delay: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that a stopped server still takes requests, while it is not ready "
        "any more: balancers need them to notice.",
    )
    shutdown_timeout: Seconds = Field(
        default=30.0, description="Seconds for requests to finish when the server is stopped."
    )

    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="A port of their own for metrics and the reasons behind readiness, without "
        "keys: they name tasks of all tenants.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="The address that metrics_port is on."
    )
    tracing: bool = Field(
        default=False,
        description="Send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says.",
    )
    audit_log: Path | None = Field(
        default=None, description="A file for every change, as JSON, beside what is logged anyway."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important events that are logged."
    )
    log_format: Literal["json", "text"] = Field(
        default="json", description="json for machines, text for people."
    )

    @property
    def needs_keys(self) -> bool:
        """Whether others could reach the address, and nobody said that they may do anything."""
        return not self.insecure and not _is_loopback(self.host)

    @property
    def tenant_limits(self) -> TenantLimits:
        """What holds for tenants for which nothing else was set."""
        return TenantLimits(
            requests_per_second=self.tenant_requests_per_second,
            images_per_second=self.tenant_images_per_second,
            concurrent_images=self.tenant_concurrent_images,
            tasks=self.tenant_tasks,
            stored_bytes=self.tenant_stored_bytes,
        )

    @property
    def rate_limits_redis(self) -> str | None:
        """The Redis in which rates are counted; None for this server's memory."""
        url = self.index if self.rate_limits is None else self.rate_limits
        return url if url.startswith(("redis://", "rediss://")) else None

    @property
    def batch_limits(self) -> BatchLimits:
        """How batches are cut."""
        window = None if self.batch_window_ms is None else self.batch_window_ms / 1_000
        return BatchLimits(self.batch_images, window=window)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.rate_limits not in (None, "memory") and self.rate_limits_redis is None:
            raise ValueError(
                "rate_limits is neither memory nor the URL of a Redis; write redis://HOST"
            )
        if 2 * self.max_body_bytes > self.max_buffered_bytes:
            raise ValueError(
                "max_buffered_bytes is less than twice max_body_bytes, and a tenant gets half of "
                "it; raise the one or lower the other"
            )
        if self.timeout_ms > self.max_timeout_ms:
            raise ValueError("timeout_ms is over max_timeout_ms; lower the one or raise the other")
        if self.tracing and find_spec("opentelemetry") is None:
            raise ValueError("tracing needs another package; pip install 'protuning[otel]'")
        return self


def unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """Those of an environment's variables that set nothing, each with what may have been meant."""
    settings = [name.upper() for name in Settings.model_fields]
    given = {name: name.upper().removeprefix(PREFIX) for name in names if _is_ours(name)}
    return {
        name: next((PREFIX + near for near in get_close_matches(short, settings, n=1)), None)
        for name, short in given.items()
        if short not in (*settings, *OTHERS)
    }


def _is_ours(variable: str) -> bool:
    return variable.upper().startswith(PREFIX)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
