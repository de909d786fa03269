"""The metrics: the names that others rely on, bounded labels, and that nothing is counted twice."""

import inspect
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.device_memory import device_memory
from service.metrics import COMPARED_TASKS, Metrics, NullMetrics, PrometheusMetrics
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
    metrics.http("POST", "/tasks/{task}/predict", 200, 0.3)
    metrics.http("PURGE", None, None, 0.3)
    metrics.batch(8, 3)
    metrics.queue(5)
    metrics.resident("device", 2, 1_000)
    metrics.load("disk", "ok", 0.2)
    metrics.load("host", "ProofFailed", 0.1)
    metrics.evicted("device")
    metrics.thrash("host")
    metrics.rejected("Overloaded")
    metrics.limited("acme")
    metrics.proof_failed()


def test_every_measurement_appears_under_its_name():
    """The names and labels that dashboards are built on."""
    metrics = PrometheusMetrics()
    report_everything(metrics)
    samples = scrape(metrics)
    assert samples["protuning_requests_total", "default/flowers", "ok"] == 1
    assert samples["protuning_phase_seconds_count", "queue"] == 1
    assert samples["protuning_phase_seconds_sum", "queue"] == 0.02
    assert samples["protuning_http_requests_total", "/tasks/{task}/predict", "200", "POST"] == 1
    assert samples["protuning_http_requests_total", "none", "none", "other"] == 1
    assert samples["protuning_http_seconds_sum", "/tasks/{task}/predict"] == 0.3
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
    assert samples["protuning_limited_total", "acme"] == 1
    assert samples["protuning_proof_failures_total",] == 1


def test_few_tasks_all_have_names_and_none_is_lost():
    """The first tasks have labels of their own, what comes later is counted together."""
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


def test_five_thousand_tasks_do_not_flood_the_scrape():
    """Any number of tasks gives 200 labels, which in time are those of the busiest tasks."""
    metrics = PrometheusMetrics()
    for _ in range(3):
        for number in range(5_000):
            for outcome in ("ok", "Overloaded"):
                metrics.request(TaskKey("default", f"t{number}"), outcome)
            metrics.request(TaskKey("default", f"busy{number % 50}"), "ok")
    text, _ = metrics.render()
    samples = scrape(metrics)
    tasks = {key[-1] for key in samples if key[0] == "protuning_requests_total"}
    tasks |= {key[1] for key in samples if key[0] == "protuning_requests_total"}
    named = {task for task in tasks if task.startswith("default/")}
    assert len(named) <= 200
    assert {f"default/busy{number}" for number in range(50)} <= named
    assert len(text) < 100_000


def test_limited_tenants_have_names_within_bounds():
    """The first ones have labels of their own, what comes later is counted together."""
    metrics = PrometheusMetrics(task_labels=2)
    for _ in range(3):
        for tenant in ("acme", "zoo", "late", "later"):
            metrics.limited(tenant)
    samples = scrape(metrics)
    limited = {key[1]: n for key, n in samples.items() if key[0] == "protuning_limited_total"}
    assert limited == {"acme": 3, "zoo": 3, "other": 6}


def test_device_memory_is_asked_for_at_each_scrape():
    """Whatever kinds the device knows."""
    answers = [{"used": 1, "total": 9}, {"used": 2, "total": 9}]
    metrics = PrometheusMetrics(device_memory=lambda: answers.pop(0))
    assert scrape(metrics)["protuning_device_memory_bytes", "used"] == 1
    assert scrape(metrics)["protuning_device_memory_bytes", "used"] == 2


def test_the_host_has_memory():
    """This process uses some of it, and not more than there is."""
    memory = device_memory("cpu")
    assert 2**20 < memory["used"] < memory["total"]


def test_every_metric_passes_promtool():
    """Prometheus' own linter has nothing to say; not run where it is not installed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("not run: promtool is not installed (apt-get install prometheus)")
    metrics = PrometheusMetrics(device_memory=lambda: {"used": 1})
    report_everything(metrics)
    text, _ = metrics.render()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_canaries_are_compared_by_version_and_forgotten_in_time():
    """Only the tasks compared last keep their labels, so that a scrape stays small."""
    metrics = PrometheusMetrics()
    for number in range(COMPARED_TASKS + 5):
        for version in (1, 2):
            metrics.compared(TaskKey("acme", f"t{number}"), version, "ok", 0.1)
    metrics.compared(TaskKey("acme", "t10"), 2, "EngineFailed", 0.1)
    text = metrics.render()[0].decode()
    samples = {
        (sample.labels["task"], sample.labels["version"], sample.labels["outcome"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "protuning_canary_requests_total"
    }
    assert ("acme/t10", "2", "EngineFailed") in samples
    assert not [task for task, _, _ in samples if task == "acme/t4"]
    assert len(samples) == 2 * COMPARED_TASKS + 1
    assert text.count("protuning_canary_seconds_count{") == 2 * COMPARED_TASKS
