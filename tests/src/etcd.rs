//! A real etcd cluster over mTLS: a member on each of three boards' network namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::board::Board;
use crate::host::need;

/// Dropping it ends the members and removes their data.
pub struct Etcd {
    dir: PathBuf,
    addresses: Vec<String>,
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// A member on each of these boards, by its address.
    ///
    /// # Panics
    /// etcd is not installed.
    #[must_use]
    pub fn start(boards: &[(&Board, &str)]) -> Self {
        need("etcd", "etcd-server");
        let dir = boards[0].0.dir().with_extension("etcd");
        fs::create_dir_all(&dir).expect("a directory of this test's own");
        let addresses: Vec<String> = boards.iter().map(|(_, address)| (*address).to_owned()).collect();
        let mut etcd = Self { dir, members: addresses.iter().map(|_| None).collect(), addresses };
        etcd.make_certificates();
        for (member, (board, _)) in boards.iter().enumerate() {
            etcd.start_member(member, board);
        }
        etcd
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where all members keep their data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn make_certificates(&self) {
        let write = |name: String, text: String| fs::write(self.file(&name), text).expect("written");
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "etcd-ca");
        let authority_key = key();
        let authority = params.self_signed(&authority_key).expect("a certificate");
        write("ca.crt".into(), authority.pem());
        let issuer = Issuer::new(params, authority_key);
        for (name, address) in self
            .addresses
            .iter()
            .enumerate()
            .map(|(at, it)| (at.to_string(), &**it))
            .chain([("client".into(), "127.0.0.1")])
        {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("etcd-{name}"));
            params.subject_alt_names = vec![SanType::IpAddress(address.parse().expect("an address"))];
            let key = key();
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            write(format!("{name}.crt"), certificate.pem());
            write(format!("{name}.key"), key.serialize_pem());
        }
    }

    /// Starts a member on its board, again over the data that it has.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_member(&mut self, member: usize, board: &Board) {
        let url = |member: usize, port: u16| format!("https://{}:{port}", self.addresses[member]);
        let mut etcd = board.command("etcd");
        etcd.args(["--name", &member.to_string(), "--logger", "zap", "--log-level", "error"]);
        etcd.arg("--data-dir").arg(self.file(&format!("data{member}")));
        let (client, peer) = (url(member, 2379), url(member, 2380));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        let all: Vec<String> = (0..self.addresses.len()).map(|it| format!("{it}={}", url(it, 2380))).collect();
        etcd.args(["--initial-cluster", &all.join(","), "--client-cert-auth", "--peer-client-cert-auth"]);
        for of in ["", "peer-"] {
            etcd.arg(format!("--{of}trusted-ca-file")).arg(self.file("ca.crt"));
            etcd.arg(format!("--{of}cert-file")).arg(self.file(&format!("{member}.crt")));
            etcd.arg(format!("--{of}key-file")).arg(self.file(&format!("{member}.key")));
        }
        let child = etcd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.members[member] = Some(child.expect("etcd starts"));
    }

    /// kill -9.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill_member(&mut self, member: usize) {
        let mut child = self.members[member].take().expect("it runs");
        child.kill().expect("it runs");
        let _ = child.wait();
    }

    /// What a controller is told of it.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let servers: Vec<String> = self.addresses.iter().map(|address| format!("https://{address}:2379")).collect();
        let file = |name: &str| self.file(name).to_string_lossy().into_owned();
        [
            ("--etcd-servers", servers.join(",")),
            ("--etcd-cafile", file("ca.crt")),
            ("--etcd-certfile", file("client.crt")),
            ("--etcd-keyfile", file("client.key")),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
