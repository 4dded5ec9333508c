//! Shell: the whole chain over a store in memory.

use bramble_store::{Config, Durability, Precondition, Write};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::token_request::IssueError;
use super::*;
use crate::pki::Pki;
use crate::pki::tests::Dir;

const NOW: i64 = 1_800_000_000;

struct World {
    _dir: Dir,
    pki: Pki,
    store: Store,
    authenticator: Authenticator,
}

async fn world() -> World {
    let dir = Dir::new("authn");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let store = Store::open(Config::memory()).unwrap();
    let tokens = Tokens::new(&pki, "cluster.local");
    let authenticator =
        Authenticator::new(store.clone(), pki.follow_authorities(), tokens, || Duration::from_secs(NOW as u64));
    let world = World { _dir: dir, pki, store, authenticator };
    world.put("serviceaccounts/blue/bot", json!({"metadata": {"uid": "s1"}})).await;
    world.put("nodes/pi-1", json!({"metadata": {"uid": "n1"}})).await;
    let pod = json!({"metadata": {"uid": "p1"}, "spec": {"serviceAccountName": "bot", "nodeName": "pi-1"}});
    world.put("pods/blue/web", pod).await;
    world
}

impl World {
    async fn put(&self, key: &str, value: Value) {
        let bytes = [vec![0; 4], value.to_string().into_bytes()].concat();
        self.store.write(vec![Write::put(key, Precondition::Any, bytes)], Durability::Durable).await.unwrap();
    }

    async fn remove(&self, key: &str) {
        self.store.write(vec![Write::delete(key, Precondition::Any)], Durability::Durable).await.unwrap();
    }

    async fn bearer(&self, token: &str) -> Result<Identity, AuthnError> {
        self.authenticator.authenticate(&header("authorization", &format!("Bearer {token}")), None).await
    }

    async fn token(&self, spec: Value) -> Result<Value, IssueError> {
        self.authenticator.issue_token("blue", "bot", &json!({"spec": spec})).await
    }
}

fn header(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
}

