//! A board of one's own: network namespace, directories, cgroup, the real binary under `up`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::host::{binary, need, output, succeed};
use crate::image::{self, Image};
use crate::kubectl::Kubectl;

/// A start on two cores that are busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One board. Dropping it takes everything away.
pub struct Board {
    netns: String,
    dir: PathBuf,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    running: Option<(Child, Receiver<String>)>,
    /// What it is asked with.
    pub kubectl: Kubectl,
}

/// What an instance has on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Mount points below its directories.
    pub mounts: Vec<String>,
    /// Folders of its cgroups.
    pub cgroups: Vec<String>,
    /// Interfaces of its namespace that are its own.
    pub interfaces: Vec<String>,
    /// Tables of nftables in its namespace.
    pub tables: Vec<String>,
    /// Processes that name its directories or sit in its cgroups: daemons, shims, what runs in containers.
    pub processes: Vec<String>,
    /// Unix sockets of its namespace that are bound below its directories.
    pub sockets: Vec<String>,
    /// Files and sockets in its run directory.
    pub files: Vec<String>,
}

impl Board {
    /// Makes the namespace and the directories; nothing runs yet.
    ///
    /// # Panics
    /// Not root, or a tool is missing.
    #[must_use]
    pub fn new(test: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "end-to-end tests make namespaces: run them as root");
        for (program, package) in [("ip", "iproute2"), ("nsenter", "util-linux"), ("nft", "nftables")] {
            need(program, package);
        }
        let board = Self::unwired(test);
        for line in ["ip link add eth0 type veth peer name lan0", "ip link set lan0 up"] {
            let _ = board.succeed(&line.split(' ').collect::<Vec<_>>());
        }
        board.address("10.99.0.1");
        board
    }

    /// A namespace without any network but loopback.
    pub(crate) fn unwired(test: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let netns = format!("brt{}-{number}", std::process::id());
        // Of equal length: a path that is the beginning of another one's would be taken for it.
        let dir = std::env::temp_dir().join(format!("bramble-{test}-{}-{number:03}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory of this test's own");
        let board = Self {
            netns,
            dir,
            options: Vec::new(),
            environment: Vec::new(),
            running: None,
            kubectl: Kubectl::newest(),
        };
        let _ = succeed(Command::new("ip").args(["netns", "add", &board.netns]));
        let _ = board.succeed(&["ip", "link", "set", "lo", "up"]);
        board
    }

    /// Gives `eth0` an address of a /24 whose last place is the router.
    pub(crate) fn address(&self, ip: &str) {
        let (network, _) = ip.rsplit_once('.').expect("an IPv4 address");
        for line in [
            "ip link set eth0 up".to_owned(),
            format!("ip addr add {ip}/24 dev eth0"),
            format!("ip route add default via {network}.254"),
        ] {
            let _ = self.succeed(&line.split(' ').collect::<Vec<_>>());
        }
    }

    /// Gives `eth0` an address of a /64 as well, whose router ends in `fe`.
    pub(crate) fn address6(&self, network: &str, number: u32) {
        for line in [
            format!("ip addr add {network}::{number:x}/64 dev eth0 nodad"),
            format!("ip route add default via {network}::fe"),
        ] {
            let _ = self.succeed(&line.split(' ').collect::<Vec<_>>());
        }
    }

    /// A board that is up, its node Ready.
    #[must_use]
    pub fn up(test: &str, options: &[&str]) -> Self {
        let mut board = Self::new(test);
        board.start(options);
        board
    }

    /// Starts `bramble up` and waits until it says that it is up.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(&mut self, options: &[&str]) {
        self.always(options);
        self.launch(&["up", "--node-name", "pi-1"]);
        self.wait_for_line("bramble: up.");
    }

    /// Options of all that is started on it from now on.
    pub fn always(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// What is started on it from now on finds this in its environment.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts `bramble agent` with a fresh token of a controller; the node is Ready when it returns.
    ///
    /// # Panics
    /// It does not join.
    pub fn join(&mut self, controller: &Board, name: &str) {
        let line = controller.bramble("token create");
        let words: Vec<&str> = line.split_whitespace().skip(2).chain(["--node-name", name]).collect();
        self.join_by(controller, &words, name);
    }

    /// The same with the words that follow `bramble agent`.
    ///
    /// # Panics
    /// It does not join.
    pub fn join_by(&mut self, controller: &Board, words: &[&str], name: &str) {
        self.begin(words);
        controller.eventually(&format!("{name} joins; its log:\n{}", self.log()), 60, || {
            let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            let told = controller.try_kubectl(&format!("get node {name} -o {ready}"));
            (told.stdout == b"True").then_some(())
        });
    }

    /// Starts `bramble agent` with these words, and waits for nothing.
    pub fn begin(&mut self, words: &[&str]) {
        self.launch(&[&["agent"], words].concat());
    }

    /// Starts `bramble agent` on a board that has joined before; nobody need be there.
    pub fn start_alone(&mut self, controller: &str, name: &str) {
        self.launch(&["agent", "--server", &format!("https://{controller}:6443"), "--node-name", name]);
    }

    fn launch(&mut self, words: &[&str]) {
        let mut command = self.command(binary());
        command.args(words).args(self.directories()).args(&self.options);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("piped");
        let (send, lines) = channel();
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).expect("a log");
        std::thread::spawn(move || {
            use std::io::Write;
            let mut log = log;
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
                let _ = send.send(line);
            }
        });
        self.running = Some((child, lines));
    }

    /// Waits until the supervisor has printed a line that starts so.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait_for_line(&self, start: &str) {
        let (_, lines) = self.running.as_ref().expect("up runs");
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(start) => return,
                Ok(_) => {}
                Err(error) => panic!("no line {start:?} ({error}); the log:\n{}", self.log()),
            }
        }
    }

    /// Everything that the board has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its directory: `data`, `run`, and what a test puts there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of its network namespace.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// `--data-dir` and `--run-dir`.
    #[must_use]
    pub fn directories(&self) -> Vec<String> {
        let text = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        vec!["--data-dir".into(), text("data"), "--run-dir".into(), text("run")]
    }

    /// A command inside the board's network namespace, with the administrator's kubeconfig. `nsenter`, because
    /// `ip netns exec` would hide the cgroup mounts.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command.env("KUBECONFIG", self.dir.join("data/admin.kubeconfig")).env_remove("BRAMBLE_LOG");
        // kubectl keeps what it discovered below the home directory, by server address: boards share theirs.
        command.env("HOME", &self.dir);
        command
    }

    /// Standard output of a command in the namespace, which must succeed.
    #[must_use]
    pub fn succeed(&self, words: &[&str]) -> String {
        succeed(self.command(words[0]).args(&words[1..]))
    }

    /// Standard output of kubectl, which must succeed.
    #[must_use]
    pub fn kubectl(&self, line: &str) -> String {
        succeed(self.command(&self.kubectl.path).args(line.split_whitespace()))
    }

    /// kubectl's output, whatever its end.
    #[must_use]
    pub fn try_kubectl(&self, line: &str) -> Output {
        output(self.command(&self.kubectl.path).args(line.split_whitespace()))
    }

    /// `kubectl apply -f` of a text.
    ///
    /// # Panics
    /// It is refused.
    pub fn apply(&self, manifest: &str) {
        let path = self.dir.join("manifest.yaml");
        fs::write(&path, manifest).expect("written");
        let _ = self.kubectl(&format!("apply -f {}", path.display()));
    }

    /// Standard output of a verb of the binary for this board, which must succeed.
    #[must_use]
    pub fn bramble(&self, line: &str) -> String {
        succeed(self.command(binary()).args(line.split_whitespace()).args(self.directories()))
    }

    /// Puts an image into the board's store under a name.
    ///
    /// # Panics
    /// It is refused.
    pub fn load(&self, image: &Image, reference: &str) {
        let archive = self.dir.join("image.tar");
        image.docker_archive(reference, &archive);
        let _ = self.bramble(&format!("image import {}", archive.display()));
        let _ = fs::remove_file(archive);
    }

    /// Puts busybox and curl there, as [`image::TOOLS`].
    ///
    /// # Panics
    /// They are refused.
    pub fn load_tools(&self) {
        self.load(&image::tools(), image::TOOLS);
    }

    /// Standard output of a verb, whatever its end.
    #[must_use]
    pub fn try_bramble(&self, line: &str) -> String {
        let told = output(self.command(binary()).args(line.split_whitespace()).args(self.directories()));
        String::from_utf8_lossy(&told.stdout).into_owned()
    }

    /// Repeats `probe` until it answers, for what nothing can be watched for.
    ///
    /// # Panics
    /// It does not within `seconds`.
    pub fn eventually<T>(&self, what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
        let found = self.try_eventually(seconds, &mut probe);
        found.unwrap_or_else(|| panic!("not within {seconds} s: {what}; the log:\n{}", tail(&self.log(), 60)))
    }

    /// As [`Self::eventually`], for who can say better what did not come.
    pub fn try_eventually<T>(&self, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let found = probe();
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The process id of `controller` or `agent`.
    #[must_use]
    pub fn pid(&self, daemon: &str) -> Option<i32> {
        let data = self.dir.join("data").to_string_lossy().into_owned();
        processes().into_iter().find_map(|(pid, arguments)| {
            let words: Vec<&str> = arguments.split('\0').collect();
            (words.get(1) == Some(&daemon) && words.contains(&data.as_str())).then_some(pid)
        })
    }

    /// Ends `bramble up` as Ctrl-C does; containers go on.
    ///
    /// # Panics
    /// It does not end.
    pub fn stop(&mut self) {
        let (mut child, _) = self.running.take().expect("up runs");
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let status = child.wait().expect("it ends");
        assert!(status.success(), "up ended with {status}; the log:\n{}", tail(&self.log(), 60));
    }

    /// What is on the host of this board now.
    #[must_use]
    pub fn traces(&self) -> Traces {
        let dir = self.dir.to_string_lossy().into_owned();
        let lines = |text: &str, fits: &dyn Fn(&str) -> bool| -> Vec<String> {
            text.lines().filter(|line| fits(line)).map(str::to_owned).collect()
        };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let interfaces = self.succeed(&["ip", "-o", "link"]);
        let mut files = Vec::new();
        walk(&self.dir.join("run"), &mut files);
        let cgroups = self.cgroups();
        Traces {
            mounts: lines(&mounts, &|line| line.contains(&dir)),
            interfaces: lines(&interfaces, &|line| {
                !line.contains("lo:") && !line.contains("eth0") && !line.contains("lan0")
            }),
            tables: lines(&self.succeed(&["nft", "list", "tables"]), &|line| line.contains("bramble-")),
            processes: self
                .processes()
                .into_iter()
                .map(|(pid, arguments)| format!("{pid} {}", arguments.replace('\0', " ")))
                .collect(),
            sockets: lines(&self.succeed(&["cat", "/proc/net/unix"]), &|line| line.contains(&dir)),
            cgroups,
            files,
        }
    }

    /// Everything that runs for this board now: process ids and arguments.
    #[must_use]
    pub fn processes(&self) -> Vec<(i32, String)> {
        let (dir, group) = (self.dir.to_string_lossy().into_owned(), self.cgroup_name());
        let ours = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&group));
        let named = |arguments: &str| arguments.contains(&dir) && !arguments.contains("kubectl");
        processes().into_iter().filter(|(pid, arguments)| named(arguments) || ours(*pid)).collect()
    }

    /// The shims of its pods.
    #[must_use]
    pub fn shims(&self) -> Vec<i32> {
        self.processes().into_iter().filter(|(_, line)| line.contains("\0shim\0")).map(|(pid, _)| pid).collect()
    }

    /// The process id of `bramble up`.
    ///
    /// # Panics
    /// It does not run.
    #[must_use]
    pub fn supervisor(&self) -> i32 {
        let (child, _) = self.running.as_ref().expect("up runs");
        i32::try_from(child.id()).expect("process ids are small")
    }

    /// `kill -9` of `bramble up`; `start` brings it back.
    ///
    /// # Panics
    /// It does not run.
    pub fn crash(&mut self) {
        let (mut child, _) = self.running.take().expect("up runs");
        child.kill().expect("it runs");
        let _ = child.wait();
    }

    fn cgroup_name(&self) -> String {
        format!("bramble-{}", instance(&self.dir.join("data")))
    }

    fn cgroups(&self) -> Vec<String> {
        let name = self.cgroup_name();
        let mut found = Vec::new();
        let Ok(controllers) = fs::read_dir("/sys/fs/cgroup") else { return found };
        let roots = controllers.flatten().map(|entry| entry.path().join(&name));
        for root in roots.chain([Path::new("/sys/fs/cgroup").join(&name)]).filter(|root| root.exists()) {
            found.push(root.to_string_lossy().into_owned());
        }
        found
    }
}

/// The instance's name: FNV-1a of the data directory's path, as the agent derives it.
fn instance(data_dir: &Path) -> String {
    let bytes = data_dir.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        }
    }
}

/// Process ids and their arguments, separated by zero bytes.
fn processes() -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let arguments = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&arguments).into_owned()))
        })
        .collect()
}

impl Drop for Board {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the board's last words:\n{}", tail(&self.log(), 40));
            for line in ["get pods -A -o wide", "get events -A --sort-by=.lastTimestamp"] {
                let told = self.try_kubectl(&format!("{line} --request-timeout=5s"));
                eprintln!("kubectl {line}:\n{}", tail(&String::from_utf8_lossy(&told.stdout), 40));
            }
        }
        // `down` stops what runs, also what a test has left behind.
        let down = output(self.command(binary()).args(["down", "--purge"]).args(self.directories()));
        if !down.status.success() {
            eprintln!("down: {}", String::from_utf8_lossy(&down.stderr));
        }
        if let Some((mut child, _)) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = output(Command::new("ip").args(["netns", "del", &self.netns]));
        let _ = fs::remove_dir_all(&self.dir);
    }
}
