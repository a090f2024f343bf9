"""What an API server refuses although the schema of the kind takes it: names, quantities, enumerations, and members that have to
fit each other. Kubernetes states these in code or in words, so that its JSON Schemas do not have them. What CEL rules of
CustomResourceDefinitions and admission webhooks refuse is not here.
"""

import decimal
import re

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# The name of a Service, which begins with a letter.
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
LABEL_KEY = re.compile(r"((?=[^/]{1,253}/)[a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
DATA_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")
QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")

HANDLERS = {"exec", "grpc", "httpGet", "sleep", "tcpSocket"}

# Members of Kubernetes' own kinds, wherever they are. With a dot: within that other member.
ENUMERATIONS = {
    "appArmorProfile.type": "RuntimeDefault Unconfined Localhost",
    "completionMode": "NonIndexed Indexed",
    "concurrencyPolicy": "Allow Forbid Replace",
    "dnsPolicy": "ClusterFirst ClusterFirstWithHostNet Default None",
    "externalTrafficPolicy": "Cluster Local",
    "imagePullPolicy": "Always IfNotPresent Never",
    "internalTrafficPolicy": "Cluster Local",
    "ipFamilyPolicy": "SingleStack PreferDualStack RequireDualStack",
    "metrics.type": "ContainerResource External Object Pods Resource",
    "pathType": "Exact ImplementationSpecific Prefix",
    "podManagementPolicy": "OrderedReady Parallel",
    "policies.type": "Percent Pods",
    "policyTypes": "Egress Ingress",
    "protocol": "SCTP TCP UDP",
    "restartPolicy": "Always Never OnFailure",
    "scheme": "HTTP HTTPS",
    "seccompProfile.type": "Localhost RuntimeDefault Unconfined",
    "selectPolicy": "Disabled Max Min",
    "sessionAffinity": "ClientIP None",
    "strategy.type": "Recreate RollingUpdate",
    "target.type": "AverageValue Utilization Value",
    "terminationMessagePolicy": "FallbackToLogsOnError File",
    "unhealthyPodEvictionPolicy": "AlwaysAllow IfHealthyBudget",
    "whenUnsatisfiable": "DoNotSchedule ScheduleAnyway",
}


def flaws(document):
    """Sentences on a document that its schema takes."""
    kind, spec = document["kind"], document.get("spec") or {}
    yield from names(document)
    for path, node in nodes(document):
        if path and path[-1] == "resources":
            yield from resources(path, node)
        if path[-2:] == ("metadata", "labels") or path[-1:] == ("matchLabels",):
            yield from labels(path, node)
    if is_own(document):
        yield from enumerations(document)
        yield from ports(document)
    if kind in ("ConfigMap", "Secret"):
        data = [key for part in ("data", "stringData") for key in document.get(part) or {}]
        yield from (f"the key {key!r} has other than letters, digits and -._" for key in data if not DATA_KEY.fullmatch(key))
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        yield from selected(spec)
    if kind == "Deployment" and (rolling := (spec.get("strategy") or {}).get("rollingUpdate")):
        if not any(str(rolling.get(each, "25%")).strip("0%") for each in ("maxSurge", "maxUnavailable")):
            yield "strategy.rollingUpdate: maxSurge and maxUnavailable are both 0"
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield from pod(kind, spec["template"].get("spec") or {})
    if kind == "CronJob":
        yield from pod("Job", spec["jobTemplate"]["spec"]["template"].get("spec") or {})
    if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        yield from replicas(spec)
    if kind == "PodDisruptionBudget" and {"minAvailable", "maxUnavailable"} <= spec.keys():
        yield "minAvailable and maxUnavailable are both there"


def is_own(document):
    """Whether the kind is one of Kubernetes itself: others have their enumerations in their schemas."""
    group = document["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io") and group != "gateway.networking.k8s.io"


def nodes(node, path=()):
    """Every value of a document, with its path. A member of a list has the path of the list."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from nodes(value, (*path, key))
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value, path)


def names(document):
    name = document["metadata"].get("name", "")
    pattern = {"Service": SERVICE_NAME, "Namespace": LABEL}.get(document["kind"], SUBDOMAIN)
    if not pattern.fullmatch(name):
        yield f"metadata.name: {name!r} is no DNS name of this kind"
    namespace = document["metadata"].get("namespace")
    if namespace is not None and not LABEL.fullmatch(namespace):
        yield f"metadata.namespace: {namespace!r} is no DNS label"


def labels(path, node):
    for key, value in (node or {}).items():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(str(value)):
            yield f"{'.'.join(path)}: {key}={value} is no label"


def amount(text):
    """A quantity as a number; none if it is no quantity."""
    match = QUANTITY.fullmatch(str(text))
    if not match:
        return None
    number, unit = decimal.Decimal(match[1]), match[2] or ""
    if unit[:1] in ("e", "E") and len(unit) > 1:
        return number.scaleb(int(unit[1:]))
    if unit.endswith("i"):
        return number * 1024 ** (1 + "KMGTPE".index(unit[0]))
    return number.scaleb({"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}[unit])


def resources(path, node):
    if not isinstance(node, dict):
        return
    place = ".".join(path)
    requests, limits = node.get("requests") or {}, node.get("limits") or {}
    for part, values in (("requests", requests), ("limits", limits)):
        for name, value in values.items():
            if amount(value) is None or amount(value) < 0:
                yield f"{place}.{part}.{name}: {value!r} is no quantity"
    for name in requests.keys() & limits.keys():
        asked, most = amount(requests[name]), amount(limits[name])
        if asked is not None and most is not None and asked > most:
            yield f"{place}: requests {requests[name]} of {name} and is limited to {limits[name]}"


def enumerations(document):
    for path, value in nodes(document.get("spec") or {}):
        known = ENUMERATIONS.get(path[-1]) if path else None
        known = known or ENUMERATIONS.get(".".join(path[-2:]))
        if known and isinstance(value, str) and value not in known.split():
            yield f"spec.{'.'.join(path)}: {value!r} is none of {known.replace(' ', ', ')}"


def ports(document):
    """Numbers and names of ports. A name in a container is shorter than one in a Service, and others refer to the former."""
    for path, value in nodes(document.get("spec") or {}):
        key = path[-1] if path else ""
        if key in ("containerPort", "endPort", "hostPort", "nodePort", "port", "targetPort"):
            if isinstance(value, int) and not 0 < value < 65536:
                yield f"spec.{'.'.join(path)}: {value} is no port"
            if isinstance(value, str) and not PORT_NAME.fullmatch(value):
                yield f"spec.{'.'.join(path)}: {value!r} is no name of a port, which has 15 characters at the most"
        if key == "ports" and isinstance(value, dict):
            pattern, most = (LABEL, 63) if document["kind"] == "Service" else (PORT_NAME, 15)
            if "name" in value and not pattern.fullmatch(value["name"]):
                yield f"spec.{'.'.join(path)}: {value['name']!r} is no name of a port, which has {most} characters at the most"
            if "endPort" in value and isinstance(value.get("port"), int) and value["endPort"] < value["port"]:
                yield f"spec.{'.'.join(path)}: endPort is less than port"


def selected(spec):
    found = (spec["template"].get("metadata") or {}).get("labels") or {}
    wanted = spec["selector"].get("matchLabels") or {}
    if not wanted and not spec["selector"].get("matchExpressions"):
        yield "spec.selector selects everything"
    for key, value in wanted.items():
        if found.get(key) != value:
            yield f"spec.selector: the template has not the label {key}={value}"


def pod(kind, spec):
    policy = spec.get("restartPolicy", "Always")
    if (policy == "Always") == (kind == "Job"):
        yield f"restartPolicy: {policy} is nothing for a {kind}"
    volumes = [volume["name"] for volume in spec.get("volumes") or []]
    containers = (spec.get("initContainers") or []) + (spec.get("containers") or [])
    for what, found in (("volume", volumes), ("container", [each["name"] for each in containers])):
        yield from (f"{name!r}, a {what}, is no DNS label" for name in found if not LABEL.fullmatch(name))
        yield from (f"{name!r} is there twice as a {what}" for name in set(found) if found.count(name) > 1)
    for volume in spec.get("volumes") or []:
        if len(volume) != 2:
            yield f"the volume {volume['name']} has not just one source"
        size = (volume.get("emptyDir") or {}).get("sizeLimit", 0)
        if amount(size) is None:
            yield f"the volume {volume['name']}: {size!r} is no quantity"
    for container in containers:
        yield from (f"{container['name']}: {flaw}" for flaw in container_flaws(container, volumes))


def container_flaws(container, volumes):
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        if kind in container and len(HANDLERS & container[kind].keys()) != 1:
            yield f"{kind} has not just one handler"
    for kind, handler in (container.get("lifecycle") or {}).items():
        if kind in ("postStart", "preStop") and len(HANDLERS & handler.keys()) != 1:
            yield f"{kind} has not just one handler"
    mounts = container.get("volumeMounts") or []
    yield from (f"there is no volume {each['name']}" for each in mounts if each["name"] not in volumes)
    for what, found in (
        ("mountPath", [each["mountPath"] for each in mounts]),
        # An API server only warns of it. The last one counts, so the first one is a mistake.
        ("variable", [each["name"] for each in container.get("env") or []]),
    ):
        yield from (f"{name} is there twice as a {what}" for name in set(found) if found.count(name) > 1)


def replicas(spec):
    least = spec.get("minReplicas", spec.get("minReplicaCount", 1))
    most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
    if least > most:
        yield f"at least {least} replicas, and at most {most}"
    if most < 1:
        yield "at most no replica"
