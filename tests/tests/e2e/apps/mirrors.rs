//! Mirrors of a registry: in order, over those that are down or lack an image, to the registry itself.

use bramble_tests::image::tools;
use bramble_tests::registry::{PASSWORD, Registry, USER};
use serde_json::json;

use super::{Board, wait_event, wait_field};

/// A pod that says one line and ends, with the secrets that it may pull with.
fn pod(name: &str, image: &str, secrets: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, \
         imagePullSecrets: [{secrets}], containers: [{{name: one, image: '{image}', \
         command: [sh, -c, 'echo this is $WHO']}}]}}}}\n---\n"
    )
}

/// The registry itself speaks plainly at port 5000; its mirrors are one that is down, and one with TLS.
#[test]
fn mirrors_are_asked_in_order_before_their_registry() {
    let mut board = Board::new("mirrors");
    board.start(&[]);
    let (down, up) = (Registry::start_at(&board, 5001, false), Registry::start_at(&board, 5002, true));
    let (down_host, up_host, authority) = (down.host(), up.host(), up.authority());
    drop((down, up));
    board.stop();
    let first = format!("127.0.0.1:5000=http://{down_host}");
    let second = format!("127.0.0.1:5000=https://{up_host}");
    let trust = format!("{up_host}={}", authority.display());
    let options = ["--insecure-registry", "127.0.0.1:5000", "--registry-mirror", &first, "--registry-mirror", &second];
    board.start(&[&options[..], &["--registry-ca", &trust]].concat());

    let (registry, mirror) = (Registry::start(&board), Registry::start_at(&board, 5002, true));
    let who = |name: &str| tools().with_config(json!({"Env": [format!("WHO={name}"), "PATH=/bin:/usr/bin"]}));
    let _ = registry.push(&who("the registry itself"), "team/both", "1");
    let _ = mirror.push(&who("the mirror"), "team/both", "1");
    let _ = registry.push(&who("the registry alone"), "team/one", "1");
    for (name, host) in [("registry", registry.host()), ("mirror", mirror.host())] {
        let account = format!("--docker-username={USER} --docker-password={PASSWORD}");
        let _ = board.kubectl(&format!("create secret docker-registry {name} --docker-server={host} {account}"));
    }
    let image = |name: &str| format!("{}/team/{name}:1", registry.host());
    let both = "{name: registry}, {name: mirror}";
    board.apply(&[pod("both", &image("both"), both), pod("alone", &image("one"), both)].concat());
    for (name, line) in [("both", "the mirror"), ("alone", "the registry alone")] {
        wait_field(&board, &format!("pod/{name}"), ".status.phase", "Succeeded");
        assert_eq!(board.kubectl(&format!("logs {name}")), format!("this is {line}\n"));
    }
    // The image bears the name that the pod gave, not the mirror's.
    assert!(board.bramble("image list").contains(&image("both")));

    // Whose secret is for the registry does not show it to the mirror, which has the same account.
    let _ = mirror.push(&who("a mirror that was shown a foreign secret"), "team/secret", "1");
    let _ = registry.push(&who("the secret's own registry"), "team/secret", "1");
    board.apply(&pod("secret", &image("secret"), "{name: registry}"));
    wait_field(&board, "pod/secret", ".status.phase", "Succeeded");
    assert_eq!(board.kubectl("logs secret"), "this is the secret's own registry\n");

    // When nobody gives, everybody who was asked is named.
    drop((registry, mirror));
    board.apply(&pod("nobody", "127.0.0.1:5000/team/none:1", both));
    for host in ["127.0.0.1:5000", &down_host, &up_host] {
        wait_event(&board, "nobody", "Failed", &format!("failed to do request: {host}"));
    }
}
