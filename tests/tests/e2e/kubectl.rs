//! kubectl's verbs on one board, with the oldest and the newest kubectl of this machine, and who may see what.

use std::process::Stdio;

use bramble_tests::board::Board;
use bramble_tests::host::{output, succeed};
use bramble_tests::kubectl::Kubectl;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: "bramble.local/hello:demo", imagePullPolicy: Never, args: [--port, "8080"]}
"#;

/// What kubectl says when the server refuses; every word is upstream's.
const REFUSED: [(&str, &str); 6] = [
    (
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dataz":{"a":"b"}}"#,
        r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dataz""#,
    ),
    (
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":1}}"#,
        r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string"#,
    ),
    (
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"c"}]}}"#,
        r#"The Pod "x" is invalid: spec.containers[0].image: Required value"#,
    ),
    (
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"X_y"}}"#,
        r#"metadata.name: Invalid value: "X_y": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"#,
    ),
    (
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"nowhere"}}"#,
        r#"namespaces "nowhere" not found"#,
    ),
    (
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"}}"#,
        r#"namespaces "default" already exists"#,
    ),
];

#[test]
fn verbs_with_the_oldest_and_the_newest_kubectl() {
    let mut board = Board::up("kubectl", &["--demo"]);
    board.wait_for_line("bramble: demo: http://");
    let all = Kubectl::all();
    let ends = [all.first().cloned(), all.last().cloned().filter(|_| all.len() > 1)];
    for kubectl in ends.into_iter().flatten() {
        eprintln!("kubectl {}", kubectl.version);
        let space = format!("v{}", kubectl.minor());
        board.kubectl = kubectl;
        let _ = board.kubectl(&format!("create namespace {space}"));
        let _ = board.kubectl(&format!("config set-context --current --namespace={space}"));
        rollouts(&board);
        writes(&board);
        reads(&board);
        deletes(&board);
        refusals(&board);
        managers(&board);
        proxies(&board);
        nodes(&board);
        let _ = board.kubectl(&format!("delete namespace {space} --timeout=30s"));
        let _ = board.kubectl("config set-context --current --namespace=default");
    }
    who_may_see_what(&board);
}

fn field(board: &Board, what: &str, path: &str) -> String {
    board.kubectl(&format!("get {what} -o jsonpath={{{path}}}"))
}

fn stderr(board: &Board, line: &str) -> String {
    String::from_utf8_lossy(&board.try_kubectl(line).stderr).into_owned()
}

fn rolled_out(board: &Board) {
    let told = board.kubectl("rollout status deployment/web --timeout=60s");
    assert!(told.ends_with("deployment \"web\" successfully rolled out\n"), "{told}");
}

fn rollouts(board: &Board) {
    board.apply(WEB);
    rolled_out(board);
    let manifest = board.dir().join("manifest.yaml");
    assert_eq!(board.kubectl(&format!("diff -f {}", manifest.display())), "");
    let _ = board.kubectl("set env deployment/web A=b");
    rolled_out(board);
    assert_eq!(
        board.kubectl("rollout history deployment/web").lines().filter(|line| line.ends_with("<none>")).count(),
        2
    );
    let _ = board.kubectl("rollout undo deployment/web");
    rolled_out(board);
    assert_eq!(field(board, "deployment/web", ".spec.template.spec.containers[0].env"), "");
    let _ = board.kubectl("rollout pause deployment/web");
    assert_eq!(stderr(board, "rollout pause deployment/web"), "error: deployments.apps \"web\" is already paused\n");
    let _ = board.kubectl("rollout resume deployment/web");
    let _ = board.kubectl("rollout restart deployment/web");
    let _ = board.kubectl("scale deployment/web --replicas=1 --current-replicas=2");
    let _ = board.kubectl("wait deployment/web --for=jsonpath={.status.replicas}=1 --timeout=30s");
    assert_eq!(
        stderr(board, "scale deployment/web --replicas=2 --current-replicas=5"),
        "error: Expected replicas to be 5, was 1\n"
    );
    let _ = board.kubectl("set image deployment/web c=bramble.local/hello:demo");
    rolled_out(board);
}

