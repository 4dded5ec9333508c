//! Security contexts: what a process in a container is, and may not.

use bramble_tests::board::Board;

use super::{TOOLS, board, field, sh, wait_field, wait_ready};

/// A pod that may least, one that may what all may, one with a capability more, one that may all, and one that may not be root.
fn pods() -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: strict}}
spec:
  securityContext: {{runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567], runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  volumes: [{{name: data, emptyDir: {{}}}}]
  containers:
  - name: main
    image: {TOOLS}
    command: [sh, -c, "id > /data/id; exec sleep infinity"]
    volumeMounts: [{{name: data, mountPath: /data}}]
    securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: usual}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, infinity], securityContext: {{seccompProfile: {{type: RuntimeDefault}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: added}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, infinity], securityContext: {{capabilities: {{add: [NET_ADMIN], drop: [CHOWN]}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: privileged}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, infinity], securityContext: {{privileged: true}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: rootless}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, infinity], securityContext: {{runAsNonRoot: true}}}}
"#
    )
}

/// A field of a process's status in a pod's container.
fn status(board: &Board, pod: &str, process: &str, name: &str) -> String {
    let line = format!("sed -n 's/^{name}:[[:space:]]*//p' /proc/{process}/status");
    sh(board, pod, &line).trim().to_owned()
}

#[test]
fn security_contexts_hold_for_containers_and_for_exec() {
    let board = board("security", &[]);
    board.apply(&pods());
    for pod in ["strict", "usual", "added", "privileged"] {
        wait_ready(&board, &format!("pod/{pod}"));
    }
    users_and_groups_are_those_given(&board);
    rights_are_those_given(&board);
    what_is_closed_is_closed(&board);
    who_may_not_be_root_is_not_started_as_root(&board);
}

fn users_and_groups_are_those_given(board: &Board) {
    let id = sh(board, "strict", "cat /data/id; id");
    for line in id.lines() {
        assert!(line.starts_with("uid=1234 gid=2345 groups="), "{line}");
        assert!(line.contains("3456") && line.contains("4567"), "{line}");
    }
    assert_eq!(id.lines().count(), 2, "the first process and exec agree");
    assert_eq!(sh(board, "strict", "stat -c %g /data"), "3456\n", "fsGroup owns the volume");
    assert!(sh(board, "strict", "touch /x 2>&1 || true").contains("Read-only file system"));
}

fn rights_are_those_given(board: &Board) {
    for process in ["1", "self"] {
        assert_eq!(status(board, "strict", process, "Seccomp"), "2", "seccomp filters in {process}");
        assert_eq!(status(board, "strict", process, "NoNewPrivs"), "1");
        assert_eq!(status(board, "strict", process, "CapEff"), "0000000000000000");
        assert_eq!(status(board, "strict", process, "CapBnd"), "0000000000000000");
        assert_eq!(status(board, "usual", process, "Seccomp"), "2");
        // The fourteen of Docker and containerd.
        assert_eq!(status(board, "usual", process, "CapEff"), "00000000a80425fb");
        // NET_ADMIN is bit 12, CHOWN is bit 0.
        assert_eq!(status(board, "added", process, "CapEff"), "00000000a80435fa");
    }
}

fn what_is_closed_is_closed(board: &Board) {
    let refused = sh(board, "usual", "unshare -U true 2>&1 || true");
    assert!(refused.contains("Operation not permitted"), "seccomp refuses a user namespace in exec: {refused}");
    assert!(sh(board, "usual", "mount -t tmpfs x /tmp 2>&1 || true").contains("denied"), "no mounting");
    assert!(sh(board, "usual", "(echo x > /proc/sys/kernel/hostname) 2>&1 || true").contains("Read-only"));
    assert_eq!(sh(board, "usual", "cat /proc/keys /proc/timer_list | wc -c").trim(), "0", "kernel memory is masked");
    assert_eq!(sh(board, "added", "ip addr add 192.0.2.1/32 dev lo && echo made").trim(), "made");
    assert_eq!(status(board, "privileged", "self", "Seccomp"), "0");
    assert_eq!(sh(board, "privileged", "mount -t tmpfs x /tmp && echo mounted").trim(), "mounted");
}

fn who_may_not_be_root_is_not_started_as_root(board: &Board) {
    let waiting = ".status.containerStatuses[0].state.waiting";
    wait_field(board, "pod/rootless", &format!("{waiting}.reason"), "CreateContainerConfigError");
    let message = field(board, "pod/rootless", &format!("{waiting}.message"));
    assert!(
        message.starts_with("container has runAsNonRoot and image will run as root (pod: \"rootless_default("),
        "{message}"
    );
}