fn bound_to_web() -> Value {
    json!({"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "p1"}})
}

fn text(answer: &Value) -> String {
    answer["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_credentials_one_is_anonymous_and_with_wrong_ones_nobody() {
    let world = world().await;
    let authenticate = async |headers: HeaderMap| world.authenticator.authenticate(&headers, None).await;
    assert_eq!(authenticate(HeaderMap::new()).await, Ok(Identity::anonymous()));
    assert_eq!(authenticate(header("authorization", "Basic YTpi")).await, Ok(Identity::anonymous()));
    for token in ["x", "a.b.c", "abc123.0123456789abcdef"] {
        assert_eq!(world.bearer(token).await.unwrap_err().to_string(), "invalid bearer token", "{token}");
    }
}

#[tokio::test]
async fn a_pods_token_is_the_service_account_while_the_pod_lives() {
    let world = world().await;
    let answer = world.token(bound_to_web()).await.unwrap();
    assert_eq!(answer["status"]["expirationTimestamp"], time::format(NOW + 3607));
    let token = text(&answer);
    let identity = world.bearer(&token).await.unwrap();
    assert_eq!((identity.name.as_str(), identity.uid.as_str()), ("system:serviceaccount:blue:bot", "s1"));
    assert_eq!(identity.groups, ["system:serviceaccounts", "system:serviceaccounts:blue", "system:authenticated"]);
    assert_eq!(identity.extra["authentication.kubernetes.io/pod-name"], ["web"]);
    assert_eq!(identity.extra["authentication.kubernetes.io/node-uid"], ["n1"]);
    let claims = world.authenticator.tokens().verify(&token, NOW).unwrap();
    assert_eq!((claims.expires_at, claims.warn_after), (NOW + 365 * 86_400, Some(NOW + 3607)));

    world.put("pods/blue/web", json!({"metadata": {"uid": "p2"}, "spec": {"serviceAccountName": "bot"}})).await;
    assert!(world.bearer(&token).await.is_err());
    world.remove("pods/blue/web").await;
    assert_eq!(
        world.bearer(&token).await.unwrap_err().to_string(),
        "invalid bearer token, service account token has been invalidated"
    );
}

#[tokio::test]
async fn a_recreated_account_does_not_inherit_tokens() {
    let world = world().await;
    let token = text(&world.token(json!({})).await.unwrap());
    assert!(world.bearer(&token).await.is_ok());
    let dying = |at: i64| json!({"metadata": {"uid": "s1", "deletionTimestamp": time::format(at)}});
    world.put("serviceaccounts/blue/bot", dying(NOW - 30)).await;
    assert!(world.bearer(&token).await.is_ok());
    world.put("serviceaccounts/blue/bot", dying(NOW - 90)).await;
    assert!(world.bearer(&token).await.is_err());
    world.put("serviceaccounts/blue/bot", json!({"metadata": {"uid": "s2"}})).await;
    assert!(world.bearer(&token).await.is_err());
}

#[tokio::test]
async fn audiences_keep_tokens_apart() {
    let world = world().await;
    let token = text(&world.token(json!({"audiences": ["vault"]})).await.unwrap());
    assert!(world.bearer(&token).await.is_err());
    let review = async |audiences: Value| {
        let review = json!({"spec": {"token": token, "audiences": audiences}});
        world.authenticator.review(&review).await.unwrap()["status"].clone()
    };
    let accepted = review(json!(["other", "vault"])).await;
    assert_eq!((&accepted["authenticated"], &accepted["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(accepted["user"]["username"], "system:serviceaccount:blue:bot");
    let refused = review(json!([])).await;
    assert!(refused["authenticated"].is_null() && refused["error"].as_str().unwrap().contains("audiences"));
}

#[tokio::test]
async fn wrong_token_requests_are_told_in_upstreams_words() {
    let world = world().await;
    let error = async |spec: Value| world.token(spec).await.unwrap_err().to_string();
    assert_eq!(
        error(json!({"expirationSeconds": 5})).await,
        "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"
    );
    let to = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    assert_eq!(error(to("Pod", "gone", "")).await, "pods \"gone\" not found");
    assert_eq!(error(to("Lease", "x", "")).await, "cannot bind token to object of type /v1, Kind=Lease");
    assert!(error(to("Pod", "web", "p9")).await.contains("does not match the UID in record"));
    world.put("pods/blue/other", json!({"spec": {"serviceAccountName": "default"}})).await;
    assert!(error(to("Pod", "other", "")).await.contains("different serviceaccount name"));
    let missing = world.authenticator.issue_token("blue", "gone", &json!({})).await.unwrap_err();
    assert_eq!(missing.to_string(), "serviceaccounts \"gone\" not found");
}

#[tokio::test]
async fn a_legacy_token_lives_as_its_secret_does() {
    let world = world().await;
    let token = world.authenticator.tokens().issue_legacy("blue", ("bot", "s1"), "bot-token").unwrap();
    assert!(world.bearer(token.reveal()).await.is_err());
    let encoded = base64::prelude::BASE64_STANDARD.encode(token.reveal());
    world.put("secrets/blue/bot-token", json!({"data": {"token": encoded}})).await;
    assert_eq!(world.bearer(token.reveal()).await.unwrap().name, "system:serviceaccount:blue:bot");
    world.put("secrets/blue/bot-token", json!({"data": {"token": "eA=="}})).await;
    assert!(world.bearer(token.reveal()).await.is_err());
}

#[tokio::test]
async fn a_bootstrap_token_admits_a_board() {
    let world = world().await;
    let secret = bootstrap_token::secret("abc123.0123456789abcdef", Some(NOW + 60), "", &[]).unwrap();
    world.put("secrets/kube-system/bootstrap-token-abc123", secret).await;
    let identity = world.bearer("abc123.0123456789abcdef").await.unwrap();
    assert_eq!(identity.name, "system:bootstrap:abc123");
    assert!(world.bearer("abc123.0123456789abcdeg").await.is_err());
}

#[tokio::test]
async fn certificates_come_first_and_can_be_revoked() {
    let world = world().await;
    let key = crate::pki::key::Key::generate().unwrap();
    let der = world.pki.authorities().newest.client("ann", &["dev"], &key, NOW + 10).unwrap();
    let peer = PeerCertificate::new(vec![CertificateDer::from(der)]);
    let none = HeaderMap::new();
    let identity = world.authenticator.authenticate(&none, Some(&peer)).await.unwrap();
    assert_eq!((identity.name.as_str(), identity.groups), ("ann", vec!["dev".into(), "system:authenticated".into()]));
    assert!(identity.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
    world.authenticator.shut_out_only([crate::pki::key::sha256(&key.public_key())].into());
    assert_eq!(
        world.authenticator.authenticate(&none, Some(&peer)).await,
        Err(AuthnError::Certificate("revoked".into()))
    );
    let wrong = PeerCertificate::new(vec![CertificateDer::from(vec![1, 2, 3])]);
    assert!(world.authenticator.authenticate(&none, Some(&wrong)).await.is_err());
    let token = text(&world.token(json!({})).await.unwrap());
    let headers = header("authorization", &format!("Bearer {token}"));
    assert!(world.authenticator.authenticate(&headers, Some(&wrong)).await.is_ok());
}

#[tokio::test]
async fn a_board_that_slept_for_years_may_renew_and_nothing_else() {
    let world = world().await;
    let key = crate::pki::key::Key::generate().unwrap();
    let (none, years) = (HeaderMap::new(), 5 * 365 * 86_400);
    let peer = |name: &str, groups: &[&str]| {
        let der = world.pki.authorities().newest.client(name, groups, &key, NOW - years).unwrap();
        PeerCertificate::new(vec![CertificateDer::from(der)])
    };
    let board = peer("system:node:pi-1", &["system:nodes"]);
    let identity = world.authenticator.authenticate(&none, Some(&board)).await.unwrap();
    assert_eq!((identity.name.as_str(), identity.groups), ("system:node:pi-1", vec![boards::EXPIRED.to_owned()]));
    assert_eq!(identity.extra[boards::KEY], [hex(&crate::pki::key::sha256(&key.public_key()))]);
    for other in [peer("ann", &["system:nodes"]), peer("system:node:pi-1", &["system:nodes", "system:masters"])] {
        let refused = world.authenticator.authenticate(&none, Some(&other)).await;
        assert_eq!(refused, Err(AuthnError::Certificate("expired".into())));
    }
}

#[tokio::test]
async fn who_is_shut_out_is_refused_and_its_connection_ends() {
    let world = world().await;
    let key = crate::pki::key::Key::generate().unwrap();
    let der = world.pki.authorities().newest.client("system:node:pi-1", &["system:nodes"], &key, NOW + 10).unwrap();
    let peer = PeerCertificate::new(vec![CertificateDer::from(der)]);
    world.authenticator.follow(&world.store).await.unwrap();
    let none = HeaderMap::new();
    assert!(world.authenticator.authenticate(&none, Some(&peer)).await.is_ok());
    let hash = hex(&crate::pki::key::sha256(&key.public_key()));
    let entry = boards::Entry { node: "pi-1".into(), revoked: Some("2026-01-01T00:00:00Z".into()) };
    let data = json!({"data": {hash: serde_json::to_string(&entry).unwrap()}});
    let connection = {
        let (authenticator, peer) = (world.authenticator.clone(), peer.clone());
        tokio::spawn(async move { authenticator.shut_out(&peer).await })
    };
    tokio::task::yield_now().await;
    world.put("configmaps/kube-system/board-keys", data).await;
    connection.await.unwrap();
    assert!(world.authenticator.authenticate(&none, Some(&peer)).await.is_err());
    world.remove("configmaps/kube-system/board-keys").await;
    while world.authenticator.authenticate(&none, Some(&peer)).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_websocket_carries_its_token_as_a_protocol() {
    let world = world().await;
    let token = text(&world.token(json!({})).await.unwrap());
    let protocols = format!("v4.channel.k8s.io, {WEBSOCKET_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(&token));
    let identity = world.authenticator.authenticate(&header("sec-websocket-protocol", &protocols), None).await.unwrap();
    assert_eq!(identity.name, "system:serviceaccount:blue:bot");
}

#[test]
fn comparison_sees_every_byte() {
    assert!(constant_time_eq(b"abc", b"abc"));
    assert!(!constant_time_eq(b"abc", b"abd"));
    assert!(!constant_time_eq(b"abc", b"ab"));
}
