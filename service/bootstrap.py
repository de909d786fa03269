"""The composition root: a server's parts, made from its settings and taken down in order."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from torch import Tensor

from adapters.backbone import load_backbone
from adapters.checkpoint import Checkpoint, check_backbone, parse
from adapters.container import ContainerLimits, digest_of
from adapters.manifest import BackboneSpec, Preprocessing
from adapters.preprocess import ImageLimits
from adapters.store.blobs import BlobStore
from adapters.store.index import Index
from adapters.store.opening import index_exists, open_index, open_records
from adapters.store.registry import Registry
from service.admission import Admission
from service.batching.dispatcher import Dispatcher
from service.batching.queue import BatchQueue
from service.cache.adapter_cache import AdapterCache
from service.cache.device_tier import DeviceTier
from service.cache.host_tier import HostTier
from service.cache.resolver import Resolver
from service.cache.watcher import Watcher
from service.canary import Canary
from service.device_memory import device_memory
from service.engines.choice import EngineOptions, find_device, open_engine
from service.engines.torch_engine import TorchEngine
from service.errors import OpenDoor
from service.health import HealthCheck
from service.http.drain import Drain
from service.http.middleware import BodyLimits
from service.http.services import RequestLimits, Services
from service.images import ImageReader
from service.key_file import read_or_create
from service.keys import KeyRing
from service.limits import TenantLimits
from service.manage import Manager
from service.metrics import PrometheusMetrics
from service.pinning import Pin, Pinning
from service.policies import Policies
from service.predict import Predictor
from service.proving import Prover
from service.quotas import Quotas
from service.rate_limits import RateCounters
from service.releases import Releases
from service.repeating import repeat
from service.residency import Residency
from service.routing import Router
from service.settings import GIBIBYTE, Settings
from service.tenants import DEFAULT_TENANT, SCOPES, Key
from service.tracing import Tracer

KNOWN_TASKS = 100_000
# What is left to do once every request has its answer.
CLOSING_SECONDS = 5.0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Everything behind the routes, running until the context ends.

    Raises:
        AdapterError: the backbone, its weights or the store cannot be had.
    """
    async with (
        open_policies(settings) as (policies, keys),
        open_services_with(settings, policies, keys) as services,
    ):
        yield services


@asynccontextmanager
async def open_services_with(
    settings: Settings, policies: Policies, keys: KeyRing
) -> AsyncIterator[Services]:
    """`open_services` with policies that are open already."""
    async with AsyncExitStack() as stack:
        tracer = tracer_of(settings)
        stack.callback(tracer.close)
        engine = await asyncio.to_thread(_engine, settings)
        index = await _index(settings)
        stack.push_async_callback(index.close)
        images = image_reader(settings, engine.spec.preprocessing)
        stack.callback(images.close)
        pool = stack.enter_context(ThreadPoolExecutor(settings.loaders, thread_name_prefix="load"))
        metrics = PrometheusMetrics(device_memory=partial(device_memory, engine.device))
        counters = RateCounters(settings.rate_limits_redis, metrics)
        stack.push_async_callback(counters.close)
        quotas = Quotas(policies, settings.tenant_limits, counters)
        core = _core(settings, engine, index, policies, quotas, metrics, tracer, pool)
        stack.push_async_callback(core.cache.close, CLOSING_SECONDS)
        stack.push_async_callback(core.dispatcher.close, CLOSING_SECONDS)
        await stack.enter_async_context(running(core.watcher.run()))
        stack.callback(core.pinning.close)
        pinning = repeat(core.pinning.keep, period=settings.watch_period)
        await stack.enter_async_context(running(pinning))
        collecting = repeat(core.manager.collect_garbage, period=settings.collect_period)
        await stack.enter_async_context(running(collecting))
        yield _services(settings, core, keys, index, images)


@asynccontextmanager
async def open_policies(settings: Settings) -> AsyncIterator[tuple[Policies, KeyRing]]:
    """What operators have laid down, and who may come in, followed until the context ends.

    Raises:
        OpenDoor: others could reach the server, and there are no keys.
        StoreUnavailable: the store cannot be reached.
    """
    async with AsyncExitStack() as stack:
        if not index_exists(settings.index):
            log.warning("index_is_new", index=settings.index, tasks=0)
        records = await asyncio.to_thread(open_records, settings.index)
        stack.push_async_callback(records.close)
        policies = Policies(records, (Key, TenantLimits, Canary, Pin))
        keys = await _key_ring(settings, policies)
        await stack.enter_async_context(running(policies.follow(settings.watch_period)))
        yield policies, keys


