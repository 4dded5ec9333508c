use std::sync::Mutex;

use bramble_runtime::{
    ContainerConfig, ContainerState, ContainerStatus, Error, Events, ExecConfig, SandboxConfig, SandboxStatus,
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::super::board::BoardOptions;
use super::super::fakes::{FakeImages, FakeNetwork};
use super::super::{ContainerRuntime, ExecOutcome, Table};
use super::*;
use crate::link::Link;
use crate::link::fakes::FakeTransport;

/// Sandboxes and containers in memory; containers run until they are signalled or told to exit.
#[derive(Default)]
struct FakeRuntime {
    sandboxes: Mutex<Vec<SandboxStatus>>,
    containers: Mutex<Vec<ContainerStatus>>,
    /// Signals that were sent.
    signals: Mutex<Vec<(String, i32)>>,
    /// SIGTERM does not end a container.
    stubborn: bool,
    exec_code: Mutex<i32>,
}

impl FakeRuntime {
    fn exit(&self, name: &str, code: i32, finished_ms: i64) {
        let mut containers = self.containers.lock().unwrap();
        let running = containers.iter_mut().filter(|one| one.name == name && one.state == ContainerState::Running);
        for container in running {
            container.state = ContainerState::Exited;
            container.exit_code = Some(code);
            container.finished_at = finished_ms * 1_000_000;
        }
    }
}

impl ContainerRuntime for FakeRuntime {
    fn run_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus, Error> {
        let mut sandbox = super::super::fixtures::sandbox();
        sandbox.id.clone_from(&config.id);
        sandbox.pod = config.pod.clone();
        sandbox.netns_path = Some("/netns".into());
        sandbox.log_dir.clone_from(&config.log_dir);
        self.sandboxes.lock().unwrap().push(sandbox.clone());
        Ok(sandbox)
    }

    fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.sandboxes.lock().unwrap().iter_mut().filter(|one| one.id == id).for_each(|one| one.ready = false);
        Ok(())
    }

    fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.sandboxes.lock().unwrap().retain(|one| one.id != id);
        self.containers.lock().unwrap().retain(|one| one.sandbox_id != id);
        Ok(())
    }

    fn sandboxes(&self) -> Result<Vec<SandboxStatus>, Error> {
        Ok(self.sandboxes.lock().unwrap().clone())
    }

    fn adopt(&self, _sandbox_id: &str) -> Result<(), Error> {
        Ok(())
    }

    fn create_container(&self, sandbox_id: &str, config: ContainerConfig, _reference: &str) -> Result<String, Error> {
        let mut status = super::super::fixtures::instance(&config.name, ContainerState::Created, None).status;
        status.id.clone_from(&config.id);
        status.sandbox_id = sandbox_id.to_owned();
        status.attempt = config.attempt;
        status.labels = config.labels;
        status.annotations = config.annotations;
        self.containers.lock().unwrap().push(status);
        Ok(config.id)
    }

    fn start_container(&self, id: &str) -> Result<(), Error> {
        let mut containers = self.containers.lock().unwrap();
        containers.iter_mut().filter(|one| one.id == id).for_each(|one| one.state = ContainerState::Running);
        Ok(())
    }

    fn signal_container(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.signals.lock().unwrap().push((id.to_owned(), signal));
        let name = self.containers.lock().unwrap().iter().find(|one| one.id == id).map(|one| one.name.clone());
        if !self.stubborn || signal == 9 {
            self.exit(&name.unwrap_or_default(), 128 + signal, 0);
        }
        Ok(())
    }

    fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.containers.lock().unwrap().retain(|one| one.id != id);
        Ok(())
    }

    fn reopen_log(&self, _id: &str) -> Result<(), Error> {
        Ok(())
    }

    fn containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        Ok(self.containers.lock().unwrap().clone())
    }

    fn pod(&self, uid: &str) -> Result<(Vec<SandboxStatus>, Vec<ContainerStatus>), Error> {
        let mut sandboxes = self.sandboxes()?;
        sandboxes.retain(|one| one.pod.uid == uid);
        let mut containers = self.containers()?;
        containers.retain(|one| sandboxes.iter().any(|sandbox| sandbox.id == one.sandbox_id));
        Ok((sandboxes, containers))
    }

    fn exec(&self, _id: &str, _config: &ExecConfig) -> Result<ExecOutcome, Error> {
        Ok(ExecOutcome { code: Some(*self.exec_code.lock().unwrap()), output: "out".into() })
    }

    fn events(&self) -> Result<Option<Events>, Error> {
        Ok(None)
    }
}

