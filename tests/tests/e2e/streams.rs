//! exec, attach, cp, port-forward, run and logs with every kubectl of this machine: SPDY/3.1 up to 1.30, WebSocket since.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use bramble_tests::board::Board;
use bramble_tests::image::TOOLS;
use bramble_tests::kubectl::Kubectl;

/// More than every buffer on the way there and back.
const MUCH: usize = 8 << 20;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: tests.local/tools:1
    command: [sh, -c, "echo first; echo second; echo third >&2; exec sleep 100000"]
  - name: echo
    image: tests.local/tools:1
    stdin: true
    command: [sh, -c, "while read line; do echo heard $line; done; exec sleep 100000"]
  - name: terminal
    image: tests.local/tools:1
    stdin: true
    tty: true
    command: [sh, -c, "while read line; do echo heard $line; done; exec sleep 100000"]
---
apiVersion: v1
kind: Pod
metadata: {name: crash, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "tests.local/tools:1", command: [sh, -c, "echo so long; exit 3"]}
"#;

#[test]
fn streams_and_logs_with_every_kubectl() {
    let mut board = Board::up("streams", &["--demo"]);
    board.load_tools();
    board.apply(PODS);
    let _ = board.kubectl("wait pod/box --for=condition=Ready --timeout=60s");
    board.wait_for_line("bramble: demo: http://");
    logs(&board);
    for kubectl in Kubectl::all() {
        eprintln!("kubectl {}", kubectl.version);
        board.kubectl = kubectl;
        exec(&board);
        attach_and_run(&board);
        copy(&board);
        port_forward(&board);
    }
}

fn start(board: &Board, arguments: &[&str]) -> Child {
    let mut command = board.command("timeout");
    command.arg("60").arg(&board.kubectl.path).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts")
}

