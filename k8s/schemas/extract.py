#!/usr/bin/env python3
"""Writes the schemas of this folder anew: the part of each CustomResourceDefinition that we use.

    k8s/schemas/extract.py FOLDER COMMIT

FOLDER is a working copy of github.com/datreeio/CRDs-catalog, and COMMIT its revision, which is noted in the files.

Descriptions are left out, and optional members that the manifests do not have. What is left forbids all other members, so
an object that a schema of this folder accepts is accepted by the original as well. An object that needs more makes the
check fail: remove its member below and run this again.
"""

import json
import pathlib
import sys

SOURCES = {
    "postgresql.cnpg.io/cluster_v1": (
        "cloudnative-pg/cloudnative-pg",
        """spec.affinity.nodeAffinity spec.affinity.additionalPodAffinity spec.affinity.additionalPodAntiAffinity
        spec.backup spec.bootstrap.pg_basebackup spec.bootstrap.recovery spec.certificates spec.env spec.envFrom
        spec.ephemeralVolumeSource spec.externalClusters spec.imageCatalogRef spec.managed.services spec.monitoring
        spec.plugins spec.podSecurityContext spec.postgresql.extensions spec.postgresql.ldap spec.postgresql.pg_hba
        spec.postgresql.pg_ident spec.probes spec.projectedVolumeTemplate spec.replica spec.replicationSlots
        spec.seccompProfile spec.securityContext spec.serviceAccountTemplate spec.storage.pvcTemplate
        spec.superuserSecret spec.tablespaces spec.topologySpreadConstraints spec.walStorage.pvcTemplate""",
    ),
    "postgresql.cnpg.io/database_v1": (
        "cloudnative-pg/cloudnative-pg",
        "spec.extensions spec.fdws spec.servers",
    ),
    "kafka.strimzi.io/kafka_v1": (
        "strimzi/strimzi-kafka-operator",
        """spec.clientsCa spec.clusterCa spec.cruiseControl spec.kafkaExporter spec.entityOperator.template.deployment
        spec.entityOperator.template.entityOperatorRole spec.entityOperator.template.pod.affinity
        spec.entityOperator.template.pod.tolerations spec.entityOperator.template.pod.topologySpreadConstraints
        spec.entityOperator.template.pod.volumes spec.entityOperator.template.serviceAccount
        spec.entityOperator.template.topicOperatorRoleBinding spec.entityOperator.template.userOperatorRoleBinding spec.entityOperator.topicOperator.livenessProbe
        spec.entityOperator.topicOperator.logging spec.entityOperator.topicOperator.readinessProbe
        spec.entityOperator.topicOperator.startupProbe spec.entityOperator.userOperator.livenessProbe
        spec.entityOperator.userOperator.logging spec.entityOperator.userOperator.readinessProbe
        spec.kafka.authorization.authorizerClass spec.kafka.authorization.superUsers
        spec.kafka.authorization.supportsAdminApi spec.kafka.jmxOptions
        spec.kafka.listeners[].authentication.listenerConfig spec.kafka.listeners[].authentication.sasl
        spec.kafka.listeners[].configuration
        spec.kafka.livenessProbe spec.kafka.logging spec.kafka.metricsConfig spec.kafka.quotas spec.kafka.rack
        spec.kafka.readinessProbe spec.kafka.template spec.kafka.tieredStorage""",
    ),
    "kafka.strimzi.io/kafkanodepool_v1": (
        "strimzi/strimzi-kafka-operator",
        """spec.template.initContainer spec.template.perPodIngress spec.template.perPodRoute
        spec.template.perPodService spec.template.persistentVolumeClaim spec.template.pod.affinity
        spec.template.pod.tolerations spec.template.pod.topologySpreadConstraints spec.template.pod.volumes
        spec.template.podSet""",
    ),
    "kafka.strimzi.io/kafkatopic_v1": ("strimzi/strimzi-kafka-operator", ""),
    "kafka.strimzi.io/kafkauser_v1": (
        "strimzi/strimzi-kafka-operator",
        "spec.authentication.password spec.quotas spec.template",
    ),
    "keda.sh/scaledobject_v1alpha1": ("kedacore/keda", ""),
    "keda.sh/triggerauthentication_v1alpha1": (
        "kedacore/keda",
        """spec.awsSecretManager spec.azureKeyVault spec.boundServiceAccountToken spec.env spec.gcpSecretManager
        spec.hashiCorpVault spec.podIdentity""",
    ),
    "monitoring.coreos.com/servicemonitor_v1": (
        "prometheus-operator/prometheus-operator",
        """spec.endpoints[].authorization spec.endpoints[].basicAuth spec.endpoints[].bearerTokenSecret
        spec.endpoints[].oauth2 spec.endpoints[].tlsConfig""",
    ),
    "monitoring.coreos.com/prometheusrule_v1": ("prometheus-operator/prometheus-operator", ""),
    "cert-manager.io/certificate_v1": (
        "cert-manager/cert-manager",
        """spec.additionalOutputFormats spec.emailAddresses spec.encodeUsagesInRequest spec.ipAddresses spec.keystores
        spec.literalSubject spec.nameConstraints spec.otherNames spec.renewBeforePercentage spec.revisionHistoryLimit
        spec.secretTemplate spec.signatureAlgorithm spec.subject spec.uris""",
    ),
    "cert-manager.io/issuer_v1": (
        "cert-manager/cert-manager",
        """spec.acme spec.vault spec.venafi spec.ca.crlDistributionPoints spec.ca.issuingCertificateURLs
        spec.ca.ocspServers spec.selfSigned.crlDistributionPoints""",
    ),
    "external-secrets.io/externalsecret_v1": (
        "external-secrets/external-secrets",
        "spec.data[].sourceRef spec.dataFrom",
    ),
    "gateway.envoyproxy.io/clienttrafficpolicy_v1alpha1": (
        "envoyproxy/gateway",
        """spec.clientIPDetection spec.connection spec.enableProxyProtocol spec.grpc spec.healthCheck spec.http1 spec.http2
        spec.http3 spec.path spec.proxyProtocol spec.scheme spec.targetRef spec.targetSelectors spec.tcpKeepalive spec.tls
        spec.headers.earlyRequestHeaders spec.headers.requestID spec.headers.xForwardedClientCert""",
    ),
    "gateway.envoyproxy.io/backendtrafficpolicy_v1alpha1": (
        "envoyproxy/gateway",
        """spec.admissionControl spec.bandwidthLimit spec.circuitBreaker spec.compression spec.compressor spec.connection
        spec.dns spec.faultInjection spec.healthCheck spec.http2 spec.httpUpgrade spec.loadBalancer spec.proxyProtocol
        spec.rateLimit.global spec.responseOverride spec.retry spec.targetRef spec.targetSelectors spec.tcpKeepalive
        spec.telemetry spec.timeout""",
    ),
    "gateway.networking.k8s.io/gateway_v1": ("kubernetes-sigs/gateway-api", "spec.infrastructure spec.tls"),
    "gateway.networking.k8s.io/httproute_v1": (
        "kubernetes-sigs/gateway-api",
        "spec.rules[].backendRefs[].filters spec.rules[].filters spec.rules[].sessionPersistence",
    ),
}


