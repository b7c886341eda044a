"""Checks Kubernetes manifests against the schemas of a release, strictly: unknown fields are errors. Prints what it checked as JSON.

KServe's kinds are no part of Kubernetes: of a ClusterServingRuntime the containers are checked as those of a pod, and the other fields
against the list that its definition has (kserve 0.21, V1alpha1ServingRuntimeSpec).
"""

import json
import sys

import kubernetes_validate
import yaml

RELEASE = "1.37"
RUNTIME_FIELDS = {
    "affinity", "annotations", "builtInAdapter", "containers", "disabled", "grpcDataEndpoint", "grpcEndpoint", "hostIPC",
    "httpDataEndpoint", "imagePullSecrets", "labels", "multiModel", "nodeSelector", "protocolVersions", "replicas",
    "resourceClaims", "schedulerName", "storageHelper", "supportedModelFormats", "tolerations", "volumes", "workerSpec",
}  # fmt: skip
FORMAT_FIELDS = {"name", "version", "autoSelect", "priority"}


def check_runtime(document: dict) -> None:
    spec = document["spec"]
    unknown = set(spec) - RUNTIME_FIELDS
    assert not unknown, f"unknown fields of a ClusterServingRuntime: {unknown}"
    for entry in spec["supportedModelFormats"]:
        assert set(entry) <= FORMAT_FIELDS and entry["name"], entry
    assert [container["name"] for container in spec["containers"]] == ["kserve-container"], (
        "KServe knows it by its name"
    )
    assert set(spec["protocolVersions"]) <= {"v1", "v2", "grpc-v1", "grpc-v2"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "check"},
        "spec": {"containers": spec["containers"]},
    }
    kubernetes_validate.validate(pod, RELEASE, strict=True)


checked = []
for file in sys.argv[1:]:
    with open(file, encoding="utf-8") as stream:
        for document in yaml.safe_load_all(stream):
            if document["apiVersion"].startswith("serving.kserve.io/"):
                check_runtime(document)
            else:
                kubernetes_validate.validate(document, RELEASE, strict=True)
            checked.append(f"{document['kind']} {document['metadata']['name']}")
print(json.dumps(checked))
