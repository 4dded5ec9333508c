//! Pure: the names that one board's Bramble uses on its host; several live side by side.

use std::path::{Path, PathBuf};

/// Where one instance keeps its files and how its names on the host begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Eight hex digits that derive from the data directory's path.
    pub name: String,
    /// What survives a reboot.
    pub data_dir: PathBuf,
    /// What does not: sockets, bundles, namespaces.
    pub run_dir: PathBuf,
    /// The cgroup below which every pod of this instance lives, relative to the hierarchy's mount.
    pub cgroup_root: String,
}

impl Instance {
    /// Derives every host name from the data directory; `cgroup_root` may be overridden.
    #[must_use]
    pub fn new(data_dir: &Path, run_dir: &Path, cgroup_root: Option<&str>) -> Self {
        let name = fingerprint(data_dir.as_os_str().as_encoded_bytes());
        let cgroup_root =
            cgroup_root.map_or_else(|| format!("bramble-{name}"), |root| root.trim_matches('/').to_owned());
        Self { name, data_dir: data_dir.to_owned(), run_dir: run_dir.to_owned(), cgroup_root }
    }

    /// The nftables table of this instance, family `inet`.
    #[must_use]
    pub fn nft_table(&self) -> String {
        format!("bramble-{}", self.name)
    }

    /// A host interface name: `br`, six digits of the instance, and `suffix`; at most 15 bytes as the kernel wants.
    #[must_use]
    pub fn interface(&self, suffix: &str) -> String {
        let mut name = format!("br{}{suffix}", &self.name[..6]);
        name.truncate(15);
        name
    }
}

/// FNV-1a, 32 bit: short, stable across versions and architectures; not a secret, so no cryptography is needed.
fn fingerprint(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_data_dirs_share_no_name() {
        let a = Instance::new(Path::new("/var/lib/bramble"), Path::new("/run/bramble"), None);
        let b = Instance::new(Path::new("/srv/b"), Path::new("/run/b"), None);
        assert_ne!(a.nft_table(), b.nft_table());
        assert_ne!(a.cgroup_root, b.cgroup_root);
        assert_ne!(a.interface("v0"), b.interface("v0"));
    }

    #[test]
    fn an_interface_name_fits_the_kernel() {
        let a = Instance::new(Path::new("/var/lib/bramble"), Path::new("/run/bramble"), Some("/edge/"));
        assert_eq!(a.cgroup_root, "edge");
        assert!(a.interface("abcdefghijkl").len() <= 15);
    }
}
