//! `kill -9` at bad moments: no healthy container restarts, logs are kept, clients go on, nothing acknowledged is lost,
//! nothing is stuck, nothing is left.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bramble_tests::board::{Board, Traces};
use bramble_tests::client::{Client, Follower, Story};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a process id");
    // One that has just ended by itself is as dead.
    let _ = kill_process(pid, signal);
}

fn demonstration(test: &str) -> Board {
    let board = Board::up(test, &["--demo"]);
    board.wait_for_line("bramble: demo: http://");
    board
}

/// Four replicas of the demonstration's image.
fn web() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": "web", "image": "bramble.local/hello:demo", "imagePullPolicy": "Never",
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
                }],
            }},
        },
    })
}

/// A pod with a shell of this machine in it, which ends with 42 when it is asked to.
fn shell(name: &str) -> Value {
    let folders = ["/bin", "/usr", "/lib", "/lib64"];
    let folders: Vec<&str> = folders.into_iter().filter(|folder| std::path::Path::new(folder).exists()).collect();
    let volume = |path: &&str| json!({"name": path.trim_matches('/'), "hostPath": {"path": path}});
    let mount = |path: &&str| json!({"name": path.trim_matches('/'), "mountPath": path, "readOnly": true});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "volumes": folders.iter().map(volume).collect::<Vec<_>>(),
            "containers": [{
                "name": "shell", "image": "bramble.local/hello:demo", "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", "trap 'echo asked; exit 42' TERM; echo begun; while :; do sleep 0.1; done"],
                "volumeMounts": folders.iter().map(mount).collect::<Vec<_>>(),
            }],
        },
    })
}

/// Name, container id and restarts of every pod with a label.
fn containers(board: &Board, app: &str) -> String {
    let columns = "{range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} \
                   {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let mut command = board.command(&board.kubectl.path);
    command.args(["get", "pods", "-l", &format!("app={app}"), "-o", &format!("jsonpath={columns}")]);
    bramble_tests::host::succeed(&mut command)
}

/// Waits until the rollout has brought up so many pods of the new template, or has finished.
fn wait_for_moment(board: &Board, client: &Client, updated: i64) {
    board.eventually("the rollout goes on", 30, || {
        let deployment = client.get(WEB)?;
        let (status, generation) = (&deployment["status"], deployment["metadata"]["generation"].as_i64());
        (status["observedGeneration"].as_i64() == generation && status["updatedReplicas"].as_i64() >= Some(updated))
            .then_some(())
    });
}

/// Creates ConfigMaps until it is told to stop; the names that were acknowledged.
fn create_all_the_while(client: Client, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let (mut acknowledged, mut connection, mut number) = (Vec::new(), None, 0);
        while !stop.load(Ordering::SeqCst) {
            number += 1;
            let name = format!("kept-{number}");
            let object = json!({"metadata": {"name": name}, "data": {"number": number.to_string()}});
            connection = connection.or_else(|| client.connect().ok());
            let answer = connection.as_mut().map(|it| it.call("POST", MAPS, Some(&object)));
            match answer {
                Some(Ok((201, _))) => acknowledged.push(name),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => connection = None,
            }
            // A few a second: this is a test of what stays, not of speed.
            std::thread::sleep(std::time::Duration::from_millis(40));
        }
        acknowledged
    })
}

fn kubectl_in_the_background(board: &Board, line: &str) -> Child {
    let mut command: Command = board.command(&board.kubectl.path);
    command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("kubectl starts")
}

/// Byte by byte, so that the rest stays in the pipe.
fn first_line(child: &mut Child) -> String {
    let stdout = child.stdout.as_mut().expect("piped");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stdout.read(&mut byte).expect("it says something") == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    String::from_utf8(line).expect("UTF-8")
}

