//! Shell: `shim <sandbox dir> <exits dir> new|adopt <file of a cgroup>...`: makes the namespaces and forks the shim.
//!
//! The shim is forked first, while this process has touched little memory; then this process makes the rest, says why
//! it could not on stderr, and ends.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    thread::UnshareFlags,
};

use crate::{
    config::{IdMap, SandboxConfig},
    layout::namespace_path,
    record::{self, SandboxRecord, ShimRecord},
    shim,
};

/// What a pod's processes may do unless it says otherwise, as containerd sets it: low ports and ping without privileges.
const SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    match stage(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = io::stderr().write_all(message.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn stage(args: &[OsString]) -> Result<(), String> {
    let [dir, exits, mode, groups @ ..] = args else { return Err("usage".into()) };
    // SAFETY: nothing has been opened by this process yet; what the caller let slip must not live on in the shim.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    let start = prepare(Path::new(dir), Path::new(exits)).map_err(|e| format!("shim socket: {e}"))?;
    // SAFETY: this process has one thread, so its child may run ordinary code.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a plain system call.
        unsafe { libc::setsid() };
        join(groups);
        detach();
        shim::run(start);
        // SAFETY: ends this process without running anything of its parent's.
        unsafe { libc::_exit(0) };
    }
    if pid < 0 {
        return Err(format!("fork the shim: {}", io::Error::last_os_error()));
    }
    drop(start);
    let mut shim = ShimRecord { pid, start_time: record::start_time(pid), reaper: 0 };
    let made = if mode == "new" {
        make(groups)
    } else {
        Ok(record::read_json::<ShimRecord>(Path::new("shim")).map_or(0, |s| s.reaper))
    };
    match made {
        Ok(reaper) => {
            shim.reaper = reaper;
            record::write_json(Path::new("shim"), &shim).map_err(|e| e.chain())
        }
        Err(message) => {
            // SAFETY: our own child, not reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            Err(message)
        }
    }
}

/// The working directory becomes the sandbox's, so that every later path is short.
fn prepare(dir: &Path, exits: &Path) -> io::Result<shim::Start> {
    rustix::process::chdir(dir)?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let exits = rustix::fs::open(exits, flags, Mode::empty())?;
    let _ = fs::remove_file("shim.sock");
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let old = rustix::process::umask(Mode::from_raw_mode(0o177));
    rustix::net::bind(&listener, &SocketAddrUnix::new("shim.sock")?)?;
    rustix::process::umask(old);
    rustix::net::listen(&listener, 64)?;
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let sandbox_id = name.try_into().map_err(|_| io::Error::other("sandbox id is too long"))?;
    Ok(shim::Start { sandbox_id, listener, exits })
}

/// No descriptor of the caller stays open: its ends of pipes must close when it ends.
fn detach() {
    // SAFETY: opens and duplicates descriptors of this process only.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        libc::close(null);
    }
}

/// This process, which has one thread, becomes one of the pod's.
fn join(groups: &[OsString]) {
    for group in groups {
        let _ = fs::write(group, "0");
    }
}

fn make(groups: &[OsString]) -> Result<i32, String> {
    let record: SandboxRecord = record::read_json(Path::new("sandbox.json")).ok_or("sandbox.json is missing")?;
    let config = record.config;
    let here = Path::new("");
    fs::create_dir_all("ns").map_err(|e| e.to_string())?;
    if !config.host_ipc {
        fs::create_dir_all("shm").map_err(|e| e.to_string())?;
        let data = c"mode=1777,size=67108864";
        let flags =
            rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
        rustix::mount::mount("shm", "shm", "tmpfs", flags, data).map_err(|e| format!("mount shm: {e}"))?;
        if let Some(map) = config.userns {
            let _ = std::os::unix::fs::chown("shm", Some(map.host_id), Some(map.host_id));
        }
    }
    let kinds = kinds(&config);
    let reaper = (config.share_process_namespace && !config.host_pid).then_some(groups);
    if kinds.is_empty() && reaper.is_none() {
        return Ok(0);
    }
    let holder = Holder::fork(&config, &kinds, reaper)?;
    for (kind, _) in &kinds {
        hold(&format!("/proc/{}/ns/{kind}", holder.pid), &namespace_path(here, kind))?;
    }
    if holder.reaper > 0 {
        hold(&format!("/proc/{}/ns/pid", holder.reaper), &namespace_path(here, "pid"))?;
    }
    Ok(holder.reaper)
}

fn kinds(config: &SandboxConfig) -> Vec<(&'static str, UnshareFlags)> {
    let mut kinds = Vec::new();
    if config.userns.is_some() {
        kinds.push(("user", UnshareFlags::NEWUSER));
    }
    if !config.host_network {
        kinds.push(("net", UnshareFlags::NEWNET));
        kinds.push(("uts", UnshareFlags::NEWUTS));
    }
    if !config.host_ipc {
        kinds.push(("ipc", UnshareFlags::NEWIPC));
    }
    kinds
}

