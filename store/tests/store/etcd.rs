//! A real etcd for a test: one member on loopback, gone with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use bramble_store::{Backend, Config, Etcd};

/// One running member.
pub(crate) struct Member {
    child: Child,
    pub(crate) dir: tempfile::TempDir,
    port: u16,
    stores: AtomicU64,
}

/// Ports that nobody listens on, all different.
fn free_ports() -> [u16; 2] {
    let bound = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    bound.map(|listener| listener.local_addr().unwrap().port())
}

impl Member {
    /// Starts one; it may answer a moment later.
    pub(crate) fn start() -> Member {
        let dir = tempfile::tempdir().unwrap();
        let [port, peer] = free_ports();
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "one", "--log-level", "error", "--logger", "zap"])
            .arg("--data-dir")
            .arg(dir.path().join("data"));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.args(["--initial-cluster", &format!("one={peer}")]);
        let child = etcd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("this test needs etcd: apt-get install etcd-server");
        Member { child, dir, port, stores: AtomicU64::new(0) }
    }

    /// Where stores of this name lie.
    pub(crate) fn at(&self, prefix: &str) -> Config {
        let mut etcd = Etcd::new(vec![format!("http://127.0.0.1:{}", self.port)]);
        etcd.prefix = prefix.to_owned();
        Config::new(Backend::Etcd(etcd))
    }

    /// A new store.
    pub(crate) fn config(&self) -> Config {
        self.at(&format!("/store{}", self.stores.fetch_add(1, Ordering::SeqCst)))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
