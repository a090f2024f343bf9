//! `k8s/check.py` refuses what an API server refuses: objects that are right, broken in one way each.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{name, of_kind, rendered};
use crate::tidy::{holds, root};

/// The kind and the name of an object, the path of a member, its value, and words of the refusal. A path that ends with `-` adds
/// to a list, whose members have numbers or names.
type Case = (&'static str, &'static str, &'static str, Value, &'static str);

fn cases() -> Vec<Case> {
    [single_members(), members_that_have_to_fit()].concat()
}

const fn deployment(path: &'static str, value: Value, words: &'static str) -> Case {
    ("Deployment", "order", path, value, words)
}

fn single_members() -> Vec<Case> {
    vec![
        // A member that the kind does not have.
        deployment("/spec/replica", json!(3), "Additional properties"),
        ("Kafka", "stampede", "/spec/kafka/listener", json!([]), "Additional properties"),
        ("KafkaUser", "order", "/spec/authorization/acl", json!([]), "Additional properties"),
        // A value that is none of those there are.
        ("KafkaUser", "order", "/spec/authentication/type", json!("scram-sha-256"), "is not one of"),
        deployment("/spec/template/spec/containers/0/imagePullPolicy", json!("Sometimes"), "is none of Always"),
        deployment("/spec/template/spec/securityContext/seccompProfile/type", json!("Default"), "is none of Localhost"),
        deployment("/spec/strategy/type", json!("Rolling"), "is none of Recreate"),
        ("Ingress", "stampede", "/spec/rules/0/http/paths/0/pathType", json!("Regex"), "is none of Exact"),
        ("NetworkPolicy", "order", "/spec/policyTypes", json!(["Outgress"]), "is none of Egress"),
        ("NetworkPolicy", "dns", "/spec/egress/0/ports/0/protocol", json!("udp"), "is none of SCTP"),
        ("PodDisruptionBudget", "order", "/spec/unhealthyPodEvictionPolicy", json!("Always"), "is none of AlwaysAllow"),
        // Names.
        deployment("/metadata/name", json!("Order"), "is no DNS name"),
        ("Service", "order", "/metadata/name", json!("1order"), "is no DNS name"),
        deployment("/spec/template/spec/containers/0/name", json!("order.1"), "is no DNS label"),
        deployment("/spec/template/spec/volumes/tmp/name", json!("a_folder"), "is no DNS label"),
        deployment("/spec/template/spec/containers/0/ports/0/name", json!("http--api"), "is no name of a port"),
        deployment("/spec/template/spec/containers/0/ports/0/name", json!("sixteen-letters1"), "is no name of a port"),
        deployment(
            "/spec/template/spec/containers/0/livenessProbe/httpGet/port",
            json!("h_ttp"),
            "is no name of a port",
        ),
        ("Service", "order", "/spec/ports/0/port", json!(70_000), "is no port"),
        deployment("/metadata/labels/team", json!("sales and orders"), "is no label"),
        ("ConfigMap", "response-headers", "/data/X Header", json!("1"), "has other than letters"),
        // Quantities.
        deployment("/spec/template/spec/containers/0/resources/requests/cpu", json!("half"), "is no quantity"),
        deployment("/spec/template/spec/containers/0/resources/limits/memory", json!("256MB"), "is no quantity"),
        deployment("/spec/template/spec/containers/0/resources/requests/memory", json!("1Gi"), "and is limited to"),
        deployment("/spec/template/spec/volumes/tmp/emptyDir/sizeLimit", json!("64 Mi"), "is no quantity"),
        ("Cluster", "stampede-postgres", "/spec/resources/requests/memory", json!("8Gi"), "and is limited to"),
    ]
}

