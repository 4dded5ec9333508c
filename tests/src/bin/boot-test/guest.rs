//! What the boot tests ask of a board in the emulator, through its controller.

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::registry::{PASSWORD, USER};
use serde_json::{Value, json};

/// The port of the namespace that leads to the guest's NodePort.
pub(crate) const OUTSIDE: u16 = 18080;
/// Where the workload's Service listens on the board.
pub(crate) const NODE_PORT: u16 = 30080;
/// Emulated boards are slow.
pub(crate) const PATIENCE: u64 = 240;
/// How long the board that joins gives a new system.
pub(crate) const TRIAL_SECONDS: u64 = 60;
/// The board that joins.
pub(crate) const NODE: &str = "arm-1";

/// The board joins with a fresh token, and may pull without TLS from the test's registry.
pub(crate) fn join_config(board: &Board) -> String {
    let line = board.bramble("token create");
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("{name} in {line}"));
        words[at + 1]
    };
    format!(
        "role = \"agent\"\nnode-name = \"{NODE}\"\n[controller]\naddress = \"{}\"\ntoken = \"{}\"\nca-pin = \"{}\"\n\
         [registries]\ninsecure = [\"10.99.0.1:5000\"]\n[update]\ntrial-seconds = {TRIAL_SECONDS}\n",
        value("--server"),
        value("--token"),
        value("--ca-pin"),
    )
}

pub(crate) fn wait_for_node(board: &Board) {
    board.eventually("the node is Ready", PATIENCE, || {
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        (board.try_kubectl(&format!("get node {NODE} -o {ready}")).stdout == b"True").then_some(())
    });
}

pub(crate) fn wait_for_answer(board: &Board) {
    let url = format!("http://10.99.0.1:{OUTSIDE}/");
    board.eventually("the pod answers through its Service", PATIENCE, || {
        let answer = output(board.command("curl").args(["-sS", "--max-time", "5", &url]));
        answer.stdout.starts_with(b"Hello from hello").then_some(())
    });
}

pub(crate) fn deploy(board: &Board) {
    let auth = format!("--docker-server=10.99.0.1:5000 --docker-username={USER} --docker-password={PASSWORD}");
    let _ = board.kubectl(&format!("create secret docker-registry pull {auth}"));
    board.apply(&workload("10.99.0.1:5000/hello:1", Some(NODE)).to_string());
}

/// A pod under a Deployment and its Service, on a node if one is named.
pub(crate) fn workload(image: &str, node: Option<&str>) -> Value {
    let labels = json!({"app": "hello"});
    let spec = json!({
        "nodeName": node, "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"name": "hello", "image": image, "imagePullPolicy": "IfNotPresent"}],
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    });
    let ports = [json!({"port": 80, "targetPort": 8080, "nodePort": NODE_PORT})];
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"},
        "spec": {"type": "NodePort", "selector": labels, "ports": ports},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [deployment, service]})
}

/// A pod that may do everything on its board, as who administers it.
pub(crate) fn administrator(name: &str, arguments: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "hostPID": true, "restartPolicy": "Never", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "dev", "hostPath": {"path": "/dev"}}],
            "containers": [{
                "name": "bramble", "image": "10.99.0.1:5000/hello:1", "command": ["/bramble"], "args": arguments,
                "securityContext": {"privileged": true},
                "volumeMounts": [{"name": "dev", "mountPath": "/dev"}],
            }],
        },
    })
}

pub(crate) fn run(board: &Board, name: &str, arguments: &[&str]) {
    board.apply(&administrator(name, arguments).to_string());
}

pub(crate) fn install(board: &Board, name: &str, from: &str) {
    run(board, name, &["slot", "install", from]);
    board.eventually("the update is installed", PATIENCE, || {
        let phase = board.kubectl(&format!("get pod {name} -o jsonpath={{.status.phase}}"));
        assert_ne!(phase, "Failed", "the installer failed");
        (phase == "Succeeded").then_some(())
    });
}