@asynccontextmanager
async def running(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Have something going on inside, and end it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _key_ring(settings: Settings, policies: Policies) -> KeyRing:
    is_guarded = settings.needs_keys or settings.bootstrap_key_file is not None
    keys = KeyRing(policies, required=is_guarded)
    await policies.refresh()
    if settings.bootstrap_key_file is not None:
        token = await asyncio.to_thread(read_or_create, settings.bootstrap_key_file)
        await keys.adopt(token, DEFAULT_TENANT, SCOPES, name="bootstrap")
    elif settings.needs_keys and not policies.has(Key):
        raise OpenDoor(
            f"There are no keys, so anybody who reaches {settings.host} could use and change "
            "everything. Create a key (protuning keys create --index ...), name a "
            "--bootstrap-key-file, listen on 127.0.0.1, or pass --insecure if that is wanted."
        )
    return keys


def tracer_of(settings: Settings) -> Tracer:
    """What traces requests, if anything does."""
    if not settings.tracing:
        return Tracer()
    # An optional extra, which is only there where it was asked for.
    from service.otel import OpenTelemetryTracer

    return OpenTelemetryTracer()


def image_reader(settings: Settings, preprocessing: Preprocessing) -> ImageReader:
    """What decodes the images of requests."""
    return ImageReader(
        preprocessing,
        ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        decoders=settings.decoders,
        max_waiting=settings.queue_images,
    )


async def _index(settings: Settings) -> Index:
    index = await asyncio.to_thread(open_index, settings.index)
    for warning in await index.warnings():
        log.warning("index_at_risk", warning=warning)
    return index


def _engine(settings: Settings) -> TorchEngine:
    device = find_device(settings.device)
    log.info("loading_backbone", backbone=settings.backbone, device=device, dtype=settings.dtype)
    return open_engine(
        load_backbone(settings.backbone, settings.weights),
        EngineOptions(
            kind=settings.engine,
            dtype=settings.dtype,
            device=device,
            capacity_bytes=settings.adapter_memory_bytes,
            batch_images=settings.batch_images,
            cache=settings.cache_dir,
        ),
    )


@dataclass(frozen=True)
class _Core:
    """What stands between the routes and the engine."""

    dispatcher: Dispatcher
    cache: AdapterCache
    watcher: Watcher
    predictor: Predictor
    manager: Manager
    releases: Releases
    pinning: Pinning
    registry: Registry
    residency: Residency
    quotas: Quotas
    metrics: PrometheusMetrics
    tracer: Tracer
    fingerprint: str


def _core(
    settings: Settings,
    engine: TorchEngine,
    index: Index,
    policies: Policies,
    quotas: Quotas,
    metrics: PrometheusMetrics,
    tracer: Tracer,
    pool: Executor,
) -> _Core:
    registry = _registry(settings, engine.spec, index)
    queue: BatchQueue[Tensor] = BatchQueue(settings.queue_images, settings.batch_limits)
    dispatcher = Dispatcher(engine, queue, metrics)
    cache = AdapterCache(
        HostTier(
            registry,
            engine.spec,
            pool,
            capacity=_host_cache_bytes(settings, engine.device),
            metrics=metrics,
        ),
        DeviceTier(engine, pool, patience=settings.load_patience, metrics=metrics),
        Prover(engine, dispatcher, index, metrics=metrics),
        loaders=settings.loaders,
        hold_off=settings.load_hold_off,
        metrics=metrics,
    )
    fingerprint = engine.spec.fingerprint
    resolver = Resolver(index, fingerprint, capacity=KNOWN_TASKS)
    router = Router(resolver, policies, fingerprint)
    pinning = Pinning(policies, resolver, cache)
    manager = Manager(registry, index, cache, resolver, router, pinning, quotas, fingerprint)
    admission = Admission(settings.requests_in_flight)
    return _Core(
        dispatcher,
        cache,
        Watcher(index, resolver, manager.prove_pending, period=settings.watch_period),
        Predictor(router, cache, dispatcher, admission, quotas, metrics, tracer),
        manager,
        Releases(index, cache, resolver, router, fingerprint),
        pinning,
        registry,
        Residency(resolver, cache),
        quotas,
        metrics,
        tracer,
        fingerprint,
    )


def _registry(settings: Settings, spec: BackboneSpec, index: Index) -> Registry:
    limits = ContainerLimits()

    def verify(data: bytes) -> Checkpoint:
        checkpoint = parse(data, limits)
        check_backbone(checkpoint.manifest, spec)
        return checkpoint

    blobs = BlobStore(settings.store, digest_of)
    return Registry(blobs, index, verify, max_bytes=limits.max_bytes)


def _host_cache_bytes(settings: Settings, device: str) -> int:
    if settings.host_cache_bytes is not None:
        return settings.host_cache_bytes
    # On a CPU the engine's memory is the host's: a second copy would serve nobody.
    return 0 if device == "cpu" else GIBIBYTE


def _services(
    settings: Settings, core: _Core, keys: KeyRing, index: Index, images: ImageReader
) -> Services:
    return Services(
        predictor=core.predictor,
        manager=core.manager,
        residency=core.residency,
        releases=core.releases,
        pinning=core.pinning,
        keys=keys,
        admission=Admission(settings.requests_in_flight),
        quotas=core.quotas,
        images=images,
        metrics=core.metrics,
        tracer=core.tracer,
        has_own_ops_port=settings.metrics_port is not None,
        drain=Drain(),
        check=HealthCheck(
            {"index": index.last_change, "blob store": core.registry.check}, core.cache.holds_any
        ),
        limits=request_limits(settings),
        fingerprint=core.fingerprint,
    )


def request_limits(settings: Settings) -> RequestLimits:
    """What one request may ask for."""
    body = BodyLimits(settings.max_body_bytes, settings.max_buffered_bytes, settings.body_timeout)
    return RequestLimits(body, settings.max_images, settings.timeout_ms, settings.max_timeout_ms)
