//! Three etcd members over mTLS, each in a network namespace of its own, on one bridge in a fourth one. All of it goes with
//! the value, also when a test fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use bramble_store::{Backend, Config, Etcd, EtcdTls};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) const MEMBERS: usize = 3;

/// What happens to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9, and later a new start over the same data.
    Kill,
    /// Stopped in its tracks; its connections stay.
    Pause,
    /// Its link is down.
    Cut,
}

pub(crate) struct Cluster {
    name: String,
    dir: tempfile::TempDir,
    members: Vec<Option<Child>>,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(line: &str) {
    run(Command::new("ip").args(line.split(' ')));
}

fn address(member: usize) -> String {
    format!("10.98.0.{}", member + 1)
}

fn url(member: usize, port: u16) -> String {
    format!("https://{}:{port}", address(member))
}

/// Runs in a network namespace of a name, as its parent's other threads do not.
pub(crate) fn enter(name: &str) {
    let file = File::open(Path::new("/run/netns").join(name)).unwrap();
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
}

impl Cluster {
    /// Starts all members; they may answer a moment later.
    pub(crate) fn start() -> Cluster {
        let name = format!("bre{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut cluster = Cluster { name, dir: tempfile::tempdir().unwrap(), members: Vec::new() };
        cluster.make_certificates();
        let hub = cluster.hub();
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link set lo up"));
        ip(&format!("-n {hub} link add lan type bridge"));
        ip(&format!("-n {hub} addr add 10.98.0.254/24 dev lan"));
        ip(&format!("-n {hub} link set lan up"));
        for member in 0..MEMBERS {
            let own = cluster.netns(member);
            ip(&format!("netns add {own}"));
            ip(&format!("-n {own} link set lo up"));
            ip(&format!("-n {hub} link add port{member} type veth peer name eth0 netns {own}"));
            ip(&format!("-n {hub} link set port{member} master lan up"));
            ip(&format!("-n {own} addr add {}/24 dev eth0", address(member)));
            ip(&format!("-n {own} link set eth0 up"));
            cluster.members.push(None);
            cluster.start_member(member);
        }
        cluster
    }

    /// The namespace with the bridge, where clients live.
    pub(crate) fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn netns(&self, member: usize) -> String {
        format!("{}-{member}", self.name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make_certificates(&self) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "etcd-ca");
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap();
        fs::write(self.file("ca.crt"), authority.pem()).unwrap();
        let issuer = Issuer::new(params, authority_key);
        for member in 0..=MEMBERS {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("etcd-{member}"));
            params.subject_alt_names = vec![
                SanType::IpAddress(address(member).parse().unwrap()),
                SanType::IpAddress("127.0.0.1".parse().unwrap()),
            ];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(self.file(&format!("{member}.crt")), certificate.pem()).unwrap();
            fs::write(self.file(&format!("{member}.key")), key.serialize_pem()).unwrap();
        }
    }

    fn start_member(&mut self, member: usize) {
        let mut etcd = Command::new("nsenter");
        etcd.arg(format!("--net=/run/netns/{}", self.netns(member))).arg("etcd");
        etcd.args(["--name", &member.to_string(), "--logger", "zap", "--log-level", "error"]);
        etcd.arg("--data-dir").arg(self.file(&format!("data{member}")));
        let (client, peer) = (url(member, 2379), url(member, 2380));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        let all: Vec<String> = (0..MEMBERS).map(|member| format!("{member}={}", url(member, 2380))).collect();
        etcd.args(["--initial-cluster", &all.join(","), "--client-cert-auth", "--peer-client-cert-auth"]);
        for of in ["", "peer-"] {
            etcd.arg(format!("--{of}trusted-ca-file")).arg(self.file("ca.crt"));
            etcd.arg(format!("--{of}cert-file")).arg(self.file(&format!("{member}.crt")));
            etcd.arg(format!("--{of}key-file")).arg(self.file(&format!("{member}.key")));
        }
        let child = etcd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.members[member] = Some(child.expect("this test needs etcd: apt-get install etcd-server"));
    }

    fn signal(&self, member: usize, signal: Signal) {
        let pid = self.members[member].as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed()));
        kill_process(pid.unwrap(), signal).unwrap();
    }

    fn link(&self, member: usize, state: &str) {
        ip(&format!("-n {} link set port{member} {state}", self.hub()));
    }

    /// It happens.
    pub(crate) fn hurt(&mut self, member: usize, fault: Fault) {
        match fault {
            Fault::Kill => {
                let mut child = self.members[member].take().unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Fault::Pause => self.signal(member, Signal::STOP),
            Fault::Cut => self.link(member, "down"),
        }
    }

    /// It is over.
    pub(crate) fn heal(&mut self, member: usize, fault: Fault) {
        match fault {
            Fault::Kill => self.start_member(member),
            Fault::Pause => self.signal(member, Signal::CONT),
            Fault::Cut => self.link(member, "up"),
        }
    }

    /// For a store that asks this member first.
    pub(crate) fn config(&self, first: usize) -> Config {
        let read = |name: &str| fs::read(self.file(name)).unwrap();
        let mut etcd = Etcd::new((0..MEMBERS).map(|index| url((first + index) % MEMBERS, 2379)).collect());
        let identity_pem = Some((read(&format!("{MEMBERS}.crt")), read(&format!("{MEMBERS}.key"))));
        etcd.tls = Some(EtcdTls { ca_pem: read("ca.crt"), identity_pem });
        Config::new(Backend::Etcd(etcd))
    }

    /// The same without a certificate of our own.
    pub(crate) fn stranger(&self) -> Config {
        let mut config = self.config(0);
        if let Backend::Etcd(Etcd { tls: Some(tls), .. }) = &mut config.backend {
            tls.identity_pem = None;
        }
        config
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let names = (0..MEMBERS).map(|member| self.netns(member)).chain([self.hub()]);
        for name in names {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
