//! A board behind a NAT: its controller cannot reach it, and asks it over connections that the board opens.

use std::io::Write;
use std::process::{Child, Stdio};

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::lan::Lan;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  nodeName: pi-2
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: tests.local/tools:1
    command: [sh, -c, "mkdir /www; echo inside > /www/index.html; echo first; echo second; exec httpd -f -p 8080 -h /www"]
    ports: [{containerPort: 8080}]
  - name: echo
    image: tests.local/tools:1
    stdin: true
    command: [sh, -c, "while read line; do echo heard $line; done; exec sleep 100000"]
"#;

/// More than every buffer on the way there and back.
const MUCH: usize = 4 << 20;

fn start(board: &Board, arguments: &[&str]) -> Child {
    let mut command = board.command("timeout");
    command.arg("60").arg(&board.kubectl.path).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts")
}

/// Ctrl-C; what it has printed until then.
fn interrupt(child: Child) -> String {
    let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    let ended = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned()
}

#[test]
fn a_board_behind_a_nat_is_asked_over_a_connection_that_it_opens() {
    let lan = Lan::new(2);
    let (mut one, mut two) = (lan.board("nat", 0), lan.board("nat", 1));
    lan.masquerade(1);
    one.start(&[]);
    two.join(&one, "pi-2");
    two.load_tools();
    let direct = output(one.command("curl").args(["-sk", "--max-time", "2", "https://10.99.1.2:10250/healthz"]));
    assert!(!direct.status.success(), "the NAT lets nobody in");
    let opened = || two.log().matches("opened a connection for requests").count();
    assert_eq!(opened(), 0, "nothing is open as long as nobody asks");

    one.apply(PODS);
    let _ = one.kubectl("wait pod/box --for=condition=Ready --timeout=60s");
    assert_eq!(one.kubectl("logs box -c main"), "first\nsecond\n");
    assert!(one.kubectl("exec box -c main -- hostname").starts_with("box"));
    much_goes_both_ways(&one);
    attached(&one);
    forwarded(&one);
    let page = one.kubectl("get --raw /api/v1/namespaces/default/pods/box:8080/proxy/");
    assert_eq!(page, "inside\n", "a pod's own port, by the API server's proxy");
    assert!(one.kubectl("get --raw /api/v1/nodes/pi-2/proxy/pods").contains("\"name\":\"box\""));
    assert_eq!(opened(), 1, "one connection has carried it all; the board's log:\n{}", two.log());

    // Who may not be asked any more has nothing open any more.
    let _ = one.bramble("node revoke pi-2");
    two.eventually("its connection is ended", 20, || {
        two.log().contains("the connection for requests to this board ended").then_some(())
    });
}

fn much_goes_both_ways(one: &Board) {
    let bytes: Vec<u8> = (0..MUCH).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
    let mut child = start(one, &["exec", "-i", "box", "-c", "main", "--", "cat"]);
    let (mut stdin, input) = (child.stdin.take().expect("piped"), bytes.clone());
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let echoed = child.wait_with_output().expect("kubectl ends");
    writer.join().expect("written");
    assert!(echoed.status.success() && echoed.stdout == bytes, "{} of {MUCH} bytes came back", echoed.stdout.len());
}

fn attached(one: &Board) {
    let mut child = start(one, &["attach", "-i", "box", "-c", "echo"]);
    child.stdin.as_mut().expect("piped").write_all(b"hello\n").expect("written");
    one.eventually("the container has heard", 20, || {
        one.kubectl("logs box -c echo").contains("heard hello").then_some(())
    });
    let seen = interrupt(child);
    assert!(seen.contains("heard hello"), "{seen}");
}

fn forwarded(one: &Board) {
    let child = start(one, &["port-forward", "box", "18080:8080"]);
    one.eventually("the forwarded port answers", 20, || {
        let curl = output(one.command("curl").args(["-sS", "--max-time", "5", "http://127.0.0.1:18080/"]));
        (curl.stdout == b"inside\n").then_some(())
    });
    let _ = interrupt(child);
}
