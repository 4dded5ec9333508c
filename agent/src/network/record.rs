//! Shell: what is known of each attached sandbox, so that an agent that starts again neither hands an address out twice nor
//! forgets a host port; and the board's own ranges.

use super::cidr::Cidr;
use crate::pods::{HostPort, Protocol};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// An attached sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) interface: String,
    pub(crate) ips: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Port {
    ip: Option<IpAddr>,
    host: u16,
    pod: u16,
    protocol: u8,
}

impl Record {
    pub(crate) fn new(interface: String, ips: Vec<IpAddr>, ports: &[HostPort]) -> Self {
        let ports = ports
            .iter()
            .map(|port| Port {
                ip: port.host_ip,
                host: port.host_port,
                pod: port.container_port,
                protocol: port.protocol.number(),
            })
            .collect();
        Self { interface, ips, ports }
    }

    pub(crate) fn host_ports(&self) -> Vec<HostPort> {
        let port = |port: &Port| HostPort {
            host_ip: port.ip,
            host_port: port.host,
            container_port: port.pod,
            protocol: match port.protocol {
                17 => Protocol::Udp,
                132 => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
        };
        self.ports.iter().map(port).collect()
    }
}

/// Ranges that a board was told, below the data dir: one that starts without its controller, or again after a crash,
/// connects pods at once.
#[derive(Debug, Clone)]
pub struct Ranges(PathBuf);

impl Ranges {
    /// Those that this board's own pods have their addresses from.
    pub(crate) fn below(data_dir: &Path) -> Self {
        Self::named(data_dir, "pod-ranges")
    }

    /// Those of this name.
    #[must_use]
    pub fn named(data_dir: &Path, name: &str) -> Self {
        Self(data_dir.join("agent").join(name))
    }

    /// One a line; what cannot be read is told again.
    #[must_use]
    pub fn load(&self) -> Vec<Cidr> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Writes only what changed, and the whole of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, ranges: &[Cidr]) -> io::Result<()> {
        if self.load() == ranges {
            return Ok(());
        }
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text: String = ranges.iter().map(|range| format!("{range}\n")).collect();
        let aside = self.0.with_extension("new");
        let mut file = std::fs::File::create(&aside)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;

    #[test]
    fn what_is_saved_is_loaded_and_rubbish_is_dropped() {
        let dir = std::env::temp_dir().join(format!("bramble-records-{}", std::process::id()));
        let records = Records::below(&dir.join("net"));
        assert!(records.load_all().unwrap().is_empty());
        let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Udp };
        let record = Record::new("br0".to_owned(), vec![IpAddr::from([10, 42, 0, 2])], std::slice::from_ref(&port));
        records.save("abc", &record).unwrap();
        std::fs::write(dir.join("net/torn.json"), b"{").unwrap();
        let loaded = records.load_all().unwrap();
        assert_eq!(loaded.get("abc"), Some(&record));
        assert_eq!(loaded["abc"].host_ports(), [port]);
        assert_eq!(loaded.len(), 1);
        records.remove("abc").unwrap();
        records.remove("abc").unwrap();
        assert!(records.load_all().unwrap().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