/// What the API server was told.
#[derive(Default)]
struct Api {
    statuses: Vec<Value>,
    events: Vec<String>,
    deleted: bool,
}

struct World {
    runtime: Arc<FakeRuntime>,
    api: Arc<Mutex<Api>>,
    board: Arc<Board>,
    dir: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl World {
    fn new(name: &str, runtime: FakeRuntime) -> Self {
        let runtime = Arc::new(runtime);
        let api = Arc::new(Mutex::new(Api::default()));
        let told = Arc::clone(&api);
        let transport = FakeTransport::new(move |method, path, body| {
            let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            let mut api = told.lock().unwrap();
            match method.as_str() {
                "PATCH" if path.ends_with("/status") => api.statuses.push(body["status"].clone()),
                "POST" if path.ends_with("/events") => {
                    api.events.push(format!(
                        "{}: {}",
                        body["reason"].as_str().unwrap(),
                        body["message"].as_str().unwrap()
                    ));
                }
                "DELETE" => api.deleted = true,
                _ => {}
            }
            (200, vec![Bytes::from_static(b"{}")])
        });
        let dir = std::env::temp_dir().join(format!("bramble-worker-{name}-{}", std::process::id()));
        let options = BoardOptions {
            runtime: runtime.clone(),
            images: Arc::new(FakeImages::with("a:1")),
            network: Arc::new(FakeNetwork::default()),
            table: Table::default(),
            node_name: "pi-1".into(),
            agent_dir: dir.join("agent"),
            run_dir: dir.join("run"),
            log_root: dir.join("logs"),
            dns_servers: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            host_ips: vec!["10.0.0.5".parse().unwrap()],
            node: crate::node::Facts::default(),
        };
        let (_, services) = watch::channel(Default::default());
        let board = Arc::new(Board::new(options, Link::new(transport), Arc::default(), services));
        Self { runtime, api, board, dir }
    }

    fn pod(&self, object: &Value) -> Handle {
        Worker::start(self.board.clone(), &Object::from(object), Pod::read(object).unwrap())
    }

    /// Waits until `done` holds; the worker is told to look before each time.
    async fn until(&self, handle: &Handle, done: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if done(self) {
                return;
            }
            handle.notify.notify_one();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let api = self.api.lock().unwrap();
        panic!("it never came: {:#?} {:?}", api.statuses.last(), api.events);
    }

    fn phase(&self) -> String {
        let api = self.api.lock().unwrap();
        api.statuses.last().map(|status| status["phase"].as_str().unwrap().to_owned()).unwrap_or_default()
    }
}

fn object(container: Value) -> Value {
    let mut whole = json!({"name": "c", "image": "a:1", "command": ["/x"], "imagePullPolicy": "IfNotPresent"});
    whole.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    let meta = json!({"name": "p", "namespace": "n", "uid": "u"});
    json!({"metadata": meta, "spec": {"containers": [whole]}, "status": {"phase": "Pending"}})
}

fn deleted(object: &Value, grace_s: i64) -> Message {
    let mut object = object.clone();
    object["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(grace_s);
    Message::Desired(Object::from(&object))
}

/// The node controller calls pods unready while it does not hear of their board.
#[tokio::test]
async fn a_status_that_others_wrote_over_is_told_again() {
    let world = World::new("foreign", FakeRuntime::default());
    let mut object = object(json!({}));
    let handle = world.pod(&object);
    world.until(&handle, |world| world.phase() == "Running").await;
    let (told, mut status) = {
        let api = world.api.lock().unwrap();
        (api.statuses.len(), api.statuses.last().unwrap().clone())
    };
    let ready = status["conditions"].as_array_mut().unwrap().iter_mut().find(|one| one["type"] == "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &Value::Null));
    ready["status"] = json!("False");
    (object["metadata"]["resourceVersion"], object["status"]) = (json!("9"), status);
    handle.sender.send(Message::Desired(Object::from(&object))).await.unwrap();
    world.until(&handle, |world| world.api.lock().unwrap().statuses.len() > told).await;
    let api = world.api.lock().unwrap();
    assert_eq!(super::post::is_ready(api.statuses.last().unwrap()), Some(&json!("True")));
}

#[tokio::test]
async fn a_pod_comes_up_and_goes_without_a_trace() {
    let world = World::new("life", FakeRuntime::default());
    let object = object(json!({}));
    let handle = world.pod(&object);
    world.until(&handle, |world| world.phase() == "Running").await;
    let status = world.api.lock().unwrap().statuses.last().unwrap().clone();
    assert_eq!(status["podIP"], "10.42.0.2");
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert!(world.board.table.instance("n", "p", "c", false).is_ok());
    handle.sender.send(deleted(&object, 5)).await.unwrap();
    world.until(&handle, |world| world.api.lock().unwrap().deleted).await;
    assert_eq!(world.runtime.signals.lock().unwrap()[0].1, 15);
    assert!(world.runtime.sandboxes.lock().unwrap().is_empty());
    world.until(&handle, |world| world.board.table.pods().is_empty()).await;
    assert!(!world.dir.join("agent/pods/u").exists());
    let events = world.api.lock().unwrap().events.clone();
    let wanted = [
        "Pulled: Container image \"a:1\" already present on machine and can be accessed by the pod",
        "Created: Container created",
        "Started: Container started",
        "Killing: Stopping container c",
    ];
    assert_eq!(events, wanted);
}

#[tokio::test]
async fn a_stubborn_container_is_killed_when_its_grace_is_over() {
    let world = World::new("stubborn", FakeRuntime { stubborn: true, ..FakeRuntime::default() });
    let object = object(json!({}));
    let handle = world.pod(&object);
    world.until(&handle, |world| world.phase() == "Running").await;
    handle.sender.send(deleted(&object, 0)).await.unwrap();
    world.until(&handle, |world| world.api.lock().unwrap().deleted).await;
    let signals: Vec<i32> = world.runtime.signals.lock().unwrap().iter().map(|(_, signal)| *signal).collect();
    assert_eq!(signals, [9], "no grace at all");
}

#[tokio::test]
async fn an_ended_container_is_restarted_and_then_backs_off() {
    let world = World::new("restart", FakeRuntime::default());
    let handle = world.pod(&object(json!({})));
    world.until(&handle, |world| world.phase() == "Running").await;
    world.runtime.exit("c", 1, world.board.now_ms());
    let attempts = |world: &World| world.runtime.containers.lock().unwrap().len();
    world
        .until(&handle, |world| {
            attempts(world) == 2 && world.runtime.containers().unwrap()[1].state == ContainerState::Running
        })
        .await;
    world.runtime.exit("c", 1, world.board.now_ms());
    let reason = |world: &World| {
        let api = world.api.lock().unwrap();
        api.statuses.last().unwrap()["containerStatuses"][0]["state"]["waiting"]["reason"].clone()
    };
    world.until(&handle, |world| reason(world) == "CrashLoopBackOff").await;
    assert_eq!(attempts(&world), 2);
}

#[tokio::test]
async fn an_adopted_pod_is_not_restarted() {
    let world = World::new("adopt", FakeRuntime::default());
    let object = object(json!({}));
    let first = world.pod(&object);
    world.until(&first, |world| world.phase() == "Running").await;
    let before = world.runtime.containers().unwrap();
    first.task.abort();
    world.api.lock().unwrap().statuses.clear();
    let second = world.pod(&object);
    world.until(&second, |world| world.phase() == "Running").await;
    assert_eq!(world.runtime.containers().unwrap(), before);
    assert_eq!(world.runtime.sandboxes().unwrap().len(), 1);
}

#[tokio::test]
async fn a_readiness_probe_decides_and_a_hook_runs() {
    let world = World::new("probe", FakeRuntime::default());
    let handle = world.pod(&object(json!({
        "readinessProbe": {"exec": {"command": ["t"]}, "periodSeconds": 1},
        "lifecycle": {"postStart": {"exec": {"command": ["h"]}}},
    })));
    let ready = |world: &World| {
        let api = world.api.lock().unwrap();
        api.statuses.last().map(|status| status["containerStatuses"][0]["ready"].clone()).unwrap_or_default()
    };
    world.until(&handle, |world| ready(world) == true).await;
}

#[tokio::test]
async fn a_restarted_agent_takes_no_pod_out_of_its_services() {
    let world = World::new("ready", FakeRuntime::default());
    let object = object(json!({"readinessProbe": {"exec": {"command": ["t"]}, "initialDelaySeconds": 2_000_000_000}}));
    let first = world.pod(&object);
    world.until(&first, |world| world.phase() == "Running").await;
    first.task.abort();
    let mut told = object.clone();
    told["status"] = world.api.lock().unwrap().statuses.last().unwrap().clone();
    assert_eq!(told["status"]["containerStatuses"][0]["ready"], false, "nobody has probed it yet");
    told["status"]["containerStatuses"][0]["ready"] = json!(true);
    world.api.lock().unwrap().statuses.clear();

    // From the checkpoint, which holds no status: nothing is said before the API has told what it knows.
    let mut kept = object.clone();
    kept.as_object_mut().unwrap().remove("status");
    let second = world.pod(&kept);
    world.until(&second, |world| !world.board.table.pods().is_empty()).await;
    assert_eq!(world.api.lock().unwrap().statuses, Vec::<Value>::new());
    second.sender.send(Message::Desired(Object::from(&told))).await.unwrap();
    world.until(&second, |world| world.phase() == "Running").await;
    let statuses = world.api.lock().unwrap().statuses.clone();
    assert!(statuses.iter().all(|status| status["containerStatuses"][0]["ready"] == true), "{statuses:#?}");
}

/// What a reboot leaves of containers: nothing.
fn reboot(world: &World) {
    world.runtime.sandboxes.lock().unwrap().clear();
    world.runtime.containers.lock().unwrap().clear();
    world.api.lock().unwrap().statuses.clear();
}

#[tokio::test]
async fn a_pod_that_may_run_once_is_not_run_again_after_a_boot() {
    let world = World::new("once", FakeRuntime::default());
    let mut once = object(json!({}));
    once["spec"]["restartPolicy"] = json!("Never");
    let first = world.pod(&once);
    world.until(&first, |world| world.phase() == "Running").await;
    first.task.abort();
    let mut told = once.clone();
    told["status"] = world.api.lock().unwrap().statuses.last().unwrap().clone();
    reboot(&world);

    // The controller is away.
    let mut kept = once.clone();
    kept.as_object_mut().unwrap().remove("status");
    let second = world.pod(&kept);
    world.until(&second, |world| world.board.table.pods().iter().any(|pod| pod.uid == "u")).await;
    for _ in 0..20 {
        second.notify.notify_one();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(world.runtime.containers().unwrap().is_empty(), "it ran a second time");
    // It is back, and knows of the run.
    second.sender.send(Message::Desired(Object::from(&told))).await.unwrap();
    world.until(&second, |world| world.phase() == "Failed").await;
    let status = world.api.lock().unwrap().statuses.last().unwrap().clone();
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert!(world.runtime.containers().unwrap().is_empty());
}

#[tokio::test]
async fn a_pod_that_had_succeeded_stays_so_after_a_boot() {
    let world = World::new("done", FakeRuntime::default());
    let mut job = object(json!({}));
    job["spec"]["restartPolicy"] = json!("OnFailure");
    let first = world.pod(&job);
    world.until(&first, |world| world.phase() == "Running").await;
    world.runtime.exit("c", 0, world.board.now_ms());
    world.until(&first, |world| world.phase() == "Succeeded").await;
    world.until(&first, |world| world.dir.join("agent/pods/u/begun").exists()).await;
    first.task.abort();
    let mut told = job.clone();
    told["status"] = world.api.lock().unwrap().statuses.last().unwrap().clone();
    reboot(&world);
    let mut kept = job.clone();
    kept.as_object_mut().unwrap().remove("status");
    let second = world.pod(&kept);
    second.sender.send(Message::Desired(Object::from(&told))).await.unwrap();
    world.until(&second, |world| world.board.table.pods().iter().any(|pod| pod.uid == "u")).await;
    for _ in 0..20 {
        second.notify.notify_one();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(world.runtime.containers().unwrap().is_empty());
    let statuses = world.api.lock().unwrap().statuses.clone();
    assert!(statuses.iter().all(|status| status["phase"] == "Succeeded" && status["reason"].is_null()), "{statuses:?}");
}

#[tokio::test]
async fn a_missing_image_is_told() {
    let world = World::new("image", FakeRuntime::default());
    let handle = world.pod(&object(json!({"image": "b:1"})));
    let reason = |world: &World| {
        let api = world.api.lock().unwrap();
        api.statuses
            .last()
            .map(|status| status["containerStatuses"][0]["state"]["waiting"]["reason"].clone())
            .unwrap_or_default()
    };
    world.until(&handle, |world| reason(world) == "ImagePullBackOff").await;
    let events = world.api.lock().unwrap().events.clone();
    assert!(events.contains(&"Failed: Failed to pull image \"b:1\": b:1: not found".to_owned()), "{events:?}");
    assert!(events.contains(&"Failed: Error: ErrImagePull".to_owned()), "{events:?}");
}
