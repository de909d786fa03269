"""The Helm chart: linted and rendered by Helm's own library, checked by Kubernetes' schemas."""

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.deploy import monitoring
from tests.deploy.memory import needed, size

CHART = monitoring.ROOT / "deploy/helm/protuning"
KUBERNETES = ("1.27", "1.33")
# The Prometheus operator's kinds have no schema in Kubernetes itself.
OPERATOR = {"ServiceMonitor", "PrometheusRule"}
VARIANTS = {
    "as it stands": {},
    "gpu": {"gpu": {"enabled": True, "runtimeClassName": "nvidia"}},
    "fixed, with own secrets and volumes": {
        "autoscaling": {"enabled": False},
        "index": {"existingSecret": "mine"},
        "adminKey": {"existingSecret": "mine"},
        "weights": {"volume": {"persistentVolumeClaim": {"claimName": "models"}}},
        "store": {
            "url": "/var/lib/protuning/store",
            "volume": {"persistentVolumeClaim": {"claimName": "store"}},
        },
        "cache": {"volume": {"persistentVolumeClaim": {"claimName": "cache"}}},
        "settings": {"PROTUNING_LOG_LEVEL": "debug"},
        "networkPolicy": {"clients": [{"podSelector": {}}]},
        "podAnnotations": {"example.org/owner": "vision"},
    },
}


def _render(values, name="blue"):
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name=name, namespace="vision")
    return [
        item
        for path, text in texts.items()
        if path.endswith(".yaml")
        for item in yaml.safe_load_all(text)
        if item
    ]


def _only(items, kind):
    (item,) = (item for item in items if item["kind"] == kind)
    return item


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def items(request):
    """All objects of one variant."""
    return _render(request.param)


def test_helm_lint_finds_no_error_and_no_warning():
    """Helm's severities: 1 is advice, 2 a warning, 3 an error."""
    found = helm.lint(str(CHART))
    assert [message for message in found["messages"] if message["severity"] > 1] == []
    assert found["errors"] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_follows_kubernetes_schemas(items, version):
    """Strictly: no unknown field, in the oldest and a newer release that the chart is for."""
    for item in items:
        if item["kind"] not in OPERATOR:
            kubernetes_validate.validate(item, version, strict=True)


