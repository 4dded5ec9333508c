//! Pure: the command line of the daemon that a board's role asks for.

use std::path::Path;

use super::{DATA, RUN};
use crate::os::config::{Config, Role};

/// `join_file` holds what an agent joins with.
pub(super) fn arguments(config: &Config, node_name: &str, join_file: Option<&Path>) -> Vec<String> {
    let address = config.controller.address.as_deref();
    // Without an address there is nobody to work for; a board of its own is of more use.
    let role = match config.role {
        Role::Agent if address.is_none() => Role::Up,
        role => role,
    };
    let verb = match role {
        Role::Up => "up",
        Role::Controller => "controller",
        Role::Agent => "agent",
    };
    let mut words = vec![verb.to_owned()];
    let mut option = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
    option("--data-dir", &format!("{DATA}/bramble"));
    option("--run-dir", RUN);
    option("--node-name", node_name);
    if role != Role::Controller {
        config.registries.insecure.iter().for_each(|registry| option("--insecure-registry", registry));
    }
    if let (Role::Agent, Some(address)) = (role, address) {
        option("--server", address);
        if let Some(file) = join_file {
            option("--join-file", &file.to_string_lossy());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::config::parse;

    fn line(text: &str) -> String {
        arguments(&parse(text.as_bytes()).0, "pi-1", Some(Path::new("/run/join"))).join(" ")
    }

    #[test]
    fn each_role_has_its_daemon() {
        let dirs = "--data-dir /data/bramble --run-dir /run/bramble --node-name pi-1";
        let registry = "[registries]\ninsecure = [\"a:1\"]";
        assert_eq!(line(registry), format!("up {dirs} --insecure-registry a:1"));
        assert_eq!(line(&format!("role = \"controller\"\n{registry}")), format!("controller {dirs}"));
        let agent = "role = \"agent\"\n[controller]\naddress = \"https://10.0.0.1:6443\"";
        assert_eq!(line(agent), format!("agent {dirs} --server https://10.0.0.1:6443 --join-file /run/join"));
        assert_eq!(line("role = \"agent\""), format!("up {dirs}"), "nobody to work for");
    }
}
