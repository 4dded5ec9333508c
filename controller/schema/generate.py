#!/usr/bin/env python3
"""Writes the schema table of one Kubernetes version from upstream's published facts.

Run by hand:  controller/schema/generate.py v1.35 0.35.0 > controller/schema/v1.35.txt

It reads the Go modules k8s.io/api, k8s.io/apimachinery, k8s.io/apiextensions-apiserver, k8s.io/kube-aggregator (field
numbers from generated.proto, enumerations from types.go) and k8s.io/kubernetes (patch and list strategies, required
and defaults from the OpenAPI document), as `go mod download` brings them. No description texts are kept.
README.md says how a line of the table reads.
"""
import json
import pathlib
import re
import subprocess
import sys

SCALARS = {"string", "int32", "int64", "bool", "double", "bytes"}
SPECIAL = {
    "meta.v1.Time": "time", "meta.v1.MicroTime": "micro-time", "meta.v1.Duration": "duration",
    "meta.v1.FieldsV1": "fields", "resource.Quantity": "quantity", "intstr.IntOrString": "int-or-string",
    "runtime.RawExtension": "raw", "runtime.Unknown": "unknown", "apiextensions.v1.JSON": "json",
    "apiextensions.v1.JSONSchemaPropsOrArray": "schema-or-array",
    "apiextensions.v1.JSONSchemaPropsOrBool": "schema-or-bool",
    "apiextensions.v1.JSONSchemaPropsOrStringArray": "schema-or-strings",
}
# Messages that only wrap a list of strings.
WRAPPED = {"authentication.v1.ExtraValue", "authorization.v1.ExtraValue", "certificates.v1.ExtraValue", "meta.v1.Verbs"}
GROUPS = """core/v1 apps/v1 batch/v1 autoscaling/v1 autoscaling/v2 policy/v1 rbac/v1 networking/v1 storage/v1
scheduling/v1 coordination/v1 discovery/v1 events/v1 authentication/v1 authorization/v1 certificates/v1
admissionregistration/v1 flowcontrol/v1 node/v1 resource/v1""".split()


def module(path, version):
    out = subprocess.check_output(["go", "mod", "download", "-json", f"{path}@{version}"], cwd="/")
    return pathlib.Path(json.loads(out)["Dir"])


def short(name):
    """The table's name of a proto message or OpenAPI definition."""
    for old, new in (
        ("io.k8s.apimachinery.pkg.apis.meta.", "meta."), ("k8s.io.apimachinery.pkg.apis.meta.", "meta."),
        ("io.k8s.apiextensions-apiserver.pkg.apis.", ""), ("k8s.io.apiextensions_apiserver.pkg.apis.", ""),
        ("io.k8s.kube-aggregator.pkg.apis.", ""), ("k8s.io.kube_aggregator.pkg.apis.", ""),
        ("io.k8s.apimachinery.pkg.api.resource.", "resource."), ("k8s.io.apimachinery.pkg.api.resource.", "resource."),
        ("io.k8s.apimachinery.pkg.util.intstr.", "intstr."), ("k8s.io.apimachinery.pkg.util.intstr.", "intstr."),
        ("io.k8s.apimachinery.pkg.runtime.", "runtime."), ("k8s.io.apimachinery.pkg.runtime.", "runtime."),
        ("io.k8s.api.", ""), ("k8s.io.api.", ""),
    ):
        if name.lstrip(".").startswith(old):
            return new + name.lstrip(".")[len(old):]
    return name


def read_proto(path):
    """message -> [(name, number, shape, type, default)], with types by their short names."""
    package, messages, current, default = "", {}, None, None
    for line in path.read_text().splitlines():
        line = line.strip()
        if m := re.match(r"//\s*\+default=(.*)", line):
            default = m[1]
        if line.startswith("//"):
            continue
        if m := re.match(r"package (\S+);", line):
            package = m[1]
        elif m := re.match(r"message (\w+) \{", line):
            current = messages.setdefault(short(f"{package}.{m[1]}"), [])
        elif line == "}":
            current = None
        elif current is not None and (m := re.match(r"map<string, (\S+)> (\w+) = (\d+);", line)):
            current.append((m[2], int(m[3]), "{", resolve(package, m[1]), None))
        elif current is not None and (m := re.match(r"(optional|repeated) (\S+) (\w+) = (\d+);", line)):
            shape = "[" if m[1] == "repeated" else ""
            current.append((m[3], int(m[4]), shape, resolve(package, m[2]), default))
            default = None
    return messages


def resolve(package, name):
    if name in SCALARS:
        return name
    return short(name if "." in name else f"{package}.{name}")


def read_go(path, package, enums, fields):
    """Enumerations marked +enum, and which Go type a field has."""
    marked, struct = False, None
    for line in path.read_text().splitlines():
        stripped = line.strip()
        if "+enum" in stripped and stripped.startswith("//"):
            marked = True
        elif m := re.match(r"type (\w+) string\b", line):
            if marked:
                enums.setdefault(f"{package}.{m[1]}", [])
            marked = False
        elif m := re.match(r"type (\w+) struct \{", line):
            struct, marked = m[1], False
        elif line == "}":
            struct = None
        elif struct and (m := re.match(r"\s+\w+\s+(\S+)\s+`json:\"([^,\"]+)", line)):
            fields[(f"{package}.{struct}", m[2])] = m[1]
        if m := re.match(r"(?:const)?\s*\w+\s+(\w+)\s+=\s+\"([^\"]*)\"", line):
            enums.setdefault(f"?{package}.{m[1]}", []).append(m[2])


