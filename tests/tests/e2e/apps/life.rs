//! The life of a pod: init containers, environment, volumes, hooks, restarts, its end.

use std::path::Path;

use super::{Board, TOOLS, board, field, sh, wait, wait_event, wait_field, wait_ready};

/// Objects that the pods below refer to.
const OBJECTS: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, file.conf: 'first'}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {token: s3cret}
---
";

/// A pod with every kind of volume and of environment.
const VOLUMES: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: all, labels: {app: all}, annotations: {note: "mind the gap"}}
spec:
  initContainers:
  - {name: first, image: TOOLS, command: [sh, -c, "echo one > /shared/order"], volumeMounts: [&shared {name: shared, mountPath: /shared}]}
  - {name: second, image: TOOLS, command: [sh, -c, "echo two >> /shared/order"], volumeMounts: [*shared]}
  containers:
  - name: main
    image: TOOLS
    command: [sleep, infinity]
    env:
    - {name: PLAIN, value: "plain"}
    - {name: COMPOSED, value: "$(PLAIN)-$(COLOUR)-$$(PLAIN)-$(NOBODY)"}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: LATE, value: "$(COLOUR)"}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: nothing, key: x, optional: true}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    envFrom: [{prefix: CFG_, configMapRef: {name: settings}}]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    volumeMounts:
    - *shared
    - {name: settings, mountPath: /etc/settings}
    - {name: keys, mountPath: /etc/keys, readOnly: true}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
    - {name: mixed, mountPath: /mixed}
    - {name: settings, mountPath: /one.conf, subPath: file.conf}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: host, hostPath: {path: HOST, type: Directory}}
  - name: mixed
    projected:
      sources:
      - serviceAccountToken: {audience: vault, expirationSeconds: 600, path: token}
      - configMap: {name: settings, items: [{key: colour, path: a/b/colour}]}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
"#;

/// Pods that fail, end and change in every way.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  containers:
  - {name: main, image: TOOLS, command: [sh, -c, "echo try; echo because > /dev/termination-log; exit 3"]}
---
apiVersion: v1
kind: Pod
metadata: {name: fallback}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: TOOLS, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo last words; exit 4"]}
---
apiVersion: v1
kind: Pod
metadata: {name: onfailure}
spec:
  restartPolicy: OnFailure
  volumes: [{name: memory, emptyDir: {}}]
  containers:
  - name: main
    image: TOOLS
    volumeMounts: [{name: memory, mountPath: /memory}]
    command: [sh, -c, "test -e /memory/once && exit 0; touch /memory/once; exit 1"]
---
apiVersion: v1
kind: Pod
metadata: {name: initfails}
spec:
  initContainers: [{name: first, image: TOOLS, command: ["false"]}]
  containers: [{name: main, image: TOOLS, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nocommand}
spec:
  containers: [{name: main, image: TOOLS, command: [/does/not/exist]}]
---
apiVersion: v1
kind: Pod
metadata: {name: noconfig}
spec:
  containers:
  - name: main
    image: TOOLS
    command: [sleep, infinity]
    env: [{name: X, valueFrom: {configMapKeyRef: {name: later, key: x}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: hooked}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{name: trail, hostPath: {path: TRAIL, type: DirectoryOrCreate}}]
  containers:
  - name: main
    image: TOOLS
    volumeMounts: [{name: trail, mountPath: /trail}]
    command: [sh, -c, "trap 'echo term >> /trail/all; exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo poststart >> /trail/all"]}}
      preStop: {exec: {command: [sh, -c, "echo prestop >> /trail/all"]}}
