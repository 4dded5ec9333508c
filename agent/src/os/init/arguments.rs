//! Pure: the command line of the daemon that a board's role asks for.

use std::path::{Path, PathBuf};

use super::{AUTHORITIES, BUNDLE, DATA, RUN, SITE};
use crate::os::config::{Config, Role};

/// `join_file` holds what an agent joins with.
pub(super) fn arguments(config: &Config, node_name: &str, join_file: Option<&Path>) -> Vec<String> {
    let address = config.controller.address.as_deref();
    let bundle = config.controller.bundle.is_some();
    // Without a controller there is nobody to work for; a board of its own is of more use.
    let role = match config.role {
        Role::Agent if !config.controller.is_named() => Role::Up,
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
    if role != Role::Agent && config.site.is_some() {
        option("--site", SITE);
    }
    if role != Role::Controller {
        let registries = &config.registries;
        registries.insecure.iter().for_each(|registry| option("--insecure-registry", registry));
        for (registry, urls) in &registries.mirrors {
            urls.iter().for_each(|url| option("--registry-mirror", &format!("{registry}={url}")));
        }
        for host in registries.ca.keys() {
            option("--registry-ca", &format!("{host}={}", authority_file(host).display()));
        }
        if let Some(overlay) = config.network.overlay {
            option("--overlay", overlay.word());
        }
        if let Some(seconds) = config.network.overlay_keepalive {
            option("--overlay-keepalive", &seconds.to_string());
        }
        if let Some(seconds) = config.network.node_lease_duration {
            option("--node-lease-duration", &format!("{seconds}s"));
        }
        if let Some(folder) = &config.cni.conf_dir {
            option("--cni-conf-dir", folder);
            config.cni.bin_dir.iter().for_each(|folders| option("--cni-bin-dir", folders));
        }
    }
    if role == Role::Agent {
        if let Some(address) = address {
            option("--server", address);
        }
        if let Some(file) = join_file {
            option("--join-file", &file.to_string_lossy());
        }
        if bundle {
            option("--bundle", BUNDLE);
        }
        // Nothing else on a flashed board knows what time it is.
        words.push("--set-clock".to_owned());
    }
    words
}

/// Where the authority of a registry is put down, for a daemon that takes files.
pub(super) fn authority_file(host: &str) -> PathBuf {
    Path::new(AUTHORITIES).join(format!("{host}.crt"))
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
        assert_eq!(
            line(agent),
            format!("agent {dirs} --server https://10.0.0.1:6443 --join-file /run/join --set-clock")
        );
        let mirror = "[registries.mirrors]\n\"docker.io\" = [\"http://m:1\", \"n\"]\n[registries.ca]\n\
                      n = \"-----BEGIN CERTIFICATE----- -----END CERTIFICATE-----\"";
        let asked = "--registry-mirror docker.io=http://m:1 --registry-mirror docker.io=n";
        let overlay = "[network]\noverlay = \"auto\"\noverlay-keepalive = 25\nnode-lease-duration = 600";
        let words = "--overlay auto --overlay-keepalive 25 --node-lease-duration 600s";
        assert_eq!(line(overlay), format!("up {dirs} {words}"));
        let site = "site = \"site.toml\"\n";
        assert_eq!(line(site), format!("up {dirs} --site /run/bramble-site"));
        assert!(!line(&format!("{site}{agent}")).contains("--site"));
        let cni = "[cni]\nconf-dir = \"/data/net.d\"\nbin-dir = \"/data/bin\"";
        assert_eq!(line(cni), format!("up {dirs} --cni-conf-dir /data/net.d --cni-bin-dir /data/bin"));
        assert_eq!(line(mirror), format!("up {dirs} {asked} --registry-ca n=/run/bramble-authorities/n.crt"));
        assert_eq!(line("role = \"agent\""), format!("up {dirs}"), "nobody to work for");
        let pin = format!("sha256:{}", "0".repeat(64));
        let found = format!("role = \"agent\"\n[controller]\ntoken = \"a.b\"\nca-pin = \"{pin}\"");
        assert_eq!(line(&found), format!("agent {dirs} --join-file /run/join --set-clock"), "found on the link");
        let bundle = parse(b"role = \"agent\"\n[controller]\nbundle = \"home.bundle\"").0;
        let words = arguments(&bundle, "pi-1", None).join(" ");
        assert_eq!(words, format!("agent {dirs} --bundle /run/bramble-bundle --set-clock"));
    }
}
