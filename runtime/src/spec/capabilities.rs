//! Pure: which capabilities a container gets.

use crate::{
    config::Security,
    host::{CAPABILITIES, Host},
};

/// What an unprivileged container has unless it says otherwise: containerd's default set.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn normal(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// `ALL` first, single names after it, as CRI says; never more than this process itself may grant.
pub(crate) fn granted(security: &Security, host: &Host) -> Vec<String> {
    let add: Vec<String> = security.capabilities.add.iter().map(|c| normal(c)).collect();
    let drop: Vec<String> = security.capabilities.drop.iter().map(|c| normal(c)).collect();
    let all = |list: &[String]| list.iter().any(|c| c == "ALL");
    let mut set: Vec<&str> = if security.privileged || all(&add) {
        CAPABILITIES.to_vec()
    } else if all(&drop) {
        Vec::new()
    } else {
        DEFAULT.to_vec()
    };
    set.extend(add.iter().map(String::as_str));
    if !security.privileged {
        set.retain(|c| !drop.iter().any(|d| d == c));
    }
    set.retain(|c| host.may(c));
    set.sort_unstable();
    set.dedup();
    set.into_iter().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroup::Hierarchy, config::Capabilities};

    fn host(without: &str) -> Host {
        let capabilities = CAPABILITIES.iter().copied().filter(|c| *c != without).collect();
        Host {
            capabilities,
            oom_score_adj: 0,
            hard_limits: Vec::new(),
            open_files_max: u64::MAX,
            counts_swap: true,
            hierarchy: Hierarchy::V2,
        }
    }

    fn with(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        let capabilities = Capabilities { add: list(add), drop: list(drop) };
        granted(&Security { capabilities, ..Security::default() }, &host("CAP_SYS_RESOURCE"))
    }

    #[test]
    fn names_are_added_and_dropped() {
        assert_eq!(with(&[], &[]).len(), 14);
        assert!(with(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN".to_string()));
        assert!(!with(&[], &["CAP_NET_RAW"]).contains(&"CAP_NET_RAW".to_string()));
        assert_eq!(with(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        let most = with(&["ALL"], &["SYS_ADMIN"]);
        assert!(most.contains(&"CAP_BPF".to_string()) && !most.contains(&"CAP_SYS_ADMIN".to_string()));
    }

    #[test]
    fn what_we_lack_is_not_granted() {
        assert!(!with(&["SYS_RESOURCE"], &[]).contains(&"CAP_SYS_RESOURCE".to_string()));
        let privileged = Security { privileged: true, ..Security::default() };
        assert_eq!(granted(&privileged, &host("CAP_SYS_RESOURCE")).len(), CAPABILITIES.len() - 1);
    }
}