def main(version, go_version):
    api, machinery = module("k8s.io/api", "v" + go_version), module("k8s.io/apimachinery", "v" + go_version)
    crd = module("k8s.io/apiextensions-apiserver", "v" + go_version) / "pkg/apis/apiextensions/v1"
    aggregator = module("k8s.io/kube-aggregator", "v" + go_version) / "pkg/apis/apiregistration/v1"
    kubernetes = module("k8s.io/kubernetes", version + ".0")
    packages = {g.replace("/", "."): api / g for g in GROUPS}
    packages |= {"meta.v1": machinery / "pkg/apis/meta/v1", "apiextensions.v1": crd, "apiregistration.v1": aggregator}
    messages, enums, go_fields = {}, {}, {}
    for package, directory in packages.items():
        messages |= read_proto(directory / "generated.proto")
        for source in sorted(directory.glob("*types*.go")):
            read_go(source, package, enums, go_fields)
    document = json.loads((kubernetes / "api/openapi-spec/swagger.json").read_text())
    definitions = {short(name): d for name, d in document["definitions"].items()}
    print(f"# Kubernetes {version}. Written by generate.py; do not edit. README.md says how a line reads.")
    for name in sorted(messages):
        if name in SPECIAL or name in WRAPPED or name in ("meta.v1.Timestamp",):
            continue
        write_type(name, messages, definitions, enums, go_fields)


def plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def write_type(name, messages, definitions, enums, go_fields):
    definition = definitions.get(name, {})
    properties = definition.get("properties", {})
    head = [f"type {name}"]
    gvks = definition.get("x-kubernetes-group-version-kind", [])
    if gvks and not name.startswith("meta.v1."):
        head += [f"gvk={g['group']}/{g['version']}/{g['kind']}" for g in gvks]
    elif gvks and len(gvks) == 1:
        head += [f"gvk={g['group']}/{g['version']}/{g['kind']}" for g in gvks]
    if definition.get("x-kubernetes-map-type") == "atomic":
        head.append("map=atomic")
    print(" ".join(head))
    by_plain = {plain(p): p for p in properties}
    seen = set()
    for field, number, shape, kind, default in messages[name]:
        target = SPECIAL.get(kind, kind)
        if kind in WRAPPED:
            target = "strings"
        json_name = by_plain.get(plain(field))
        if json_name is None and definition and kind in messages and shape == "" and kind not in SPECIAL:
            print(f" *{field} {number} {kind}")
            continue
        if json_name is None:
            if definition:
                print(f"# no property: {name}.{field}", file=sys.stderr)
            json_name = field
        if target not in SCALARS and target not in SPECIAL.values() and target != "strings" and kind not in messages:
            raise SystemExit(f"unknown type {kind} of {name}.{field}")
        seen.add(json_name)
        words = [json_name, str(number), shape + target]
        words += marks(name, json_name, properties.get(json_name, {}), definition, enums, go_fields)
        if default and re.fullmatch(r'"[^\s"]+"|\d+|true|false', default):
            words.append("default=" + default)
        print(" " + " ".join(words))
    # Properties that have no number: type meta, which travels in the envelope.
    for missing in properties.keys() - seen - {"apiVersion", "kind"}:
        if not any(missing in {f for f, *_ in messages.get(k, [])} for _, _, s, k, _ in messages[name] if s == ""):
            print(f"# no field: {name}.{missing}", file=sys.stderr)


def marks(name, field, prop, definition, enums, go_fields):
    words = []
    if field in definition.get("required", []):
        words.append("required")
    if strategy := prop.get("x-kubernetes-patch-strategy"):
        words.append("patch=" + strategy)
    if key := prop.get("x-kubernetes-patch-merge-key"):
        words.append("key=" + key)
    if kind := prop.get("x-kubernetes-list-type"):
        words.append("list=" + ":".join([kind] + [",".join(prop.get("x-kubernetes-list-map-keys", []))]).rstrip(":"))
    if prop.get("x-kubernetes-map-type") == "atomic":
        words.append("map=atomic")
    go_type = go_fields.get((name, field), "")
    if go_type.startswith("*"):
        words.append("ptr")
    go_type = go_type.lstrip("*[]")
    package = name.rsplit(".", 1)[0]
    if "." in go_type:
        alias, bare = go_type.split(".", 1)
        package = {"v1": "core.v1", "corev1": "core.v1", "metav1": "meta.v1"}.get(alias, alias)
        go_type = bare
    if f"{package}.{go_type}" in enums:
        values = sorted(set(enums.get(f"?{package}.{go_type}", [])))
        if values and all(re.fullmatch(r"[^\s|]*", v) for v in values):
            words.append("enum=" + "|".join(values))
    return words


if __name__ == "__main__":
    main(*sys.argv[1:])