/// Runs kubectl with bytes on its standard input.
fn with_input(board: &Board, arguments: &[&str], input: Vec<u8>) -> Output {
    let mut child = start(board, arguments);
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("kubectl ends");
    writer.join().expect("written");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn exec(board: &Board) {
    assert!(board.kubectl("exec deployment/hello -- /bramble --version").starts_with("bramble "));

    let script = ["exec", "box", "-c", "main", "--", "sh", "-c", "echo out; echo err >&2; exit 7"];
    let ended = with_input(board, &script, Vec::new());
    assert_eq!((ended.status.code(), text(&ended.stdout)), (Some(7), "out\n".into()), "{}", text(&ended.stderr));
    assert!(text(&ended.stderr).contains("err\ncommand terminated with exit code 7"), "{}", text(&ended.stderr));

    // Neither direction may wait for the other.
    let bytes: Vec<u8> = (0..MUCH).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
    let echoed = with_input(board, &["exec", "-i", "box", "-c", "main", "--", "cat"], bytes.clone());
    assert!(echoed.status.success() && echoed.stdout == bytes, "{} of {MUCH} bytes came back", echoed.stdout.len());

    // `script` gives kubectl a terminal.
    let kubectl = board.kubectl.path.display();
    let line = format!("{kubectl} exec -it box -c main -- sh -c 'tty; stty size; exit 4'");
    let line = format!("stty cols 97 rows 31; {line}");
    let terminal = board.command("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let terminal = terminal.expect("script runs (bsdutils)");
    assert_eq!(terminal.status.code(), Some(4));
    assert!(text(&terminal.stdout).contains("/dev/pts/"), "{}", text(&terminal.stdout));

    for (line, words) in [
        ("exec crash -- ls", "unable to upgrade connection: container not found (\"main\")"),
        ("exec nobody -- ls", "Error from server (NotFound): pods \"nobody\" not found"),
        // kubectl 1.36 looks for itself and says the same words.
        ("exec box -c none -- ls", "container none is not valid for pod box"),
        ("exec box -c main -- /none", "exec: \"/none\": stat /none: no such file or directory"),
    ] {
        // A crashing container runs now and then.
        board.eventually(words, 30, || text(&board.try_kubectl(line).stderr).contains(words).then_some(()));
    }
}

fn attach_and_run(board: &Board) {
    // Without a terminal of its own, kubectl asks for three plain streams also of a container that has one.
    for container in ["echo", "terminal"] {
        let mut attached = start(board, &["attach", "-i", "box", "-c", container]);
        let mut stdin = attached.stdin.take().expect("piped");
        let mark = format!("mark-{}", board.kubectl.minor());
        stdin.write_all(format!("{mark}\n").as_bytes()).expect("written");
        board.eventually("the container has heard", 20, || {
            board.kubectl(&format!("logs box -c {container}")).contains(&format!("heard {mark}")).then_some(())
        });
        interrupt(attached.id());
        let seen = attached.wait_with_output().expect("it ends");
        assert!(text(&seen.stdout).contains(&format!("heard {mark}")), "{container}: {}", text(&seen.stdout));
    }

    let name = format!("run-{}", board.kubectl.minor());
    let run = ["run", &name, "--image", TOOLS, "--rm", "-i", "--restart=Never", "--"];
    let script = ["sh", "-c", "read line; echo got $line; exit 5"];
    let ended = with_input(board, &[&run[..], &script[..]].concat(), b"something\n".to_vec());
    assert_eq!(ended.status.code(), Some(5), "{}", text(&ended.stderr));
    assert!(text(&ended.stdout).contains("got something"), "{}", text(&ended.stdout));
}

fn copy(board: &Board) {
    let (here, back) = (board.dir().join("here"), board.dir().join("back"));
    let bytes: Vec<u8> = (0..MUCH / 4).map(|at| u8::try_from(at % 249).expect("a byte")).collect();
    std::fs::write(&here, &bytes).expect("written");
    let _ = board.kubectl(&format!("cp {} box:/tmp/there -c main", here.display()));
    let _ = board.kubectl(&format!("cp box:/tmp/there {} -c main", back.display()));
    assert!(std::fs::read(&back).expect("copied back") == bytes);
}

fn port_forward(board: &Board) {
    // A service's port is a pod's target port.
    let forward = start(board, &["port-forward", "service/hello", "18080:80"]);
    let fetch = || {
        let curl = board.command("curl").args(["-sS", "--max-time", "5", "http://127.0.0.1:18080/"]).output();
        let answer = text(&curl.expect("curl runs").stdout);
        answer.starts_with("Hello from hello-").then_some(())
    };
    board.eventually("the forwarded port answers", 20, fetch);
    for _ in 0..3 {
        assert!(fetch().is_some(), "every connection is forwarded");
    }
    interrupt(forward.id());
    let _ = forward.wait_with_output();
}

/// Ctrl-C for a child of ours.
fn interrupt(pid: u32) {
    let _ = Command::new("kill").args(["-INT", &pid.to_string()]).status();
}

fn logs(board: &Board) {
    assert_eq!(board.kubectl("logs box -c main --tail=2"), "second\nthird\n");
    assert_eq!(board.kubectl("logs box -c main --limit-bytes=8"), "first\nse");
    let stamped = board.kubectl("logs box -c main --tail=1 --timestamps");
    let (stamp, line) = stamped.split_once(' ').expect("a time, then the line");
    assert!(stamp.ends_with('Z') && stamp.starts_with("20") && line == "third\n", "{stamped}");
    assert_eq!(board.kubectl("logs box -c main --since-time=2020-01-01T00:00:00Z").lines().count(), 3);
    assert_eq!(board.kubectl("logs box -c main --since-time=2100-01-01T00:00:00Z"), "");
    let all = board.kubectl("logs -l app=box --all-containers --prefix --ignore-errors");
    assert!(all.contains("[pod/box/main] second"), "{all}");
    board.eventually("the crashed run's log", 60, || {
        let previous = board.try_kubectl("logs crash --previous");
        (previous.status.success() && previous.stdout == b"so long\n").then_some(())
    });

    // A follower hears what is written later, and ends with the container.
    let manifest =
        PODS.split("---").next().expect("one").replace("name: box", "name: told").replace("app: box", "a: b");
    board.apply(&manifest.replace("exec sleep 100000\"]\n  - name: echo", "sleep 3; echo late\"]\n  - name: echo"));
    let _ = board.kubectl("wait pod/told --for=condition=PodReadyToStartContainers --timeout=60s");
    board.eventually("its first line", 30, || {
        board.try_kubectl("logs told -c main").stdout.starts_with(b"first").then_some(())
    });
    let followed = with_input(board, &["logs", "-f", "told", "-c", "main"], Vec::new());
    assert_eq!(text(&followed.stdout), "first\nsecond\nthird\nlate\n");
    let wrong = board.try_kubectl("logs box -c main --previous");
    let words = "Error from server (BadRequest): previous terminated container \"main\" in pod \"box\" not found";
    assert!(text(&wrong.stderr).starts_with(words), "{}", text(&wrong.stderr));
}
