"""Files for clusters, checked without one."""

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from jobs.cluster.submit import EXCLUDES
from minirec.config.reading import load

ROOT = Path(__file__).parents[1]
KUBERAY = {
    "rayjob.yaml": lambda manifest: manifest["spec"]["rayClusterSpec"],
    "raycluster.yaml": lambda manifest: manifest["spec"],
}
# The fields that the manifests use, from KubeRay's API reference of ray.io/v1.
JOB_FIELDS = {
    "entrypoint",
    "submissionMode",
    "backoffLimit",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "rayClusterSpec",
}
CLUSTER_FIELDS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
HEAD_FIELDS = {"rayStartParams", "serviceType", "template"}
WORKER_FIELDS = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "rayStartParams",
    "template",
}


def ray_schema():
    folder = Path(importlib.util.find_spec("ray").origin).parent
    return json.loads((folder / "autoscaler" / "ray-schema.json").read_text())


def test_the_launcher_file_fits_rays_schema():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(config, ray_schema())
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert types["gpu"]["min_workers"] == 0 and types["gpu"]["max_workers"] > 0
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "--num-cpus=0" in head
    assert all("RAY_AUTH_MODE=token" in command for command in (head, worker))
    assert "dashboard-host" not in head, "the dashboard stays on 127.0.0.1"
    install = next(command for command in config["setup_commands"] if "apt-get install" in command)
    assert {"gcc", "python3-dev"} <= set(install.split()), "Triton compiles on the workers"


def test_rays_schema_refuses_a_slip():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["max_worker"] = config.pop("max_workers")
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(config, ray_schema())


def manifests(name):
    return list(yaml.safe_load_all((ROOT / "deploy" / "kuberay" / name).read_text()))


@pytest.mark.parametrize("name", KUBERAY)
def test_the_manifests_are_as_kuberay_reads_them(name):
    manifest, claim = manifests(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    spec = KUBERAY[name](manifest)
    assert spec.keys() <= CLUSTER_FIELDS
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True
    head, (worker,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head.keys() <= HEAD_FIELDS and worker.keys() <= WORKER_FIELDS
    assert head["rayStartParams"]["num-cpus"] == "0" and head["serviceType"] == "ClusterIP"
    assert worker["minReplicas"] == worker["replicas"] == 0 < worker["maxReplicas"]
    for group, gpus in ((head, None), (worker, 1)):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"] and limits.get("nvidia.com/gpu") == gpus
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]]
        assert claims == [claim["metadata"]["name"]]
    params = {**head["rayStartParams"], **worker["rayStartParams"]}
    assert all(isinstance(value, str) for value in params.values())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_two_manifests_describe_one_cluster():
    (job, *_), (cluster, *_) = manifests("rayjob.yaml"), manifests("raycluster.yaml")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert job["spec"].keys() == JOB_FIELDS


def test_the_job_runs_a_config_that_is_there():
    from jobs.arguments import parse
    from jobs.cluster.submit import check_command

    (job, *_) = manifests("rayjob.yaml")
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "minirec"
    inside = [word.removeprefix("/opt/minirec/") for word in words]
    check_command(inside, ROOT, parse=parse)
    # A GPU node may need that long: its machine starts, then pulls an image of many GiB.
    config = load(ROOT / inside[inside.index("--config") + 1], [w for w in inside if "=" in w])
    assert config.resources.wait_s == config.rollout.start_deadline_s == 1800


def test_versions_are_those_of_the_locks():
    (cluster, *_) = manifests("raycluster.yaml")
    for lock in ("cpu.txt", "gpu.txt"):
        pinned = re.search(r"^ray==(\S+)", (ROOT / "locks" / lock).read_text(), flags=re.MULTILINE)
        assert cluster["spec"]["rayVersion"] == pinned[1]


def test_the_image_has_no_root_and_no_secrets():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER minirec"]
    assert lines.index("USER minirec") < lines.index("COPY --chown=minirec:minirec . .")
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "runs", "data"} <= set(ignored)
    assert {".git", ".venv"} <= set(EXCLUDES)