---
apiVersion: v1
kind: Pod
metadata: {name: badhook}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: TOOLS
    command: [sleep, infinity]
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo no; exit 7"]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: main, image: TOOLS, command: [sh, -c, "trap '' TERM; while :; do sleep 0.1; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: TOOLS
    command: [sh, -c, "touch /tmp/ready; mkdir /tmp/www; echo fine > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 1}
"#;

#[test]
fn environment_and_volumes_are_as_written_and_follow_changes() {
    let board = board("volumes", &[]);
    let host = board.dir().join("host");
    std::fs::create_dir_all(&host).expect("a directory");
    std::fs::write(host.join("from-host"), "hello from the host").expect("written");
    let pod = VOLUMES.replace("image: TOOLS", &format!("image: {TOOLS}"));
    let pod = pod.replace("path: HOST", &format!("path: {}", host.display()));
    board.apply(&[OBJECTS, &pod].concat());
    wait_ready(&board, "pod/all");
    environment(&board);
    volumes(&board, &host);
    changes(&board);
}

fn environment(board: &Board) {
    let environment = sh(board, "all", "env");
    let ip = field(board, "pod/all", ".status.podIP");
    for line in [
        "PLAIN=plain",
        "COMPOSED=plain-$(COLOUR)-$(PLAIN)-$(NOBODY)",
        "LATE=blue",
        "TOKEN=s3cret",
        "POD=all",
        "SPACE=default",
        "NODE=pi-1",
        &format!("IP={ip}"),
        "HOST_IP=10.99.0.1",
        "NOTE=mind the gap",
        "MEMORY=64",
        "CFG_colour=blue",
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
        "HOSTNAME=all",
    ] {
        assert!(environment.lines().any(|found| found == line), "{line} is not in\n{environment}");
    }
    assert!(!environment.contains("ABSENT="));
}

fn volumes(board: &Board, host: &Path) {
    assert_eq!(sh(board, "all", "cat /shared/order"), "one\ntwo\n");
    assert_eq!(sh(board, "all", "cat /etc/keys/token; stat -L -c %a /etc/keys/token"), "s3cret400\n");
    assert_eq!(sh(board, "all", "cat /host/from-host; echo back > /host/from-pod"), "hello from the host");
    assert_eq!(std::fs::read_to_string(host.join("from-pod")).expect("written by the pod"), "back\n");
    let filled = sh(board, "all", "dd if=/dev/zero of=/memory/x bs=64k count=64 2>/dev/null; stat -c %s /memory/x");
    assert_eq!(filled, "1048576\n", "a volume in memory keeps to its size");
    assert_eq!(sh(board, "all", "cat /mixed/a/b/colour /mixed/labels"), "blueapp=\"all\"");
    assert!(sh(board, "all", "touch /etc/settings/x 2>&1 || true").contains("Read-only"));
    let claims = "cut -d. -f2 /mixed/token | tr _- /+ | sed 's/$/==/' | base64 -d 2>/dev/null || true";
    let claims = sh(board, "all", claims);
    assert!(claims.contains(r#""aud":["vault"]"#) && claims.contains(r#""name":"all""#), "{claims}");
}

/// What a volume shows follows its source; what a process was given at its start does not.
fn changes(board: &Board) {
    let patch = board.dir().join("patch.json");
    std::fs::write(&patch, r#"{"data":{"colour":"red","file.conf":"second"}}"#).expect("written");
    let _ = board.kubectl(&format!("patch configmap settings --patch-file {}", patch.display()));
    let _ = board.kubectl("label pod all more=yes");
    board.eventually("volumes follow", 60, || {
        let seen =
            sh(board, "all", "cat /etc/settings/file.conf /mixed/a/b/colour; grep -c more /mixed/labels || true");
        (seen == "secondred1\n").then_some(())
    });
    assert_eq!(sh(board, "all", "cat /one.conf"), "first", "a file mounted by subPath stays");
    assert!(sh(board, "all", "env").contains("COLOUR=blue"), "and so does the environment");
}

#[test]
fn containers_start_crash_and_end_as_told() {
    let board = board("life", &[]);
    let trail = board.dir().join("trail");
    let pods = PODS.replace("image: TOOLS", &format!("image: {TOOLS}"));
    board.apply(&pods.replace("path: TRAIL", &format!("path: {}", trail.display())));
    restarts(&board);
    mistakes(&board);
    endings(&board, &trail);
    probes(&board);
}

/// The first container's part of the status.
const FIRST: &str = ".status.containerStatuses[0]";

fn restarts(board: &Board) {
    wait_field(board, "pod/crash", &format!("{FIRST}.state.waiting.reason"), "CrashLoopBackOff");
    let message = field(board, "pod/crash", &format!("{FIRST}.state.waiting.message"));
    assert!(message.starts_with("back-off 10s restarting failed container=main pod=crash_default("), "{message}");
    let last = field(board, "pod/crash", &format!("{FIRST}.lastState.terminated"));
    for words in [r#""exitCode":3"#, r#""message":"because\n""#, r#""reason":"Error""#] {
        assert!(last.contains(words), "{last}");
    }
    assert_eq!(board.kubectl("logs crash --previous"), "try\n");
    wait_field(board, "pod/fallback", ".status.phase", "Failed");
    let words = field(board, "pod/fallback", &format!("{FIRST}.state.terminated.message"));
    assert_eq!(words, "last words\n");
    wait_field(board, "pod/onfailure", ".status.phase", "Succeeded");
    assert_eq!(field(board, "pod/onfailure", &format!("{FIRST}.restartCount")), "1");
    let waiting = ".status.initContainerStatuses[0].state.waiting.reason";
    wait_field(board, "pod/initfails", waiting, "CrashLoopBackOff");
    assert_eq!(field(board, "pod/initfails", &format!("{FIRST}.state.waiting.reason")), "PodInitializing");
    let shown = board.kubectl("get pod initfails");
    assert!(shown.contains("Init:CrashLoopBackOff"), "{shown}");
}

fn mistakes(board: &Board) {
    wait_event(board, "nocommand", "Failed", "/does/not/exist");
    wait_field(board, "pod/noconfig", &format!("{FIRST}.state.waiting.reason"), "CreateContainerConfigError");
    let message = field(board, "pod/noconfig", &format!("{FIRST}.state.waiting.message"));
    assert_eq!(message, r#"configmap "later" not found"#);
    let _ = board.kubectl("create configmap later --from-literal=x=1");
    wait_ready(board, "pod/noconfig");
}

fn endings(board: &Board, trail: &Path) {
    wait_ready(board, "pod/hooked");
    let _ = board.kubectl("delete pod hooked");
    let trail = std::fs::read_to_string(trail.join("all")).expect("the hooks wrote");
    assert_eq!(trail, "poststart\nprestop\nterm\n");
    wait_event(board, "badhook", "FailedPostStartHook", "PostStartHook failed");
    wait_ready(board, "pod/stubborn");
    let _ = board.kubectl("delete pod stubborn --timeout=30s");
}

fn probes(board: &Board) {
    wait_ready(board, "pod/probed");
    let _ = sh(board, "probed", "rm /tmp/ready");
    wait(board, "pod/probed", "condition=Ready=false");
    let _ = sh(board, "probed", "touch /tmp/ready; mv /tmp/www/index.html /tmp/");
    wait_field(board, "pod/probed", &format!("{FIRST}.restartCount"), "1");
    wait_event(board, "probed", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 404");
    wait_event(board, "probed", "Unhealthy", "Readiness probe failed: cat: can't open '/tmp/ready'");
    wait_ready(board, "pod/probed");
}
