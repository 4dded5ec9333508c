//! Images: from a registry with a password, and from files.

use bramble_tests::image::tools;
use bramble_tests::registry::{PASSWORD, Registry, USER};
use serde_json::json;

use super::{Board, field, wait, wait_event, wait_field};

/// A pod that says one line and ends.
fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, {more}\
         containers: [{{name: one, image: '{image}', imagePullPolicy: IfNotPresent, \
         command: [sh, -c, 'echo this is $WHO']}}]}}}}\n---\n"
    )
}

const WAITING: &str = ".status.containerStatuses[0].state.waiting";

#[test]
fn images_come_from_a_registry_by_tag_digest_and_platform_with_a_secret() {
    let board = Board::up("registry", &["--insecure-registry", "127.0.0.1:5000"]);
    let registry = Registry::start(&board);
    let host = registry.host();
    let who = |name: &str| tools().with_config(json!({"Env": [format!("WHO={name}"), "PATH=/bin:/usr/bin"]}));
    let _ = registry.push(&who("tagged"), "team/tools", "1");
    let digest = registry.push(&who("by digest"), "team/tools", "2");
    let _ = registry.push(&who("private"), "team/private", "1");
    let _ = registry.push_index(&who("own"), &who("foreign"), "team/index", "1");
    let _ = board.kubectl(&format!(
        "create secret docker-registry pull --docker-server={host} --docker-username={USER} --docker-password={PASSWORD}"
    ));
    let other = "127.0.0.2:5000";
    let _ = board.kubectl(&format!(
        "create secret docker-registry other --docker-server={other} --docker-username={USER} --docker-password={PASSWORD}"
    ));
    let secret = "imagePullSecrets: [{name: pull}], ";
    board.apply(
        &[
            pod("tag", &format!("{host}/team/tools:1"), secret),
            pod("digest", &format!("{host}/team/tools@{digest}"), secret),
            pod("index", &format!("{host}/team/index:1"), secret),
            pod("anonymous", &format!("{host}/team/private:1"), ""),
            pod("secure", &format!("{other}/team/tools:1"), "imagePullSecrets: [{name: other}], "),
            pod("missing", &format!("{host}/team/tools:3"), secret),
        ]
        .concat(),
    );
    for (name, line) in [("tag", "tagged"), ("digest", "by digest"), ("index", "own")] {
        wait_field(&board, &format!("pod/{name}"), ".status.phase", "Succeeded");
        assert_eq!(board.kubectl(&format!("logs {name}")), format!("this is {line}\n"));
    }
    let image_id = field(&board, "pod/digest", ".status.containerStatuses[0].imageID");
    assert_eq!(image_id, format!("{host}/team/tools@{digest}"));
    wait_event(&board, "tag", "Pulled", "Successfully pulled image ");

    for (name, words) in [("missing", "not found"), ("secure", "failed to do request"), ("anonymous", "access denied")]
    {
        wait_field(&board, &format!("pod/{name}"), &format!("{WAITING}.reason"), "ImagePullBackOff");
        let message = field(&board, &format!("pod/{name}"), &format!("{WAITING}.message"));
        assert!(message.starts_with("Back-off pulling image "), "{message}");
        wait_event(&board, name, "Failed", "Error: ErrImagePull");
        wait_event(&board, name, "Failed", words);
    }

    let _ = registry.push(&who("late"), "team/tools", "3");
    wait_field(&board, "pod/missing", ".status.phase", "Succeeded");
    assert_eq!(board.kubectl("logs missing"), "this is late\n");

    // A service account's secret is its pods' secret.
    let patch = board.dir().join("patch.json");
    std::fs::write(&patch, r#"{"imagePullSecrets":[{"name":"pull"}]}"#).expect("written");
    let _ = board.kubectl(&format!("patch serviceaccount default --patch-file {}", patch.display()));
    let _ = registry.push(&who("known by account"), "team/tools", "4");
    board.apply(&pod("account", &format!("{host}/team/tools:4"), ""));
    wait_field(&board, "pod/account", ".status.phase", "Succeeded");

    drop(registry);
    let always = |name: &str, policy: &str, tag: &str| {
        pod(name, &format!("{host}/team/tools:{tag}"), secret).replace("IfNotPresent", policy)
    };
    board.apply(
        &[always("always", "Always", "1"), always("never", "Never", "9"), always("kept", "Never", "1")].concat(),
    );
    wait_field(&board, "pod/kept", ".status.phase", "Succeeded");
    wait_event(&board, "kept", "Pulled", "already present on machine");
    wait_field(&board, "pod/always", &format!("{WAITING}.reason"), "ImagePullBackOff");
    wait_field(&board, "pod/never", &format!("{WAITING}.reason"), "ErrImageNeverPull");
}

#[test]
fn images_come_from_oci_layouts_and_docker_archives() {
    let board = Board::up("import", &[]);
    let layout = board.dir().join("layout");
    tools().with_config(json!({"Env": ["WHO=layout", "PATH=/bin"]})).oci_layout("tests.local/layout:1", &layout);
    let _ = board.bramble(&format!("image import {}", layout.display()));
    let packed = board.dir().join("layout.tar");
    let _ = board.succeed(&["tar", "-C", &layout.to_string_lossy(), "-cf", &packed.to_string_lossy(), "."]);
    let _ = board.bramble(&format!("image import {} tests.local/packed:1", packed.display()));
    let archive = board.dir().join("docker.tar");
    tools().with_config(json!({"Env": ["WHO=docker", "PATH=/bin"]})).docker_archive("tests.local/docker:1", &archive);
    let _ = board.bramble(&format!("image import {}", archive.display()));

    let list = board.bramble("image list");
    for name in ["tests.local/layout:1", "tests.local/packed:1", "tests.local/docker:1"] {
        assert!(list.contains(name), "{list}");
    }
    let pods = ["layout", "packed", "docker"].map(|name| pod(name, &format!("tests.local/{name}:1"), ""));
    board.apply(&pods.concat());
    for (name, who) in [("layout", "layout"), ("packed", "layout"), ("docker", "docker")] {
        wait_field(&board, &format!("pod/{name}"), ".status.phase", "Succeeded");
        assert_eq!(board.kubectl(&format!("logs {name}")), format!("this is {who}\n"));
    }
    let _ = board.kubectl("delete pods --all --wait=false");
    wait(&board, "pods --all", "delete");
    for name in ["layout", "packed", "docker"] {
        assert_eq!(board.bramble(&format!("image rm tests.local/{name}:1")), "removed\n");
    }
    assert!(!board.bramble("image list").contains("tests.local"), "all are gone");
}
