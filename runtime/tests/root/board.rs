//! Shell: one instance of the runtime in a directory of its own, taken down with everything at the end of a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bramble_runtime::{
    ContainerConfig, ContainerState, ContainerStatus, Events, ExecConfig, Layout, Rootfs, Runtime, SandboxConfig,
    Session, new_id,
};

static NEXT: AtomicU32 = AtomicU32::new(0);
const PATIENCE: Duration = Duration::from_secs(20);
/// How many times slower than a machine this one is, where somebody says so: an emulated board.
const SLOWER: &str = "BRAMBLE_TEST_SLOWER";
const CGROUPS: &str = "/sys/fs/cgroup";

/// So many times longer whatever waits may wait here.
pub(crate) fn slower() -> u32 {
    std::env::var(SLOWER).map_or(1, |times| times.parse().unwrap_or_else(|e| panic!("{SLOWER}={times}: {e}")))
}

/// A runtime with its places.
pub(crate) struct Board {
    pub(crate) dir: PathBuf,
    pub(crate) runtime: Runtime,
    pub(crate) events: Events,
    pub(crate) layout: Layout,
}

impl Board {
    pub(crate) fn new() -> Board {
        let name = format!("brt{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).unwrap();
        let layout = Layout {
            data_dir: dir.join("data"),
            run_dir: dir.join("run"),
            cgroup_root: format!("bramble-test/{name}"),
            instance: name,
        };
        busybox(&dir.join("base"));
        let runtime = Runtime::open(layout.clone()).unwrap();
        Board { events: runtime.events().unwrap(), runtime, dir, layout }
    }

    /// A second process's view of the same instance: what a restarted agent sees.
    pub(crate) fn reopen(&self) -> Runtime {
        Runtime::open(self.layout.clone()).unwrap()
    }

    pub(crate) fn sandbox(&self) -> String {
        self.sandbox_with(|_| {})
    }

    pub(crate) fn sandbox_with(&self, change: impl FnOnce(&mut SandboxConfig)) -> String {
        let id = new_id();
        let mut config = SandboxConfig {
            id: id.clone(),
            hostname: "web-0".into(),
            cgroup_parent: format!("kubepods/pod{id}"),
            log_dir: self.dir.join("logs").join(&id),
            ..SandboxConfig::default()
        };
        change(&mut config);
        let status = self.runtime.run_sandbox(&config).unwrap_or_else(|e| panic!("{}", e.chain()));
        assert!(status.ready && status.shim_pid.is_some());
        id
    }

    pub(crate) fn config(&self, script: &str) -> ContainerConfig {
        let id = new_id();
        ContainerConfig {
            name: "c".into(),
            rootfs: Rootfs::Layers {
                lower: vec![self.dir.join("base")],
                upper: self.dir.join("upper").join(&id),
                work: self.dir.join("work").join(&id),
            },
            args: ["sh", "-c", script].map(String::from).to_vec(),
            log_path: format!("{id}/0.log").into(),
            id,
            ..ContainerConfig::default()
        }
    }

    pub(crate) fn start(&self, sandbox: &str, config: &ContainerConfig) -> String {
        let id = self.runtime.create_container(sandbox, config).unwrap_or_else(|e| panic!("create: {}", e.chain()));
        self.runtime.start_container(&id).unwrap_or_else(|e| panic!("start: {}", e.chain()));
        id
    }

    /// Runs to its end; returns how it ended and what it wrote to both streams.
    pub(crate) fn run(&self, sandbox: &str, config: &ContainerConfig) -> (ContainerStatus, String) {
        let id = self.start(sandbox, config);
        let status = self.ended(&id);
        let log = self.log(&id);
        self.runtime.remove_container(&id).unwrap_or_else(|e| panic!("remove: {}", e.chain()));
        (status, log)
    }

    /// What a script writes; it must succeed.
    pub(crate) fn says(&self, sandbox: &str, config: &ContainerConfig) -> String {
        let (status, log) = self.run(sandbox, config);
        assert_eq!(status.exit_code, Some(0), "{log}");
        log
    }

    pub(crate) fn ended(&self, id: &str) -> ContainerStatus {
        self.until(|| {
            let status = self.runtime.container(id).unwrap();
            matches!(status.state, ContainerState::Exited | ContainerState::Unknown).then_some(status)
        })
    }

    /// Looks again whenever something happened.
    pub(crate) fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE * slower();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < end, "waited in vain");
            let mut polls = [rustix::event::PollFd::new(&self.events, rustix::event::PollFlags::IN)];
            let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            rustix::event::poll(&mut polls, Some(&pause)).unwrap();
            self.events.drain().unwrap();
        }
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.runtime.container(id).unwrap().log_path
    }

    /// The log without its times and tags.
    pub(crate) fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log_path(id)).unwrap();
        text.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap().to_string() + "\n").collect()
    }

    pub(crate) fn exec(&self, id: &str, script: &str) -> (i32, String) {
        let config = ExecConfig { args: ["sh", "-c", script].map(String::from).to_vec(), ..ExecConfig::default() };
        let session = self.runtime.exec(id, &config).unwrap_or_else(|e| panic!("exec: {}", e.chain()));
        finish(session)
    }

    /// Everything on the host that bears this instance's name.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|l| l.contains(self.dir.to_str().unwrap())).map(|l| format!("mount {l}")));
        let groups = cgroup_roots().into_iter().map(|root| root.join(&self.layout.cgroup_root));
        found.extend(groups.filter(|dir| dir.exists()).map(|dir| format!("cgroup {}", dir.display())));
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let link = fs::read_link(process.path().join("cwd")).unwrap_or_default();
            if link.starts_with(&self.dir) {
                let name = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
                found.push(format!("process {name}"));
            }
        }
        for dir in ["pods", "exits"] {
            let entries = fs::read_dir(self.layout.run_dir.join(dir)).into_iter().flatten().flatten();
            found.extend(entries.map(|e| format!("file {}", e.path().display())));
        }
        found
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let purged = self.runtime.purge();
        let traces = self.traces();
        let _ = fs::remove_dir_all(&self.dir);
        for root in cgroup_roots() {
            // Ours when it is empty; another test run's when it is not.
            let _ = fs::remove_dir(root.join("bramble-test"));
        }
        if !std::thread::panicking() {
            purged.unwrap_or_else(|e| panic!("purge: {}", e.chain()));
            assert!(traces.is_empty(), "left over: {traces:#?}");
        }
    }
}

