//! A board is cut off for three days by its controller's clock, both sides change meanwhile, and they come together again.

use std::process::Command;
use std::time::Instant;

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::image::TOOLS;
use bramble_tests::lan::Lan;
use serde_json::Value;

const GRACE: [&str; 4] = ["--node-monitor-grace-period", "20s", "--node-lease-duration", "20s"];
const THREE_DAYS_S: &str = "259200";
/// No other process sleeps so long.
const CRASHES: &str = "7000001";

/// A pod that stays on its board whatever happens, with a container that will be killed; one that is deleted meanwhile; and one
/// of a Deployment, that is replaced.
fn manifest() -> String {
    let pinned = |name: &str, more: &str| {
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: pi-2
  terminationGracePeriodSeconds: 1
  tolerations: [{{operator: Exists}}]
  volumes: [{{name: words, configMap: {{name: words}}}}]
  containers:
  - {{name: main, image: "{TOOLS}", command: [sleep, "7000000"], volumeMounts: [{{name: words, mountPath: /words}}]}}
{more}"#
        )
    };
    let crashes = format!("  - {{name: crashes, image: \"{TOOLS}\", command: [sleep, \"{CRASHES}\"]}}\n");
    format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: words}}
data: {{word: before}}
{}{}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: moved}}
spec:
  selector: {{matchLabels: {{app: moved}}}}
  template:
    metadata: {{labels: {{app: moved}}}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {{weight: 100, preference: {{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [pi-2]}}]}}}}
      tolerations: [{{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 3}}]
      containers: [{{name: main, image: "{TOOLS}", command: [sleep, "7000002"]}}]
"#,
        pinned("stays", &crashes),
        pinned("doomed", ""),
    )
}

fn pod(one: &Board, name: &str) -> Value {
    serde_json::from_str(&one.kubectl(&format!("get pod {name} -o json"))).expect("JSON")
}

/// Restarts and id of a container, as the API has them.
fn container(pod: &Value, name: &str) -> (u64, String) {
    let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|one| one["name"] == name).unwrap_or_default();
    let id = found["containerID"].as_str().unwrap_or_default().to_owned();
    (found["restartCount"].as_u64().unwrap_or_default(), id)
}

fn token(one: &Board) -> String {
    one.kubectl("exec stays -c main -- cat /var/run/secrets/kubernetes.io/serviceaccount/token")
}

/// Whether the API server knows who shows this token.
fn is_good(one: &Board, token: &str) -> bool {
    let header = format!("Authorization: Bearer {}", token.trim());
    let mut curl = one.command("curl");
    curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "-H", &header]);
    output(curl.arg("https://10.99.0.1:6443/api")).stdout == b"200"
}

fn where_it_runs(one: &Board) -> Vec<String> {
    let line = "get pod -l app=moved --field-selector=status.phase=Running -o jsonpath={.items[*].spec.nodeName}";
    one.kubectl(line).split(' ').map(str::to_owned).collect()
}

#[test]
fn three_days_apart_both_sides_change_and_come_together_without_a_needless_restart() {
    let lan = Lan::new(1);
    let mut one = lan.board("partition", 0);
    one.start(&GRACE);
    let mut two = lan.board("partition", 0);
    two.always(&GRACE[2..]);
    two.join(&one, "pi-2");
    [&one, &two].into_iter().for_each(Board::load_tools);
    one.apply(&manifest());
    let _ = one.kubectl("wait pod --all --for=condition=Ready --timeout=60s");
    let _ = one.kubectl("rollout status deployment moved --timeout=60s");
    assert_eq!(where_it_runs(&one), ["pi-2"]);
    let before = pod(&one, "stays");
    let early = token(&one);
    assert!(is_good(&one, &early));

    lan.plug(2, false);
    let killed = Command::new("pkill").args(["-KILL", "-f", &format!("^sleep {CRASHES}$")]).status().expect("pkill");
    assert!(killed.success(), "its process was there");
    one.stop();
    one.environment("BRAMBLE_CLOCK_AHEAD_S", THREE_DAYS_S);
    one.start(&GRACE);
    one.eventually("the board is lost, and its pod replaced", 90, || {
        where_it_runs(&one).iter().any(|node| node == "pi-1").then_some(())
    });
    let _ = one.kubectl("delete pod doomed --wait=false");
    let _ = one.kubectl(r#"patch configmap words -p {"data":{"word":"after"}}"#);

    lan.plug(2, true);
    let begun = Instant::now();
    let told = |what: &str| println!("{what} {:.1} s after the line was whole", begun.elapsed().as_secs_f64());
    one.eventually("its pod is Ready again", 30, || {
        one.try_kubectl("wait pod stays --for=condition=Ready --timeout=1s").status.success().then_some(())
    });
    told("the pod that stayed is Ready");
    one.eventually("what was replaced and deleted is gone", 30, || {
        let gone = !one.try_kubectl("get pod doomed").status.success();
        (gone && one.kubectl("get pod -l app=moved -o name").lines().count() == 1).then_some(())
    });
    told("what was replaced and deleted is gone");
    // It was to be renewed after three quarters of an hour.
    one.eventually("its token is a new one", 30, || {
        Some(token(&one)).filter(|token| *token != early && is_good(&one, token)).map(drop)
    });
    told("the pod's token is a new one");
    one.eventually("it reads the new words", 60, || {
        (one.kubectl("exec stays -c main -- cat /words/word") == "after").then_some(())
    });
    told("the pod reads the new words");
    let after = pod(&one, "stays");
    assert_eq!(container(&after, "main"), container(&before, "main"), "nobody had a reason to restart it");
    assert_eq!(container(&after, "crashes").0, 1, "it crashed once, and was started without anybody's help");
    assert_eq!(where_it_runs(&one), ["pi-1"]);
}
