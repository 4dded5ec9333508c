//! NetworkPolicies between boards, with kubectl and real connections.

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::image::TOOLS;
use bramble_tests::lan::Lan;

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

/// Pods with this label reach nobody.
const MUTE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: mute}
spec: {podSelector: {matchLabels: {tongue: none}}, policyTypes: [Egress]}
";

/// A pod whose first deed is to fetch; how it ends says whether that succeeded.
fn first_deed(name: &str, tongue: &str, url: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{tongue: {tongue}}}}}\nspec:\n  nodeName: pi-1\n  \
         restartPolicy: Never\n  containers:\n  - name: main\n    image: {TOOLS}\n    \
         command: [curl, -sS, --max-time, '2', '{url}']\n"
    )
}

/// A pod that asks `web` by its name, again and again, and tells in its log what it heard.
fn asker(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  nodeName: pi-2\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {TOOLS}\n    command: [sh, -c, \
         \"while true; do curl -s --max-time 1 http://web.default/ || echo refused; sleep 0.2; done\"]\n"
    )
}

struct Cluster {
    one: Board,
    two: Board,
}

impl Cluster {
    /// What came back, or went wrong.
    fn asks(&self, from: &str, url: &str) -> String {
        let (namespace, name) = from.split_once('/').unwrap_or(("default", from));
        let line = format!("exec -n {namespace} {name} -- curl -sS --max-time 1 {url}");
        let told = self.one.try_kubectl(&line);
        String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned()
    }

    /// By the Service, and by the pod's own address.
    fn reach(&self, from: &str, ip: &str, wanted: bool) {
        for url in ["http://web.default/", &format!("http://{ip}:8080/")] {
            // What is dropped is not answered; any other failure says nothing of policies.
            let is_so = |told: String| if wanted { told == "web\n" } else { told.contains("curl: (28)") };
            let reached = self.one.try_eventually(20, || is_so(self.asks(from, url)).then_some(()));
            let told = || format!("{}; the table:\n{}", self.asks(from, url), self.table());
            assert!(reached.is_some(), "{from} -> {url}: {wanted} was wanted: {}", told());
        }
    }

    /// A pod is closed before its first instruction.
    fn nobody_is_quicker_than_a_policy(&self) {
        let one = &self.one;
        let url = format!("http://{}:8080/", one.kubectl("get pod friend -o jsonpath={.status.podIP}"));
        one.apply(MUTE);
        // `web` stays closed by what lets somebody in.
        let _ = one.kubectl("delete netpol deny");
        for (name, tongue, phase) in [("talker", "any", "Succeeded"), ("mute", "none", "Failed")] {
            one.apply(&first_deed(name, tongue, &url));
            let _ = one.kubectl(&format!("wait pod {name} --for=jsonpath={{.status.phase}}={phase} --timeout=30s"));
        }
        let _ = one.kubectl("delete netpol mute");
    }

    /// A board that starts without its controller is as closed as before.
    fn closed_without_the_controller(&mut self) {
        self.one.apply(&asker("ask-friend", "friend"));
        self.one.apply(&asker("ask-stranger", "foe"));
        let _ = self.one.kubectl("wait pod ask-friend ask-stranger --for=condition=Ready --timeout=60s");
        self.one.stop();
        let _ = self.two.bramble("down");
        let heard = |two: &Board, name: &str| two.try_bramble(&format!("logs default/{name}"));
        let before = heard(&self.two, "ask-friend").len();
        self.two.start_alone("10.99.0.1", "pi-2");
        let two = &self.two;
        let found = two.try_eventually(60, || heard(two, "ask-friend").get(before..)?.contains("web").then_some(()));
        assert!(found.is_some(), "the friend is let in: {}; the log:\n{}", heard(two, "ask-friend"), two.log());
        let stranger = || heard(two, "ask-stranger");
        let found = two.try_eventually(20, || stranger().contains("refused").then_some(()));
        assert!(found.is_some() && !stranger().contains("web"), "{}\n{}", stranger(), self.table());
        self.one.start(&[]);
        self.one.eventually("its pods are Ready again", 60, || {
            let line = "get pod web -o jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            (self.one.try_kubectl(line).stdout == b"True").then_some(())
        });
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
        board.load_tools();
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
    let mut cluster = Cluster { one, two };
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
    cluster.nobody_is_quicker_than_a_policy();
    cluster.closed_without_the_controller();
    let _ = cluster.one.kubectl("delete netpol --all");
    let ip = cluster.one.kubectl("get pod web -o jsonpath={.status.podIP}");
    cluster.reach("neighbour", &ip, true);
}
