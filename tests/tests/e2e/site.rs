//! A site that is described: what kubectl sees of zones, providers, routes and volumes. Its cluster is the balancer's.

use bramble_tests::board::Board;
use bramble_tests::host::{binary, output};

/// Two boards by name, the third by its address.
const SITE: &str = r#"
region = "home"

[[zone]]
name = "attic"
boards = ["pi-1", "pi-[2]"]

[[instance-type]]
name = "netns"
boards = ["pi-*"]
"#;

const CELLAR: &str = "[[zone]]\nname = \"cellar\"\nnetworks = [\"10.99.0.0/24\"]\n";

/// One on a board, one that says its zone, and a claim of the first one's class.
const STORAGE: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: card}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: on-a-board}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: card
  local: {path: /srv}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [pi-3]}]
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: in-a-zone, labels: {topology.kubernetes.io/zone: attic}}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /srv}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: card
  resources: {requests: {storage: 1Gi}}
"#;

/// Writes the file into the board's directory; a mistake in it is told, and nothing starts.
pub(crate) fn described(board: &Board) -> String {
    let path = board.dir().join("site.toml");
    std::fs::write(&path, SITE).expect("written");
    let mut up = board.command(binary());
    let told = output(up.args(["up", "--site"]).arg(&path).args(board.directories()));
    let stderr = String::from_utf8_lossy(&told.stderr);
    assert!(!told.status.success() && stderr.contains("site.toml, line 6: \"pi-[2]\" is no board's name"), "{stderr}");
    std::fs::write(&path, format!("{}{CELLAR}", SITE.replace("pi-[2]", "pi-2"))).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

/// Three boards have joined, the first of which waited for its provider.
pub(crate) fn told_by_the_provider(one: &Board) {
    let label = |name: &str| format!("metadata.labels.{}", name.replace('.', "\\."));
    for (path, wanted) in [
        (label("topology.kubernetes.io/zone"), "attic attic cellar"),
        (label("topology.kubernetes.io/region"), "home home home"),
        (label("node.kubernetes.io/instance-type"), "netns netns netns"),
        ("spec.providerID".into(), "bramble://pi-1 bramble://pi-2 bramble://pi-3"),
        ("spec.taints[*].key".into(), ""),
        (
            "status.conditions[?(@.type==\"NetworkUnavailable\")].reason".into(),
            "RouteCreated RouteCreated RouteCreated",
        ),
    ] {
        let seen = || one.kubectl(&format!("get nodes -o jsonpath={{.items[*].{path}}}"));
        one.eventually(&format!("{path} is {wanted}"), 30, || (seen() == wanted).then_some(()));
    }
    let told = one.kubectl("describe node pi-1");
    assert!(told.contains("Node synced successfully"), "{told}");
    let told = one.kubectl("describe node pi-2");
    assert!(!told.contains("Node synced successfully"), "it was told nothing and waited for nobody: {told}");
    ranges_that_collide(one);
    volumes(one);
}

/// A Node that claims another board's pods gets none of their traffic, and is told so.
fn ranges_that_collide(one: &Board) {
    let range = one.kubectl("get node pi-2 -o jsonpath={.spec.podCIDR}");
    let route = || one.succeed(&["ip", "route", "show", &range]);
    let before = one.eventually("the older board has its route", 20, || Some(route()).filter(|it| !it.is_empty()));
    one.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: ghost}}\nspec: {{podCIDR: {range}, podCIDRs: [{range}]}}\n"
    ));
    let address = r#"{"status":{"addresses":[{"type":"InternalIP","address":"10.99.0.77"}]}}"#;
    let _ = one.kubectl(&format!("patch node ghost --subresource=status -p {address}"));
    let told = one.eventually("the younger one is told", 20, || {
        Some(one.kubectl("describe node ghost")).filter(|told| told.contains("FailedToCreateRoute"))
    });
    assert!(told.contains("NoRouteCreated") && told.contains("of node pi-2, which was there before"), "{told}");
    one.eventually("and takes no pods", 20, || {
        let taints = one.kubectl("get node ghost -o jsonpath={.spec.taints[*].key}");
        taints.contains("network-unavailable").then_some(())
    });
    one.eventually("the older one keeps its route", 10, || (route() == before).then_some(()));
    let _ = one.kubectl("delete node ghost");
}

fn volumes(one: &Board) {
    one.apply(STORAGE);
    let seen = one.eventually("a volume lies where its board stands", 20, || {
        let seen = one.kubectl("get pv on-a-board -L topology.kubernetes.io/zone,topology.kubernetes.io/region");
        seen.contains("cellar").then_some(seen)
    });
    let words: Vec<&str> = seen.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(words[..4], ["on-a-board", "1Gi", "RWO", "Retain"], "{seen}");
    assert!(words.contains(&"card") && words.ends_with(&["cellar", "home"]), "{seen}");
    let term = "{.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]}";
    one.eventually("a volume is used in its zone", 20, || {
        (one.kubectl(&format!("get pv in-a-zone -o jsonpath={term}")) == "attic").then_some(())
    });
    let told = one.kubectl("get pvc,sc");
    assert!(told.contains("persistentvolumeclaim/data") && told.contains("WaitForFirstConsumer"), "{told}");
}

/// A board that is shut down in order keeps new pods away at once, and takes them again when it is back.
pub(crate) fn a_board_is_shut_down(one: &Board, board: &mut Board, name: &str) {
    let taint = "node.cloudprovider.kubernetes.io/shutdown";
    let taints = || one.kubectl(&format!("get node {name} -o jsonpath={{.spec.taints[*].key}}"));
    std::fs::write(board.dir().join("run/shutdown"), "").expect("written");
    board.stop();
    one.eventually("a board that was shut down is tainted", 10, || taints().contains(taint).then_some(()));
    let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}";
    assert_eq!(one.kubectl(&format!("get node {name} -o {ready}")), "node is shutting down");
    board.start_alone("10.99.0.1", name);
    one.eventually("a board that is back is free", 30, || taints().is_empty().then_some(()));
}
