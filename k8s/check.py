#!/usr/bin/env python3
"""Renders every overlay and every folder of k8s/checks with kustomize and validates what comes out, strictly and offline.

    k8s/check.py            says what is wrong, if anything is
    k8s/check.py --json     also prints all objects of all overlays, for the tests
    k8s/check.py --judge    reads a list of objects as JSON, and prints for each what is wrong with it

Kubernetes' own kinds are judged by the schemas of kubernetes-validate, others by k8s/schemas/, and the compose file by
its specification; rules.py has what an API server refuses beside that. An unknown kind, a member that the schema does not
know and an object that comes twice are errors.

The tools come with pip into the user's cache the first time, which takes the network and some seconds.
"""

import concurrent.futures
import datetime
import functools
import json
import pathlib
import subprocess
import sys

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
K8S = ROOT / "k8s"
sys.path.insert(0, str(ROOT / "crates" / "testkit"))

import rules  # noqa: E402
from pinned import installed  # noqa: E402

# The oldest version of Kubernetes that the manifests are for.
VERSION = "1.34"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML as Kubernetes reads it: a key that comes twice is an error."""

    def construct_mapping(self, node, deep=False):
        own = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in own if own.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"twice in one object: {', '.join(map(str, twice))}{node.start_mark}")
        return super().construct_mapping(node, deep)


class Schemas:
    def __init__(self, folder):
        versions = folder / "kubernetes_validate" / "kubernetes-json-schema"
        self.own = versions / f"v{VERSION}.0-local-strict"
        if not self.own.is_dir():
            sys.exit(f"check.py: kubernetes-validate has no schemas of Kubernetes {VERSION}")
        self.validators = {}
        # Most objects are the same in several overlays.
        self.judged = {}

    def flaws(self, document):
        """What is wrong with a document; none where there is no schema of its kind."""
        text = json.dumps(document, default=str)
        if text not in self.judged:
            judge = self.of(document["kind"], document["apiVersion"])
            # The rules count on what the schema says.
            self.judged[text] = (list(flaws(judge, document)) or list(rules.flaws(document))) if judge else None
        return self.judged[text]

    def of(self, kind, api_version):
        """The validator of a kind, or none."""
        if (kind, api_version) not in self.validators:
            self.validators[kind, api_version] = self.read(kind.lower(), api_version)
        return self.validators[kind, api_version]

    def read(self, kind, api_version):
        group, _, version = api_version.rpartition("/")
        domain = group.endswith(".k8s.io") and group != "gateway.networking.k8s.io"
        if "." not in group or domain:
            # The schemas' names have the first part of the group.
            part = f"{group.split('.')[0]}-" if group else ""
            path = self.own / f"{kind}-{part}{version}.json"
        else:
            path = K8S / "schemas" / f"{kind}_{version}.json"
        return validator(path) if path.exists() else None


def validator(path, definitions={}):
    """Reads a schema so that all of its references lead into itself: nothing is ever looked for elsewhere."""

    def read(file):
        return json.loads(file.read_text().replace('"/api/_definitions.json#/', '"#/'))

    schema = read(path)
    common = path.parent / "_definitions.json"
    if common.exists():
        if not definitions:
            definitions.update(read(common)["$defs"])
        schema["$defs"] = definitions
    # Without its own address, which would be the base of references.
    schema.pop("$id", None)
    # Draft 7 knows every word that these schemas use, and looks up a reference faster than later ones.
    return jsonschema.Draft7Validator(schema)


def flaws(judge, document):
    for error in sorted(judge.iter_errors(document), key=str):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


def kustomize(kubectl, overlay):
    return subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True)


def parse(done):
    """The objects that kustomize printed, and what is wrong with them."""
    if done.returncode != 0:
        return [], [done.stderr.strip()]
    # A warning of kustomize is something that will break one day.
    found = [f"kustomize warns: {line}" for line in done.stderr.splitlines() if line.strip()]
    try:
        return [document for document in yaml.load_all(done.stdout, Loader) if document], found
    except yaml.YAMLError as error:
        return [], [f"{error}"]


def judged(document, schemas):
    found = schemas.flaws(document)
    return [f"there is no schema of {document['apiVersion']} {document['kind']}"] if found is None else found


def check(documents, schemas):
    seen = set()
    for document in documents:
        name = f"{document['kind']}/{document['metadata'].get('name')}"
        identity = (document["apiVersion"].split("/")[0], document["kind"], name, document["metadata"].get("namespace"))
        if identity in seen:
            yield f"{name} comes twice"
        seen.add(identity)
        yield from (f"{name}: {flaw}" for flaw in judged(document, schemas))


def main():
    folder = installed(K8S / "requirements.txt")
    schemas = Schemas(folder)
    if "--judge" in sys.argv[1:]:
        print(json.dumps([judged(document, schemas) for document in json.load(sys.stdin)]))
        return
    wrong, rendered = [], {}
    # Checks are for components that no overlay has.
    overlays = [
        path.parent for folder in ("overlays", "checks") for path in sorted((K8S / folder).glob("*/kustomization.yaml"))
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        texts = pool.map(functools.partial(kustomize, folder / "bin" / "kubectl"), overlays)
    for overlay, done in zip(overlays, texts):
        documents, found = parse(done)
        found += check(documents, schemas)
        wrong += [f"{overlay.relative_to(ROOT)}: {flaw}" for flaw in found]
        rendered.setdefault(overlay.parent.name, {})[overlay.name] = documents
    try:
        compose = yaml.load((ROOT / "docker-compose.yml").read_text(), Loader)
        judge = validator(K8S / "schemas" / "compose-spec.json")
        wrong += [f"docker-compose.yml: {flaw}" for flaw in flaws(judge, compose)]
    except yaml.YAMLError as error:
        compose, wrong = {}, wrong + [f"docker-compose.yml: {error}"]
    if "--json" in sys.argv[1:]:
        print(json.dumps({**rendered, "compose": compose}, default=datetime.date.isoformat))
    for flaw in wrong:
        print(flaw, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