def test_what_is_selected_are_the_pods(items):
    """Services, budget and policy name labels that the pods have."""
    pod = _only(items, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        *(item["spec"]["selector"] for item in items if item["kind"] == "Service"),
        _only(items, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        _only(items, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert len(selectors) == 4
    assert all(selector.items() <= pod.items() for selector in selectors)


def test_prometheus_finds_the_metrics_and_only_them(items):
    """One service has the monitor's labels, its port is the metrics', and the policy guards it."""
    monitor = _only(items, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [item for item in items if item["kind"] == "Service"]
    (service,) = (item for item in services if wanted <= item["metadata"]["labels"].items())
    assert [port["name"] for port in service["spec"]["ports"]] == ["metrics"]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ["metrics"]
    rules = _only(items, "NetworkPolicy")["spec"]["ingress"]
    (rule,) = (rule for rule in rules if rule["ports"][0]["port"] == "metrics")
    assert rule["from"]


def test_pods_get_settings_that_there_are(items):
    """And a key, an index and a store; no URLs of a service that has their prefix for its name."""
    pod = _only(items, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["enableServiceLinks"] is False
    names = {variable["name"].removeprefix("PROTUNING_").lower() for variable in container["env"]}
    assert {"index", "store", "bootstrap_key_file"} <= names <= set(Settings.model_fields)


def test_a_service_of_the_cluster_is_no_setting_of_the_pods():
    """Kubernetes would tell of a Service `protuning` as PROTUNING_PORT=tcp://..., no number."""
    items = _render({}, name="protuning")
    assert "protuning" in {each["metadata"]["name"] for each in items if each["kind"] == "Service"}
    pod = _only(items, "Deployment")["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {"name": "PROTUNING_PORT", "value": str(ports["http"])} in container["env"]


def test_pods_may_do_nothing_that_they_need_not(items):
    """As the restricted pod security standard asks for, and no account token."""
    pod = _only(items, "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_is_given_the_time_that_it_takes_to_leave(items):
    """Longer than the delay, in which it serves on, and the timeout, in which it finishes."""
    pod = _only(items, "Deployment")["spec"]["template"]["spec"]
    env = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    needed = float(env["PROTUNING_SHUTDOWN_DELAY"]) + float(env["PROTUNING_SHUTDOWN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] >= needed + 10


def test_numbers_are_written_as_the_server_reads_them():
    """Large ones without an exponent, fractions as they are."""
    given = {"PROTUNING_MAX_BODY_BYTES": 67_108_864, "PROTUNING_LOAD_PATIENCE": 0.5}
    items = _render({"settings": given})
    (container,) = _only(items, "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert {name: env[name] for name in given} == {
        "PROTUNING_MAX_BODY_BYTES": "67108864",
        "PROTUNING_LOAD_PATIENCE": "0.5",
    }


def test_hostile_images_fit_into_a_pod(monkeypatch):
    """The guide's sum is below the limit of memory."""
    pod = _only(_render({}), "Deployment")["spec"]["template"]["spec"]
    for variable in pod["containers"][0]["env"]:
        if "value" in variable:
            monkeypatch.setenv(variable["name"], variable["value"])
    (scratch,) = (each["emptyDir"] for each in pod["volumes"] if each["name"] == "scratch")
    limit = pod["containers"][0]["resources"]["limits"]["memory"]
    assert needed(Settings(), scratch["sizeLimit"]) <= size(limit)


def test_the_autoscaler_follows_a_metric_that_the_adapter_makes():
    """From a figure that a rule records."""
    metric = _only(_render({}), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]
    adapter = yaml.safe_load((CHART.parent / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == metric["name"]
    assert rule["seriesQuery"].partition("{")[0] in monitoring.RECORDS


def test_what_pods_compile_and_download_can_outlive_them():
    """By a volume of one's own in place of the pod's, at the image's folder for both."""
    key = "fixed, with own secrets and volumes"
    for values, expected in (
        ({}, {"emptyDir": {}}),
        (VARIANTS[key], VARIANTS[key]["cache"]["volume"]),
    ):
        pod = _only(_render(values), "Deployment")["spec"]["template"]["spec"]
        (volume,) = (each for each in pod["volumes"] if each["name"] == "data")
        assert volume == {"name": "data", **expected}
        mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert mounts["data"] == "/var/lib/protuning"


def test_a_gpu_is_asked_for_where_one_is_wanted():
    """Limit, node and toleration; none of them otherwise."""
    pod = _only(_render(VARIANTS["gpu"]), "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["runtimeClassName"] == "nvidia"
    pod = _only(_render({}), "Deployment")["spec"]["template"]["spec"]
    assert "nvidia" not in str(pod)


def test_the_key_that_the_chart_makes_is_one_that_the_server_takes():
    """Its own parser reads it."""
    import base64

    from service.tenants import parse_token

    made = base64.b64decode(_only(_render({}), "Secret")["data"]["admin-key"]).decode()
    assert str(parse_token(made)) == made


def test_rules_and_dashboard_are_those_of_compose():
    """One source for both."""
    items = _render({})
    assert _only(items, "PrometheusRule")["spec"]["groups"] == monitoring.GROUPS
    assert yaml.safe_load(_only(items, "ConfigMap")["data"]["protuning.json"]) == (
        monitoring.DASHBOARD
    )


@pytest.mark.parametrize(
    "wrong",
    [{"gpus": 1}, {"settings": {"LOG_LEVEL": "debug"}}, {"index": {"url": "sqlite:///x"}}],
    ids=["gpus", "LOG_LEVEL", "sqlite"],
)
def test_a_typing_mistake_is_refused(wrong, request):
    """By the schema of the values, before anything is installed."""
    with (
        helm.Chart.load(str(CHART)) as chart,
        pytest.raises(helm.HelmError, match=request.node.callspec.id),
    ):
        chart.validate_schema(wrong)
