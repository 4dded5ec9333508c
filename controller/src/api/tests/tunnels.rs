//! Boards that cannot be reached: what is asked of them, and who may open a tunnel.

use super::*;
use crate::api::tunnels::Tunnels;

const NODES: Resource = Resource::new("", "v1", "nodes");
const PATH: &str = "/bramble/v1/tunnel/pi-2?for=192.0.2.7:6443";

#[tokio::test]
async fn a_board_is_asked_by_its_node_and_waited_for_in_vain() {
    let (api, client) = cluster().await;
    client.create(&NODES, None, &json!({"metadata": {"name": "pi-2"}})).await.unwrap();
    tokio::time::pause();
    let tunnels = Tunnels::new("192.0.2.7:6443");
    assert!(tunnels.tries_direct("pi-2", crate::api::tunnels::Place::Kubelet));
    let wish = || async {
        let told = tunnels.open(api.registry(), "pi-2", "kubelet:10250").await;
        assert_eq!(told.err().as_deref(), Some("the board opened no connection within 10 s"));
        let node = client.get(&NODES, None, "pi-2").await.unwrap();
        node["metadata"]["annotations"]["bramble.dev/tunnel"].as_str().unwrap().to_owned()
    };
    let first = wish().await;
    assert!(first.starts_with("192.0.2.7:6443 20"), "{first}");
    assert_ne!(wish().await, first, "each wish is a change that the board sees");
    let nowhere = tunnels.open(api.registry(), "pi-3", "kubelet:10250").await.err().unwrap();
    assert_eq!(nowhere, "the board cannot be asked for a connection: nodes \"pi-3\" not found");
}

#[tokio::test]
async fn a_tunnel_is_for_the_board_itself_with_its_certificate() {
    let (api, _) = cluster().await;
    let ask = |name: &'static str, groups: &'static [&'static str]| {
        let api = api.clone();
        async move {
            let request = http::Request::get(PATH).body(body::full("")).unwrap();
            let answer = api.handle(Identity::user(name, groups), request).await;
            let (head, body) = answer.into_parts();
            let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            (head.status.as_u16(), serde_json::from_slice::<Value>(&bytes).unwrap()["message"].to_string())
        }
    };
    for (name, groups) in [("root", &["system:masters"]), ("system:node:pi-1", &["system:nodes"])] {
        let (code, message) = ask(name, groups).await;
        assert!(code == 403 && message.contains("only the board itself"), "{name}: {code} {message}");
    }
    let (code, message) = ask("system:node:pi-2", &["system:nodes"]).await;
    assert!(code == 403 && message.contains("takes the board's certificate"), "{code} {message}");
}
