//! Shell: a daemon's options from a `bramble.toml`, the same file that a flashed board reads; what the command line says holds
//! against it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bramble_agent::os::config::{self, Config};

use super::Options;
use super::options::CNI_BIN_DIR;

/// Takes over what the file of `--config` says, if there is one.
pub(crate) fn take_over(options: &Options) -> anyhow::Result<Options> {
    let mut options = options.clone();
    let Some(path) = options.config.clone() else { return Ok(options) };
    let mut bytes = Vec::new();
    let file = fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(config::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let (config, mistakes) = config::parse(&bytes);
    if !mistakes.is_empty() {
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        bail!("{}", told.join("\n"));
    }
    // A daemon takes authorities as files.
    let authorities = options.run_dir.join("authorities");
    for (host, pem) in &config.registries.ca {
        let place = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&authorities)?;
            fs::write(authorities.join(format!("{host}.crt")), pem)
        };
        place().with_context(|| format!("cannot write below {}", authorities.display()))?;
    }
    fill(&mut options, config, path.parent().unwrap_or(Path::new(".")), &authorities);
    Ok(options)
}

/// Pure: the file lies in `beside`; the authorities of registries were written into `authorities`.
fn fill(options: &mut Options, config: Config, beside: &Path, authorities: &Path) {
    let Config { node_name, site, controller, registries, cni, network, .. } = config;
    options.node_name = options.node_name.take().or(node_name);
    options.site = options.site.take().or(site.map(|name| beside.join(name)));
    let named = options.token.is_some() || options.bundle.file.is_some() || options.join_file.is_some();
    if !named {
        options.bundle.file = controller.bundle.map(|name| beside.join(name));
        options.token = controller.token;
        options.ca_pin = options.ca_pin.take().or(controller.ca_pin);
    }
    options.server = options.server.take().or(controller.address);
    options.insecure_registries.extend(registries.insecure);
    for (registry, urls) in registries.mirrors {
        options.registry_mirrors.extend(urls.iter().map(|url| format!("{registry}={url}")));
    }
    options.overlay = options.overlay.or(network.overlay);
    options.overlay_keepalive_s = options.overlay_keepalive_s.or(network.overlay_keepalive);
    let lease = network.node_lease_duration.map(|seconds| Duration::from_secs(seconds.into()));
    options.node_lease_duration = options.node_lease_duration.or(lease);
    if options.cni_conf_dir.is_none()
        && let Some(folder) = cni.conf_dir
    {
        options.cni_conf_dir = Some(folder.into());
        // One that was given on the command line holds.
        if let Some(folders) = cni.bin_dir.filter(|_| options.cni_bin_dir == CNI_BIN_DIR) {
            options.cni_bin_dir = folders;
        }
    }
    let authority = |host: &String| format!("{host}={}", authorities.join(format!("{host}.crt")).display());
    options.registry_authorities.extend(registries.ca.keys().map(authority));
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn filled(mut options: Options, text: &str) -> Options {
        let (config, mistakes) = config::parse(text.as_bytes());
        assert_eq!(mistakes, []);
        fill(&mut options, config, Path::new("/boot"), Path::new("/run/authorities"));
        options
    }

    #[test]
    fn the_file_fills_what_the_command_line_leaves_open() {
        let text = "node-name = \"pi-1\"\nsite = \"site.toml\"\n[controller]\naddress = \"https://10.0.0.1:6443\"\nbundle = \"home.bundle\"\n\
                    [registries.ca]\n\"m:5000\" = \"-----BEGIN CERTIFICATE----- -----END CERTIFICATE-----\"\n\
                    [registries.mirrors]\n\"docker.io\" = [\"https://m:5000\"]\n[cni]\nconf-dir = \"/data/net.d\"\n";
        let options = filled(Options::default(), text);
        assert_eq!(options.node_name.as_deref(), Some("pi-1"));
        assert_eq!(options.bundle.file, Some(PathBuf::from("/boot/home.bundle")));
        assert_eq!(options.site, Some(PathBuf::from("/boot/site.toml")));
        assert_eq!(options.server.as_deref(), Some("https://10.0.0.1:6443"));
        assert_eq!(options.registry_mirrors, ["docker.io=https://m:5000"]);
        assert_eq!(options.registry_authorities, ["m:5000=/run/authorities/m:5000.crt"]);

        assert_eq!(options.cni_conf_dir, Some(PathBuf::from("/data/net.d")));
        assert_eq!(options.cni_bin_dir, "/opt/cni/bin");

        let told = Options { server: Some("https://b:1".into()), token: Some("a.b".into()), ..Options::default() };
        let options = filled(told, text);
        assert_eq!((options.server.as_deref(), options.token.as_deref()), (Some("https://b:1"), Some("a.b")));
        assert_eq!(options.bundle.file, None, "a token that was given is the one to use");
    }
}