def without_descriptions(node):
    if isinstance(node, list):
        return [without_descriptions(each) for each in node]
    if not isinstance(node, dict):
        return node
    left = {}
    for key, value in node.items():
        if key == "properties":
            # Here a description is a member of the object.
            left[key] = {name: without_descriptions(each) for name, each in value.items()}
        elif key not in ("description", "x-kubernetes-validations") or isinstance(value, dict):
            left[key] = without_descriptions(value)
    return left


def remove(schema, path):
    node = schema
    *parents, last = path.split(".")
    for name in parents:
        node = node["properties"][name.removesuffix("[]")]
        node = node["items"] if name.endswith("[]") else node
    if last in node.get("required", []):
        sys.exit(f"{path} is required")
    del node["properties"][last]


def main():
    folder, commit = pathlib.Path(sys.argv[1]), sys.argv[2]
    for name, (origin, paths) in SOURCES.items():
        schema = without_descriptions(json.loads((folder / f"{name}.json").read_text()))
        schema["properties"].pop("status", None)
        for path in paths.split():
            remove(schema, path)
        schema["additionalProperties"] = False
        note = f"A part of the CustomResourceDefinition of github.com/{origin} (Apache-2.0), by datreeio/CRDs-catalog {commit}; see extract.py."
        out = pathlib.Path(__file__).parent / f"{name.split('/')[1]}.json"
        out.write_text(json.dumps({"$comment": note, **schema}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