fn members_that_have_to_fit() -> Vec<Case> {
    vec![
        deployment(
            "/spec/template/metadata/labels/app.kubernetes.io~1name",
            json!("orders"),
            "the template has not the label",
        ),
        deployment("/spec/selector", json!({}), "selects everything"),
        deployment("/spec/template/spec/containers/0/readinessProbe/tcpSocket", json!({ "port": 8080 }), "one handler"),
        deployment("/spec/template/spec/containers/0/readinessProbe", json!({ "periodSeconds": 2 }), "one handler"),
        deployment(
            "/spec/template/spec/containers/0/lifecycle/preStop/exec",
            json!({ "command": ["x"] }),
            "one handler",
        ),
        deployment(
            "/spec/template/spec/containers/0/volumeMounts/-",
            json!({ "name": "absent", "mountPath": "/absent" }),
            "there is no volume absent",
        ),
        deployment(
            "/spec/template/spec/containers/0/volumeMounts/-",
            json!({ "name": "tmp", "mountPath": "/run/secrets/stampede" }),
            "twice as a mountPath",
        ),
        deployment(
            "/spec/template/spec/containers/0/env/-",
            json!({ "name": "STAMPEDE__KAFKA__PASSWORD_FILE", "value": "/run/secrets/servers/kafka.password" }),
            "twice as a variable",
        ),
        deployment("/spec/template/spec/volumes/-", json!({ "name": "tmp", "emptyDir": {} }), "twice as a volume"),
        deployment("/spec/template/spec/volumes/tmp/hostPath", json!({ "path": "/" }), "not just one source"),
        deployment("/spec/template/spec/restartPolicy", json!("Never"), "is nothing for a Deployment"),
        deployment("/spec/strategy/rollingUpdate/maxSurge", json!(0), "are both 0"),
        ("Job", "order-migrate", "/spec/template/spec/restartPolicy", json!("Always"), "is nothing for a Job"),
        ("HorizontalPodAutoscaler", "order", "/spec/minReplicas", json!(7), "at least 7 replicas"),
        ("PodDisruptionBudget", "order", "/spec/minAvailable", json!(1), "are both there"),
        ("NetworkPolicy", "kafka", "/spec/egress/0/ports/0/endPort", json!(80), "endPort is less"),
    ]
}

/// What `k8s/check.py` says of each object.
fn judge(objects: &[&Value]) -> Vec<Vec<String>> {
    let mut child = Command::new("/usr/bin/python3")
        .arg(root().join("k8s/check.py"))
        .arg("--judge")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let text = serde_json::to_vec(objects).expect("it is JSON");
    child.stdin.take().expect("it is ours").write_all(&text).expect("check.py reads all of it");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).expect("it prints a list for each object")
}

fn set(object: &mut Value, path: &str, value: Value) {
    let (parents, member) = path.rsplit_once('/').expect("it is a path");
    let parent = parents.split('/').skip(1).fold(object, |node, name| at(node, name));
    match parent {
        Value::Array(list) if member == "-" => list.push(value),
        Value::Array(_) => *at(parent, member) = value,
        parent => parent[member.replace("~1", "/")] = value,
    }
}

/// A member of an object, and of a list the one with that number or name.
fn at<'a>(node: &'a mut Value, wanted: &str) -> &'a mut Value {
    let Value::Array(list) = node else { return &mut node[wanted.replace("~1", "/")] };
    let place = wanted.parse().ok().or_else(|| list.iter().position(|each| name_of(each) == wanted));
    &mut list[place.unwrap_or_else(|| panic!("there is no {wanted}"))]
}

fn name_of(member: &Value) -> &str {
    member["name"].as_str().unwrap_or_default()
}

#[test]
fn what_an_api_server_refuses_is_refused_without_one() {
    let objects = &rendered().overlays["prod"];
    let (mut originals, mut broken) = (Vec::new(), Vec::new());
    for (kind, wanted, path, value, _) in cases() {
        let original = of_kind(objects, kind).find(|object| name(object) == wanted);
        let original = original.unwrap_or_else(|| panic!("there is no {kind} {wanted}"));
        let mut changed = original.clone();
        set(&mut changed, path, value);
        assert_ne!(*original, changed, "{kind} {wanted}: {path}");
        originals.push(original);
        broken.push(changed);
    }
    let right = judge(&originals);
    holds("The objects are right before they are broken.", right.into_iter().flatten().collect());
    let told = judge(&broken.iter().collect::<Vec<_>>());
    let missed =
        cases().into_iter().zip(told).filter(|((.., words), told)| !told.iter().any(|flaw| flaw.contains(words)));
    let missed =
        missed.map(|((kind, name, path, value, _), told)| format!("{kind} {name}, {path} = {value}: {told:?}"));
    holds("check.py takes what an API server refuses.", missed.collect());
    let unknown = json!({ "apiVersion": "example.com/v1", "kind": "Order", "metadata": { "name": "order" } });
    assert_eq!(judge(&[&unknown]), [["there is no schema of example.com/v1 Order"]]);
}
