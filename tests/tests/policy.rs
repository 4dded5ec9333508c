//! NetworkPolicies between boards, with kubectl and real connections.

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::image;
use bramble_tests::lan::Lan;

const TOOLS: &str = "tests.local/tools:1";

/// A pod that serves its name and asks others; its readiness is probed by its board.
fn pod(name: &str, namespace: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\nspec:\n  \
         nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {TOOLS}\n    \
         ports: [{{name: web, containerPort: 8080}}]\n    \
         readinessProbe: {{httpGet: {{path: /, port: web}}, periodSeconds: 1, failureThreshold: 2}}\n    command: [sh, -c, \
         \"mkdir /www; echo {name} > /www/index.html; exec httpd -f -p 8080 -h /www\"]\n"
    )
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: web}]}
";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

const ALLOW: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: friend}}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}
    ports: [{port: web}]
";

struct Cluster {
    one: Board,
    _two: Board,
}

impl Cluster {
    fn asks(&self, from: &str, url: &str) -> bool {
        let (namespace, name) = from.split_once('/').unwrap_or(("default", from));
        let line = format!("exec -n {namespace} {name} -- curl -sS --max-time 1 {url}");
        self.one.try_kubectl(&line).stdout == b"web\n"
    }

    /// By the Service, and by the pod's own address.
    fn reach(&self, from: &str, ip: &str, wanted: bool) {
        for url in ["http://web.default/", &format!("http://{ip}:8080/")] {
            let reached = self.one.try_eventually(20, || (self.asks(from, url) == wanted).then_some(()));
            assert!(reached.is_some(), "{from} -> {url}: {} was wanted; the table:\n{}", wanted, self.table());
        }
    }

    fn table(&self) -> String {
        let told = output(self.one.command("nft").args(["list", "ruleset"]));
        String::from_utf8_lossy(&told.stdout).into_owned()
    }
}

#[test]
fn policies_hold_between_boards_and_follow_labels() {
    let lan = Lan::new(1);
    let mut one = lan.board("policy", 0);
    one.start(&[]);
    let mut two = lan.board("policy", 0);
    two.join(&one, "pi-2");
    for board in [&one, &two] {
        let archive = board.dir().join("image.tar");
        image::tools().docker_archive(TOOLS, &archive);
        let _ = board.bramble(&format!("image import {}", archive.display()));
    }
    let _ = one.kubectl("create namespace other");
    one.apply(SERVICE);
    for (name, namespace, node) in [
        ("web", "default", "pi-2"),
        ("friend", "default", "pi-1"),
        ("stranger", "default", "pi-1"),
        ("neighbour", "default", "pi-2"),
        ("guest", "other", "pi-1"),
    ] {
        one.apply(&pod(name, namespace, node));
    }
    let _ = one.kubectl("wait pod --all --for=condition=Ready --timeout=60s");
    let _ = one.kubectl("wait pod -n other --all --for=condition=Ready --timeout=60s");
    let ip = one.kubectl("get pod web -o jsonpath={.status.podIP}");
    let cluster = Cluster { one, _two: two };
    let one = &cluster.one;
    cluster.reach("stranger", &ip, true);

    one.apply(DENY);
    for from in ["friend", "neighbour", "other/guest"] {
        cluster.reach(from, &ip, false);
    }
    one.apply(ALLOW);
    for (from, wanted) in [("friend", true), ("other/guest", true), ("stranger", false), ("neighbour", false)] {
        cluster.reach(from, &ip, wanted);
    }
    let _ = one.kubectl("label pod stranger app=friend --overwrite");
    cluster.reach("stranger", &ip, true);
    let _ = one.kubectl("label pod friend app=foe --overwrite");
    cluster.reach("friend", &ip, false);

    let listed = one.kubectl("get netpol");
    assert!(listed.contains("POD-SELECTOR") && listed.contains("app=web") && listed.contains("<none>"), "{listed}");
    let described = one.kubectl("describe networkpolicy allow");
    assert!(described.contains("Allowing ingress traffic"), "{described}");
    let ready = one.kubectl("get pod web -o jsonpath={.status.conditions[?(@.type==\"Ready\")].status}");
    assert_eq!(ready, "True", "the board's probes pass");
    let _ = one.kubectl("delete netpol --all");
    cluster.reach("neighbour", &ip, true);
}