fn writes(board: &Board) {
    let patch = |kind: &str, patch: &str| board.kubectl(&format!("patch deployment web --type={kind} -p {patch}"));
    for (kind, text, value) in [
        ("strategic", r#"{"metadata":{"labels":{"p":"s"}}}"#, "s"),
        ("merge", r#"{"metadata":{"labels":{"p":"m"}}}"#, "m"),
        ("json", r#"[{"op":"replace","path":"/metadata/labels/p","value":"j"}]"#, "j"),
    ] {
        let _ = patch(kind, text);
        assert_eq!(field(board, "deployment/web", ".metadata.labels.p"), value, "{kind}");
    }
    assert_eq!(
        stderr(board, r#"patch deployment web --type=json -p [{"op":"test","path":"/metadata/labels/p","value":"x"}]"#),
        "The request is invalid: the server rejected our request due to an error in our request\n"
    );
    let _ = board.kubectl("label deployment web x=y");
    assert!(
        stderr(board, "label deployment web x=z").contains("'x' already has a value (y), and --overwrite is false")
    );
    let _ = board.kubectl("label deployment web x-");
    let _ = board.kubectl("annotate deployment web note=1");

    let stale = board.dir().join("stale.json");
    std::fs::write(&stale, board.kubectl("get deployment web -o json")).expect("written");
    let _ = board.kubectl("annotate deployment web note-");
    let conflict = stderr(board, &format!("replace -f {}", stale.display()));
    let words = "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your \
        changes to the latest version and try again";
    assert!(conflict.contains(words), "{conflict}");
    let _ =
        board.kubectl(&format!("replace --force --grace-period=0 -f {}", board.dir().join("manifest.yaml").display()));

    let mut edit = board.command(&board.kubectl.path);
    edit.env("EDITOR", "sed -i 's/replicas: 2/replicas: 1/'").args(["edit", "deployment", "web"]);
    assert!(succeed(&mut edit).contains("deployment.apps/web edited"));
    rolled_out(board);
    let _ = board.kubectl("expose deployment web --port=80 --target-port=8080");
    board.eventually("the Service has an endpoint", 20, || {
        // It is not there at once.
        let told = board.try_kubectl("get endpoints/web -o jsonpath={.subsets[*].addresses[*].ip}");
        told.stdout.starts_with(b"10.42.").then_some(())
    });
    // Typed creation: newer versions send these in protobuf.
    let _ = board.kubectl("create configmap typed --from-literal=k=v");
    let _ = board.kubectl("create secret generic typed --from-literal=k=v");
    let _ = board.kubectl("create role reader --verb=get --resource=pods");
    let _ = board.kubectl("create rolebinding reader --role=reader --serviceaccount=default:default");
    assert_eq!(field(board, "secret/typed", ".data.k"), "dg==");
}

fn reads(board: &Board) {
    assert_eq!(board.kubectl("get deployment -o name"), "deployment.apps/web\n");
    let table = board.kubectl("get deployment -o wide");
    let columns: Vec<&str> = table.lines().next().expect("a head").split_whitespace().collect();
    assert_eq!(columns, ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    assert_eq!(
        board.kubectl("get deployment -o custom-columns=N:.metadata.name,A:.metadata.labels.app"),
        "N     A\nweb   web\n"
    );
    assert_eq!(board.kubectl("get deployment -o go-template={{range.items}}{{.metadata.name}}{{end}}"), "web");
    assert!(board.kubectl("get deployment web -o yaml").starts_with("apiVersion: apps/v1\nkind: Deployment\n"));
    assert!(board.kubectl("get all").contains("service/web"));
    let chunked = board.kubectl("get pods -A --chunk-size=1 -o name");
    assert!(chunked.lines().count() >= 4 && chunked == board.kubectl("get pods -A -o name"), "{chunked}");
    assert_eq!(board.kubectl("get pods --field-selector=status.phase=Failed -o name"), "");
    assert_eq!(
        board.kubectl("get pods -l app=web,!none --field-selector=spec.nodeName=pi-1 -o name").lines().count(),
        1
    );
    let wrong = stderr(board, "get pods --field-selector=spec.foo=1");
    assert!(wrong.contains("field label not supported: spec.foo"), "{wrong}");

    let mut watch = board.command("timeout");
    watch
        .args(["30", "sh", "-c", "\"$0\" get configmap -w -o name | sed '/configmap.late/q'"])
        .arg(&board.kubectl.path);
    let watching = watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a watch");
    let _ = board.kubectl("create configmap late");
    let _ = board.kubectl("annotate configmap late more=1");
    let seen = watching.wait_with_output().expect("it ends");
    assert!(String::from_utf8_lossy(&seen.stdout).contains("configmap/late"));

    let described = board.kubectl("describe deployment web");
    assert!(described.contains("Replicas:               1 desired | 1 updated | 1 total | 1 available"), "{described}");
    assert!(board.kubectl("describe pods -l app=web").contains("Successfully assigned"));
    let described = board.kubectl("describe node pi-1");
    let is_ready = |line: &str| line.split_whitespace().take(2).eq(["Ready", "True"]);
    assert!(described.lines().any(is_ready), "{described}");
    assert!(board.kubectl("events --for deployment/web").contains("Scaled up replica set"));
    assert!(board.kubectl("get events --field-selector involvedObject.kind=Pod,reason=Started").contains("pod/web-"));

    assert!(board.kubectl("api-resources --api-group=apps -o name").contains("deployments.apps\n"));
    assert!(board.kubectl("api-versions").contains("rbac.authorization.k8s.io/v1\n"));
    assert!(board.kubectl("version -o json").contains("\"serverVersion\""));
    assert!(board.kubectl("cluster-info").contains("is running at"));
    assert!(board.kubectl("explain pod.spec.containers.livenessProbe").contains("httpGet\t<HTTPGetAction>"));
    assert_eq!(board.kubectl("auth can-i create pods"), "yes\n");
    let no = board.try_kubectl("auth can-i create pods --as=system:serviceaccount:default:default");
    assert_eq!((no.status.code(), no.stdout.as_slice()), (Some(1), &b"no\n"[..]));
    assert_eq!(board.kubectl("auth can-i get pods --as=system:serviceaccount:default:default"), "yes\n");
    if board.kubectl.minor() >= 28 {
        assert!(board.kubectl("auth whoami").contains("kubernetes-admin"));
    }
}

fn deletes(board: &Board) {
    let owned = |kind: &str| board.kubectl(&format!("get {kind} -l app=web -o name")).lines().count();
    let _ = board.kubectl("delete deployment web --cascade=orphan");
    assert_eq!(owned("replicaset"), 1, "an orphan stays");
    let _ = board.kubectl("delete replicaset -l app=web --cascade=foreground --timeout=30s");
    assert_eq!(owned("pod"), 0, "an owner that is deleted in the foreground goes last");
    board.apply(WEB);
    rolled_out(board);
    let _ = board.kubectl("delete deployment web --cascade=background");
    board.eventually("the pods follow", 30, || (owned("pod") == 0).then_some(()));
    let _ = board.kubectl("run lone --image=bramble.local/hello:demo --image-pull-policy=Never -- --port 8080");
    let _ = board.kubectl("wait pod/lone --for=condition=Ready --timeout=30s");
    let _ = board.kubectl("delete pod lone --grace-period=0 --force");
    let _ = board.kubectl("delete configmap --all --timeout=20s");
    // A namespace's trust anchor comes back by itself.
    board.eventually("the root CA", 20, || {
        (board.kubectl("get configmap -o name") == "configmap/kube-root-ca.crt\n").then_some(())
    });
}

fn refusals(board: &Board) {
    let path = board.dir().join("wrong.json");
    let create = format!("create --validate=strict -f {}", path.display());
    for (manifest, words) in REFUSED {
        std::fs::write(&path, manifest).expect("written");
        let told = stderr(board, &create);
        assert!(told.contains(words), "{told}");
    }
    std::fs::write(&path, REFUSED[0].0).expect("written");
    let warned = stderr(board, &format!("create --validate=warn -f {}", path.display()));
    assert!(warned.contains("Warning: unknown field \"dataz\""), "{warned}");
    let negative = stderr(board, "create deployment x --image=i --replicas=-1");
    let words =
        "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert!(negative.contains(words), "{negative}");
    let secret = stderr(board, "create secret generic x --type=kubernetes.io/tls");
    assert!(secret.contains("[data[tls.crt]: Required value, data[tls.key]: Required value]"), "{secret}");
    let old = stderr(board, "get endpoints");
    assert!(
        old.contains("Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        "{old}"
    );
}

/// Who owns which fields: hidden unless asked for, and what an apply on the server goes by.
fn managers(board: &Board) {
    board.apply(WEB);
    assert!(!board.kubectl("get deployment web -o yaml").contains("managedFields"));
    let entry = r#".metadata.managedFields[?(@.manager=="kubectl-client-side-apply")].operation"#;
    assert_eq!(field(board, "deployment/web", entry), "Update");
    rolled_out(board);
    let status = r#".metadata.managedFields[?(@.subresource=="status")].manager"#;
    assert_eq!(field(board, "deployment/web", status), "deployment-controller");
    let manifest = board.dir().join("manifest.yaml");
    let apply = format!("apply --server-side -f {}", manifest.display());
    assert_eq!(board.kubectl(&apply), "deployment.apps/web serverside-applied\n");
    let _ = board.kubectl("scale deployment/web --replicas=1");
    let told = stderr(board, &apply);
    assert!(told.contains("with subresource \"scale\" using apps/v1"), "{told}");
    assert!(told.contains(".spec.replicas"), "{told}");
    let _ = board.kubectl(&format!("{apply} --force-conflicts"));
    rolled_out(board);
    assert_eq!(field(board, "deployment/web", ".spec.replicas"), "2");
}

/// HTTP through the API server: to a pod, a service, a node.
fn proxies(board: &Board) {
    let _ = board.kubectl("expose deployment web --name=proxied --port=80 --target-port=8080");
    let pods = board.kubectl("get pods -l app=web -o name");
    let pod = pods.lines().next().and_then(|name| name.strip_prefix("pod/")).expect("a pod");
    let space = field(board, &format!("pod/{pod}"), ".metadata.namespace");
    let raw = |path: &str| board.try_kubectl(&format!("get --raw /api/v1{path}"));
    let said = |path: &str| String::from_utf8_lossy(&raw(path).stdout).into_owned();
    let told = |path: &str| String::from_utf8_lossy(&raw(path).stderr).into_owned();
    assert!(said(&format!("/namespaces/{space}/pods/http:{pod}:8080/proxy/")).contains("Hello"));
    let service = format!("/namespaces/{space}/services/proxied:80/proxy/");
    board.eventually("the service is reached", 20, || said(&service).contains("Hello").then_some(()));
    let refused = told(&format!("/namespaces/{space}/pods/{pod}:1/proxy/"));
    assert!(refused.contains("error trying to reach service: dial tcp 10.42."), "{refused}");
    assert!(told(&format!("/namespaces/{space}/pods/ftp:{pod}:1/proxy/")).contains("invalid pod request"));
    let missing = told(&format!("/namespaces/{space}/services/proxied:81/proxy/"));
    assert!(missing.contains("no service port 81 found for service \"proxied\""), "{missing}");
    assert!(said("/nodes/pi-1/proxy/pods").contains("PodList"));
    let ended = board.kubectl("get --raw /readyz/ping");
    assert_eq!(ended, "ok");
    let _ = board.kubectl("delete deployment/web service/proxied");
}

fn nodes(board: &Board) {
    let _ = board.kubectl("taint node pi-1 a=b:NoSchedule");
    assert_eq!(field(board, "node/pi-1", ".spec.taints[0].effect"), "NoSchedule");
    let _ = board.kubectl("taint node pi-1 a-");
    let _ = board.kubectl("cordon pi-1");
    assert!(board.kubectl("get node pi-1").contains("Ready,SchedulingDisabled"));
    let _ = board.kubectl("run bare --image=bramble.local/hello:demo -- --port 8080");
    let pending = "wait pod/bare --for=jsonpath={.status.conditions[0].reason}=Unschedulable --timeout=30s";
    let _ = board.kubectl(pending);
    let _ = board.kubectl("delete pod bare");
    let drained = board.kubectl("drain pi-1 --force --ignore-daemonsets --delete-emptydir-data --timeout=60s");
    assert!(drained.contains("evicted") && drained.ends_with("node/pi-1 drained\n"), "{drained}");
    let _ = board.kubectl("uncordon pi-1");
    let _ = board.kubectl("-n default rollout status deployment/hello --timeout=60s");
}

fn who_may_see_what(board: &Board) {
    let server = "https://10.99.0.1:6443";
    let code = |arguments: &[&str], url: &str| {
        let mut curl = board.command("curl");
        curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"]).args(arguments).arg(url);
        String::from_utf8_lossy(&output(&mut curl).stdout).into_owned()
    };
    for (path, expected) in [
        ("/healthz", "200"),
        ("/livez", "200"),
        ("/readyz", "200"),
        ("/version", "200"),
        ("/api", "403"),
        ("/apis", "403"),
        ("/openapi/v3", "403"),
        ("/metrics", "403"),
        ("/api/v1/secrets", "403"),
        ("/api/v1/namespaces/default/pods", "403"),
    ] {
        assert_eq!(code(&[], &format!("{server}{path}")), expected, "anonymous, {path}");
    }
    for port in ["6443", "10250"] {
        assert_eq!(code(&[], &format!("http://10.99.0.1:{port}/healthz")), "000", "nothing in plain text on {port}");
    }
    assert_eq!(code(&[], "https://10.99.0.1:10250/pods"), "000", "the kubelet wants a certificate");

    for (options, expected) in [("", "200"), ("--audience=elsewhere", "401")] {
        let token = board.kubectl(&format!("create token default {options}"));
        let header = format!("Authorization: Bearer {}", token.trim());
        assert_eq!(code(&["-H", &header], &format!("{server}/api")), expected, "{options}");
    }

    let _ = board.kubectl("create secret generic private --from-literal=k=v");
    let certificate = board.dir().join("data/agent/pki/client.pem");
    let certificate = certificate.to_string_lossy();
    let agent = ["--cert", &certificate, "--key", &certificate];
    for (path, expected) in [
        ("/api/v1/nodes/pi-1", "200"),
        ("/api/v1/namespaces/default/secrets/private", "403"),
        ("/api/v1/secrets", "403"),
        ("/api/v1/namespaces/kube-system/secrets", "403"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "403"),
    ] {
        assert_eq!(code(&agent, &format!("{server}{path}")), expected, "the agent, {path}");
    }
    board.apply("{apiVersion: v1, kind: Node, metadata: {name: another}}");
    let patch = ["-X", "PATCH", "-H", "Content-Type: application/merge-patch+json", "-d"];
    let another = [&agent[..], &patch[..], &[r#"{"spec":{"unschedulable":true}}"#]].concat();
    assert_eq!(code(&another, &format!("{server}/api/v1/nodes/another")), "403", "another board's Node");
    let label = r#"{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}"#;
    let own = [&agent[..], &patch[..], &[label]].concat();
    assert_eq!(
        code(&own, &format!("{server}/api/v1/nodes/pi-1")),
        "403",
        "a label that NodeRestriction keeps from boards"
    );
}
