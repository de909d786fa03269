"""The metrics: the names that others rely on, bounded labels, and that nothing is counted twice."""

import inspect

from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics, NullMetrics, PrometheusMetrics
from service.types import TaskKey


def scrape(metrics):
    """All samples of a scrape, by name and labels."""
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def report_everything(metrics):
    """One call of each kind."""
    metrics.request(TaskKey("default", "flowers"), "ok")
    metrics.phase("queue", 0.02)
    metrics.batch(8, 3)
    metrics.queue(5)
    metrics.resident("device", 2, 1_000)
    metrics.load("disk", "ok", 0.2)
    metrics.load("host", "ProofFailed", 0.1)
    metrics.evicted("device")
    metrics.thrash("host")
    metrics.rejected("Overloaded")
    metrics.proof_failed()


def test_every_measurement_appears_under_its_name():
    """The names and labels that dashboards are built on."""
    metrics = PrometheusMetrics()
    report_everything(metrics)
    samples = scrape(metrics)
    assert samples["protuning_requests_total", "default/flowers", "ok"] == 1
    assert samples["protuning_phase_seconds_count", "queue"] == 1
    assert samples["protuning_phase_seconds_sum", "queue"] == 0.02
    assert samples["protuning_batch_images_sum",] == 8
    assert samples["protuning_batch_tasks_sum",] == 3
    assert samples["protuning_queue_images",] == 5
    assert samples["protuning_resident_tasks", "device"] == 2
    assert samples["protuning_resident_bytes", "device"] == 1_000
    assert samples["protuning_loads_total", "disk", "ok"] == 1
    assert samples["protuning_loads_total", "ProofFailed", "host"] == 1
    assert samples["protuning_load_seconds_sum", "disk"] == 0.2
    assert ("protuning_load_seconds_sum", "host") not in samples
    assert samples["protuning_evictions_total", "device"] == 1
    assert samples["protuning_thrash_total", "host"] == 1
    assert samples["protuning_rejected_total", "Overloaded"] == 1
    assert samples["protuning_proof_failures_total",] == 1


def test_a_flood_of_tasks_does_not_flood_the_scrape():
    """The first tasks keep their names, all others are counted together, and none is lost."""
    metrics = PrometheusMetrics(task_labels=3)
    for _ in range(2):
        for number in range(100):
            metrics.request(TaskKey("default", f"t{number}"), "ok")
    metrics.request(None, "TaskNotFound")
    samples = scrape(metrics)
    requests = {key[1:]: n for key, n in samples.items() if key[0] == "protuning_requests_total"}
    assert requests == {
        ("default/t0", "ok"): 2,
        ("default/t1", "ok"): 2,
        ("default/t2", "ok"): 2,
        ("ok", "other"): 194,
        ("TaskNotFound", "other"): 1,
    }


def test_tenants_are_told_apart():
    """Two tenants' tasks of one name are two series."""
    metrics = PrometheusMetrics()
    for tenant in ("a", "b"):
        metrics.request(TaskKey(tenant, "flowers"), "ok")
    samples = scrape(metrics)
    assert samples["protuning_requests_total", "a/flowers", "ok"] == 1
    assert samples["protuning_requests_total", "b/flowers", "ok"] == 1


def test_two_services_in_a_process_do_not_mix():
    """Nothing is global."""
    one, other = PrometheusMetrics(), PrometheusMetrics()
    report_everything(one)
    assert ("protuning_batch_images_sum",) in scrape(one)
    assert scrape(other)["protuning_batch_images_sum",] == 0


def test_null_metrics_take_everything():
    """Whatever is reported, nothing happens, and no kind of report is kept by one side only."""
    report_everything(NullMetrics())
    kinds = {name for name, _ in inspect.getmembers(Metrics, inspect.isfunction)}
    overridden = {name for name in vars(PrometheusMetrics) if name in kinds}
    assert overridden == kinds
