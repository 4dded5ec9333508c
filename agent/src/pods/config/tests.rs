use serde_json::{Value, json};

use super::*;
use crate::pods::ImageConfig;

fn configured(pod: &Value, image: ImageConfig) -> Result<ContainerConfig, String> {
    let pod = Pod::read(pod).unwrap();
    let image = ImageRef { id: "sha256:1".into(), config: image, ..ImageRef::default() };
    container(&Inputs {
        pod: &pod,
        kind: ContainerKind::Main,
        container: &pod.spec.containers[0],
        attempt: 2,
        id: "c1",
        image: &image,
        sources: &Sources::default(),
        services: &[],
        facts: &Facts::default(),
        volumes: &BTreeMap::from([("v".to_owned(), PathBuf::from("/vol/v"))]),
        sub_paths: &BTreeMap::new(),
        pod_dir: Path::new("/pods/u"),
        seccomp_dir: Path::new("/seccomp"),
    })
}

fn pod(container: &Value) -> Value {
    let mut whole = json!({"name": "c", "image": "web:1"});
    whole.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [whole]}})
}

fn image() -> ImageConfig {
    ImageConfig { entrypoint: vec!["/e".into()], cmd: vec!["d".into()], ..ImageConfig::default() }
}

#[test]
fn command_and_args_override_as_the_table_of_kubernetes_says() {
    for (spec, args) in [
        (json!({}), vec!["/e", "d"]),
        (json!({"args": ["x"]}), vec!["/e", "x"]),
        (json!({"command": ["/c"]}), vec!["/c"]),
        (json!({"command": ["/c"], "args": ["$(A)"], "env": [{"name": "A", "value": "1"}]}), vec!["/c", "1"]),
    ] {
        assert_eq!(configured(&pod(&spec), image()).unwrap().args, args, "{spec}");
    }
}

#[test]
fn a_container_that_must_not_be_root_is_checked() {
    let spec = pod(&json!({"securityContext": {"runAsNonRoot": true}}));
    assert_eq!(
        configured(&spec, image()).unwrap_err(),
        "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
    );
    let named = ImageConfig { user: "www".into(), ..image() };
    assert!(configured(&spec, named).unwrap_err().contains("non-numeric user (www)"));
    assert!(configured(&spec, ImageConfig { user: "33:33".into(), ..image() }).is_ok());
}

#[test]
fn mounts_hold_volumes_and_the_pods_own_files() {
    let spec = pod(&json!({"volumeMounts": [{"name": "v", "mountPath": "/data", "readOnly": true}]}));
    let config = configured(&spec, image()).unwrap();
    let targets: Vec<_> = config.mounts.iter().map(|mount| mount.target.display().to_string()).collect();
    assert_eq!(targets, ["/data", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/termination-log"]);
    assert!(config.mounts[0].readonly);
    assert_eq!(config.log_path, Path::new("c/2.log"));
    assert_eq!(config.security.seccomp, Seccomp::RuntimeDefault);
}

#[test]
fn signals_have_names_and_numbers() {
    assert_eq!(signal_number("SIGQUIT"), Some(3));
    assert_eq!(signal_number("TERM"), Some(15));
    assert_eq!(signal_number("9"), Some(9));
    assert_eq!(signal_number("SIGRTMIN+3"), Some(37));
    assert_eq!(signal_number("SIGNONE"), None);
}