fn hold(source: &str, place: &PathBuf) -> Result<(), String> {
    fs::write(place, "").map_err(|e| format!("{}: {e}", place.display()))?;
    rustix::mount::mount_bind(source, place).map_err(|e| format!("hold {source}: {e}"))
}

/// A child that has entered the new namespaces and waits until they are held.
struct Holder {
    pid: i32,
    reaper: i32,
    /// Closing it lets the child go.
    link: UnixStream,
}

impl Holder {
    fn fork(
        config: &SandboxConfig,
        kinds: &[(&str, UnshareFlags)],
        reaper: Option<&[OsString]>,
    ) -> Result<Holder, String> {
        let (link, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        // SAFETY: this process has one thread, so its child may run ordinary code.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(link);
            let code = match enter(config, kinds, reaper, &theirs) {
                Ok(()) => 0,
                Err(message) => {
                    let _ = (&theirs).write_all(format!("E{message}").as_bytes());
                    1
                }
            };
            // SAFETY: ends this process without running anything of its parent's.
            unsafe { libc::_exit(code) };
        }
        drop(theirs);
        let mut holder = Holder { pid, reaper: 0, link };
        if let Some(map) = config.userns {
            holder.expect(b'U')?;
            holder.map(map)?;
        }
        let text = holder.expect(b'R')?;
        holder.reaper = text.parse().unwrap_or(0);
        Ok(holder)
    }

    /// One short message; its first byte says what it is.
    fn expect(&mut self, kind: u8) -> Result<String, String> {
        let mut bytes = [0u8; 1024];
        let count = self.link.read(&mut bytes).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(bytes.get(1..count).unwrap_or_default()).into_owned();
        match bytes[0] {
            found if count > 0 && found == kind => Ok(text),
            _ if count > 0 => Err(text),
            _ => Err("the process that makes the namespaces died".into()),
        }
    }

    fn map(&mut self, map: IdMap) -> Result<(), String> {
        let line = format!("0 {} {}", map.host_id, map.size);
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", self.pid), &line).map_err(|e| format!("write {file}: {e}"))?;
        }
        self.link.write_all(b"M").map_err(|e| e.to_string())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.link.shutdown(std::net::Shutdown::Both);
        // SAFETY: our own child.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// In the child.
fn enter(
    config: &SandboxConfig,
    kinds: &[(&str, UnshareFlags)],
    reaper: Option<&[OsString]>,
    mut link: &UnixStream,
) -> Result<(), String> {
    let mut byte = [0u8; 1];
    if config.userns.is_some() {
        unshare(UnshareFlags::NEWUSER)?;
        link.write_all(b"U").and_then(|()| link.read_exact(&mut byte)).map_err(|e| e.to_string())?;
        // SAFETY: raw per-thread calls in a process with one thread; 0 is mapped.
        unsafe {
            libc::syscall(libc::SYS_setresgid, 0, 0, 0);
            libc::syscall(libc::SYS_setresuid, 0, 0, 0);
        }
    }
    let mut rest = UnshareFlags::empty();
    for (kind, flag) in kinds {
        if *kind != "user" {
            rest |= *flag;
        }
    }
    unshare(rest)?;
    if !config.host_network {
        rustix::system::sethostname(config.hostname.as_bytes()).map_err(|e| format!("set the hostname: {e}"))?;
        loopback_up().map_err(|e| format!("set lo up: {e}"))?;
        for (name, value) in SYSCTLS {
            // Absent where the kernel has no IPv4.
            let _ = set_sysctl(name, value);
        }
    }
    set_sysctls(&config.sysctls)?;
    let mut pid = 0;
    if let Some(groups) = reaper {
        unshare(UnshareFlags::NEWPID)?;
        // SAFETY: this process has one thread, so its child may run ordinary code.
        pid = unsafe { libc::fork() };
        if pid == 0 {
            join(groups);
            be_reaper();
        }
    }
    link.write_all(format!("R{pid}").as_bytes()).map_err(|e| e.to_string())?;
    let _ = link.read(&mut byte);
    Ok(())
}

fn unshare(flags: UnshareFlags) -> Result<(), String> {
    // SAFETY: none of these flags detaches the descriptor table or the memory of a thread; there is only one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|e| format!("unshare {flags:?}: {e}"))
}

/// The first process of a shared pid namespace: it only reaps.
fn be_reaper() -> ! {
    detach();
    // SAFETY: closes what was inherited, then waits for signals and children, all on this process alone.
    unsafe {
        libc::setsid();
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"bramble-reaper".as_ptr());
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        loop {
            let mut signal = 0;
            libc::sigwait(&set, &mut signal);
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
        }
    }
}

fn set_sysctls(sysctls: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in sysctls {
        set_sysctl(name, value).map_err(|e| format!("sysctl {name}={value}: {e}"))?;
    }
    Ok(())
}

/// A dot separates, unless slashes do; `..` leads nowhere.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = if name.contains('/') { name.to_string() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::write(Path::new("/proc/sys").join(path), value)
}

fn loopback_up() -> io::Result<()> {
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `request` is a valid ifreq with a NUL-terminated name; both calls read or write only it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