fn words_of(child: Child) -> (bool, String) {
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Kills by name; what `up` watches over comes back by itself.
fn strike(board: &mut Board, victim: &str) {
    match victim {
        "both" => {
            for daemon in ["controller", "agent"] {
                strike(board, daemon);
            }
        }
        "shims" => board.shims().into_iter().for_each(|pid| kill(pid, Signal::KILL)),
        "supervisor" => {
            board.crash();
            board.start(&[]);
        }
        daemon => {
            let pid = board.eventually("the victim runs", 30, || board.pid(daemon));
            kill(pid, Signal::KILL);
        }
    }
}

/// No pod ever showed a second running container, or an end that nobody asked for. One that was killed together with the
/// shim that was about to start it never ran; it counts as a restart, as upstream's does.
fn assert_undisturbed(story: &Story) {
    assert_eq!(story.wrong, Vec::<String>::new());
    for states in story.states.values() {
        let mut ran: Vec<&str> = Vec::new();
        for state in states {
            let status = &state["status"]["containerStatuses"][0];
            let leaving = !state["metadata"]["deletionTimestamp"].is_null();
            assert!(leaving || state["status"]["phase"] != "Failed", "a healthy pod failed: {}", state["status"]);
            let id = status["containerID"].as_str().filter(|_| !status["state"]["running"].is_null());
            if let Some(id) = id.filter(|id| !ran.contains(id)) {
                ran.push(id);
            }
        }
        let last = states.last().map(|state| &state["status"]);
        assert!(ran.len() <= 1, "one container became {ran:?}: {last:?}");
    }
}

#[test]
fn no_kill_disturbs_a_rolling_update() {
    let mut board = demonstration("rolling");
    let client = Client::of(&board);
    board.apply(&web().to_string());
    let _ = board.kubectl("rollout status deployment/web --timeout=60s");
    let one = board.kubectl("get pods -l app=hello -o jsonpath={.items[0].metadata.name}");
    let (before, log_before) = (containers(&board, "hello"), board.kubectl(&format!("logs {one}")));
    assert!(log_before.contains("hello listens"), "{log_before}");
    let follower = Follower::start(client.clone(), PODS);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = create_all_the_while(client.clone(), stop.clone());

    let rounds: [(&str, &[(i64, &str)]); 5] = [
        ("agent", &[(1, "agent"), (3, "agent")]),
        ("shim", &[(2, "shims")]),
        ("controller", &[(1, "controller"), (3, "controller")]),
        ("both", &[(2, "both")]),
        ("supervisor", &[(2, "supervisor")]),
    ];
    for (round, kills) in rounds {
        let watching = (round == "agent").then(|| kubectl_in_the_background(&board, "get pods -l app=web -w"));
        let _ = board.kubectl(&format!("set env deployment/web ROUND={round}"));
        // kubectl's own informer goes through the outages, once it has begun.
        let mut waiting = kubectl_in_the_background(&board, "rollout status deployment/web --timeout=60s");
        let begun = first_line(&mut waiting);
        assert!(begun.contains("Waiting for deployment"), "{round}: {begun}");
        for (moment, victim) in kills {
            wait_for_moment(&board, &client, *moment);
            strike(&mut board, victim);
            let answer = board.succeed(&["curl", "-sS", "--max-time", "5", &format!("http://10.99.0.1:30080/{round}")]);
            assert!(answer.starts_with("Hello from hello-"), "Services go on, {round}: {answer}");
        }
        let (finished, words) = words_of(waiting);
        assert!(finished, "{round}: {words}; the log:\n{}", board.log());
        assert_eq!(containers(&board, "hello"), before, "{round}: bystanders were restarted");
        if let Some(mut child) = watching {
            assert!(child.try_wait().expect("asked").is_none(), "`get -w` lives on when an agent dies");
            let _ = child.kill();
            let (_, words) = words_of(child);
            assert!(words.matches("1/1     Running").count() >= 4, "`get -w` saw the new pods: {words}");
        }
    }

    stop.store(true, Ordering::SeqCst);
    let acknowledged = writer.join().expect("the writer runs through");
    let kept = board.kubectl("get configmaps -o name");
    let lost: Vec<&String> =
        acknowledged.iter().filter(|name| !kept.lines().any(|line| line == format!("configmap/{name}"))).collect();
    assert!(acknowledged.len() > 20 && lost.is_empty(), "of {} acknowledged: {lost:?}", acknowledged.len());
    let log = board.kubectl("logs -l app=hello --tail=-1");
    for (round, _) in rounds {
        assert!(log.contains(&format!("GET /{round} ")), "the log of {round} is kept:\n{log}");
    }
    assert!(board.kubectl(&format!("logs {one}")).starts_with(log_before.trim_end()), "nothing of a log is gone");

    let live = board.kubectl("get pods -o jsonpath={.items[*].metadata.uid}");
    let mut live: Vec<&str> = live.split(' ').collect();
    live.sort_unstable();
    let story = follower.end();
    assert_eq!(
        story.objects.keys().map(String::as_str).collect::<Vec<_>>(),
        live,
        "the truth, after {:#?}",
        story.troubles
    );
    assert!(story.resumed + story.listed > 4, "{} resumed, {} listed", story.resumed, story.listed);
    assert_undisturbed(&story);

    // What a kill in the middle of a pod's making or ending leaves is swept up: as many shims as pods.
    board.eventually("no shim without a pod", 20, || (board.shims().len() == 7).then_some(()));
    board.stop();
    let _ = board.bramble("down");
    assert_eq!(board.traces(), Traces::default());
}

#[test]
fn an_exit_code_outlives_its_shim_where_the_kernel_keeps_it() {
    let mut board = demonstration("exits");
    for name in ["told", "lost"] {
        board.apply(&shell(name).to_string());
        let _ = board.kubectl(&format!("wait --for=condition=Ready pod/{name} --timeout=30s"));
    }
    let shims = board.shims();
    strike(&mut board, "shims");
    board.eventually("new shims", 20, || {
        let now = board.shims();
        (now.len() == shims.len() && now.iter().all(|pid| !shims.contains(pid))).then_some(())
    });
    let _ = board.kubectl("exec told -- kill -TERM 1");
    let terminated = |name: &str| {
        board.eventually("it is told how it ended", 20, || {
            let text = board.kubectl(&format!("get pod {name} -o json"));
            let pod: Value = serde_json::from_str(&text).expect("JSON");
            let state = pod["status"]["containerStatuses"][0]["state"]["terminated"].clone();
            (!state.is_null()).then_some(state)
        })
    };
    let state = terminated("told");
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(42), &json!("Error")), "{state}");
    assert_eq!(board.kubectl("logs told"), "begun\nasked\n");

    // Nobody looks: the supervisor stands still, agent and shim are dead when the container ends.
    let uid = board.kubectl("get pod lost -o jsonpath={.metadata.uid}");
    let of_pod: Vec<i32> = board
        .processes()
        .into_iter()
        .map(|(pid, _)| pid)
        .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&uid)))
        .collect();
    assert!(of_pod.len() >= 2, "a shim and a shell: {of_pod:?}");
    // The shim first: it would see the end of its container.
    let shims = board.shims();
    let (shims, shells): (Vec<i32>, Vec<i32>) = of_pod.iter().partition(|pid| shims.contains(pid));
    let supervisor = board.supervisor();
    kill(supervisor, Signal::STOP);
    strike(&mut board, "agent");
    shims.iter().chain(&shells).for_each(|pid| kill(*pid, Signal::KILL));
    // Reaped by the host's init, too: as long as it is a zombie the kernel still knows.
    board.eventually("all of it is gone", 30, || {
        of_pod.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    kill(supervisor, Signal::CONT);
    let state = board.eventually("the lost one is told of", 20, || {
        let text = board.kubectl("get pod lost -o json");
        let pod: Value = serde_json::from_str(&text).expect("JSON");
        let state = pod["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        (!state.is_null()).then_some(state)
    });
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(137), &json!("ContainerStatusUnknown")), "{state}");
    assert_eq!(board.kubectl("logs lost"), "begun\n");
    board.stop();
    let _ = board.bramble("down");
    assert_eq!(board.traces(), Traces::default());
}

#[test]
fn two_instances_live_side_by_side() {
    let (mut one, other) = (demonstration("one"), demonstration("other"));
    let before = containers(&other, "hello");
    let tables = other.traces().tables;
    strike(&mut one, "both");
    // Killed without a word and never started again: `down` alone takes all of it away.
    one.crash();
    let _ = one.bramble("down");
    assert_eq!(one.traces(), Traces::default());
    assert_eq!(containers(&other, "hello"), before);
    assert_eq!(other.traces().tables, tables);
    let answer = other.succeed(&["curl", "-sS", "--max-time", "5", "http://10.99.0.1:30080/"]);
    assert!(answer.starts_with("Hello from hello-"), "{answer}");
}
