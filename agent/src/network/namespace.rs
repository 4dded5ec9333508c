//! Shell: network namespaces for tests: own names, entered by threads, removed even when a test fails.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static NUMBER: AtomicU32 = AtomicU32::new(0);
const PATIENCE: Duration = Duration::from_secs(2);

/// A network namespace with a name of its own; its loopback is up.
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root: it makes network namespaces of its own");
        let name = format!("bramble-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        run(&["ip", "netns", "add", &name]);
        let namespace = Self(name);
        namespace.run(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}", self.0))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Runs a command inside; what it prints.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let net = format!("--net={}", self.path().display());
        run(&[&["nsenter", &net], command].concat())
    }

    /// Calls `work` on a thread inside.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Answers each TCP connection and each datagram at `at` with `<name> <peer's address>`, until the test ends.
    pub(crate) fn serve(&self, name: &str, at: SocketAddr) {
        let (tcp, udp) = self.enter(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        let (tcp_name, udp_name) = (name.to_owned(), name.to_owned());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = tcp.accept() {
                let _ = writeln!(stream, "{tcp_name} {}", peer.ip());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{udp_name} {}\n", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// What answers over TCP: its name and the address that it sees; or the kind of the error.
    pub(crate) fn ask(&self, at: &str) -> Result<(String, IpAddr), std::io::ErrorKind> {
        let at: SocketAddr = at.parse().unwrap();
        self.enter(|| {
            let stream = TcpStream::connect_timeout(&at, PATIENCE).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).map_err(|error| error.kind())?;
            Ok(split(&line))
        })
    }

    /// The same over UDP from a port of ours (0 for any).
    pub(crate) fn ask_udp(&self, from: u16, at: &str) -> Result<(String, IpAddr), std::io::ErrorKind> {
        let at: SocketAddr = at.parse().unwrap();
        self.enter(|| {
            let socket = UdpSocket::bind((if at.is_ipv4() { "0.0.0.0" } else { "::" }, from)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 128];
            let answer = socket.connect(at).and_then(|()| socket.send(b"?")).and_then(|_| socket.recv(&mut buffer));
            let length = answer.map_err(|error| error.kind())?;
            Ok(split(std::str::from_utf8(&buffer[..length]).unwrap()))
        })
    }
}

fn split(line: &str) -> (String, IpAddr) {
    let (name, ip) = line.trim().split_once(' ').expect("a name and an address");
    (name.to_owned(), ip.parse().unwrap())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// Runs a command that must succeed; what it prints.
pub(crate) fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