/// Where trees of cgroups begin: at the one mount on v2, at each controller's on v1.
fn cgroup_roots() -> Vec<PathBuf> {
    if is_cgroup2() {
        return vec![CGROUPS.into()];
    }
    fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|controller| controller.path()).collect()
}

/// Whether there is nothing but cgroup v2.
pub(crate) fn is_cgroup2() -> bool {
    Path::new(CGROUPS).join("cgroup.controllers").exists()
}

/// Whether this kernel tells an exit code after the process was reaped by somebody else (`PIDFD_GET_INFO`, Linux 6.15).
pub(crate) fn kernel_keeps_exit_codes() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

pub(crate) fn finish(session: Session) -> (i32, String) {
    let status = session.wait().unwrap();
    let mut text = String::new();
    for fd in [session.stdout, session.stderr].into_iter().flatten() {
        use std::io::Read;
        fs::File::from(fd).read_to_string(&mut text).unwrap();
    }
    (status.map_or(-1, |s| s.code), text)
}

/// A root file system of busybox alone.
pub(crate) fn busybox(base: &Path) {
    let binary = Path::new("/bin/busybox");
    assert!(binary.exists(), "these tests need Debian's busybox-static: apt-get install -y busybox-static");
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "mnt"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    fs::copy(binary, base.join("bin/busybox")).unwrap();
    let list = Command::new(binary).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(list).unwrap().lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", base.join("bin").join(applet)).unwrap();
    }
    fs::write(base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").unwrap();
    fs::write(base.join("etc/group"), "root:x:0:\nweb:x:34:\ngpio:x:997:web\n").unwrap();
}
