//! Keys at rest as a control plane uses them: its own file, a user's, and a KMS v2 plugin on a real socket.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use bramble_store::{Durability, Precondition, Write};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::*;

const SECRET: &str = "a secret that must not be seen";

fn redb(dir: &Path) -> Config {
    Config::redb(dir.join("store.redb"))
}

async fn put(store: &Store) {
    let write = Write::put("secrets/ns/a", Precondition::Any, SECRET);
    store.write(vec![write], Durability::Durable).await.unwrap();
}

async fn reads(store: &Store) -> bool {
    store.get("secrets/ns/a").await.unwrap().is_some_and(|record| record.value == SECRET.as_bytes())
}

fn on_disk(dir: &Path) -> bool {
    let bytes = std::fs::read(dir.join("store.redb")).unwrap();
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("bramble-encryption-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[tokio::test]
async fn a_key_file_is_made_rotated_and_missed() {
    let dir = folder("own");
    let encryption = Encryption::new(&dir, None);
    let store = encryption.open(redb(&dir)).await.unwrap();
    put(&store).await;
    assert!(!on_disk(&dir) && reads(&store).await);
    let file = dir.join("encryption.yaml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let first = std::fs::read_to_string(&file).unwrap();
    assert_eq!(encryption.rotate(&store).await.unwrap(), Rotation { resealed: 1, keys_removed: 1 });
    drop(store);
    let second = std::fs::read_to_string(&file).unwrap();
    assert_eq!(config::own_keys(&second).unwrap().len(), 2);
    // The former key alone opens nothing any more; a missing file is not replaced by a new one.
    write_secret_file(&file, &first).unwrap();
    let refused = encryption.open(redb(&dir)).await.map(|_| ());
    assert!(matches!(refused, Err(EncryptionError::Store(OpenError::Sealed(_)))), "{refused:?}");
    std::fs::remove_file(&file).unwrap();
    let refused = encryption.open(redb(&dir)).await.map(|_| ());
    assert!(matches!(refused, Err(EncryptionError::Missing { .. })), "{refused:?}");
    assert!(!file.exists());
    write_secret_file(&file, &second).unwrap();
    assert!(reads(&encryption.open(redb(&dir)).await.unwrap()).await);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(encryption.open(redb(&dir)).await.map(|_| ()), Err(EncryptionError::Mode(_))));
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_store_from_before_is_sealed_at_its_next_start() {
    let dir = folder("before");
    let store = Store::open(redb(&dir)).unwrap();
    put(&store).await;
    drop(store);
    assert!(on_disk(&dir));
    let store = Encryption::new(&dir, None).open(redb(&dir)).await.unwrap();
    assert!(reads(&store).await);
    assert_eq!(
        store.rotate(store.sealing()).await.unwrap().resealed,
        1,
        "it was sealed, with a data key that goes now"
    );
    std::fs::remove_dir_all(dir).unwrap();
}

/// A plugin: the key that it uses now, by its number, as key id and annotation.
struct Fake(Mutex<u8>);

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    assert!(value.len() < 128, "one length byte");
    [&[number << 3 | 2, value.len() as u8], value].concat()
}

fn parts(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [tag, len, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(*len));
        found.push((tag >> 3, value.to_vec()));
        bytes = rest;
    }
    found
}

fn cipher(number: u8) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[number; 32]).unwrap())
}

impl Fake {
    fn answer(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        let now = *self.0.lock().unwrap();
        let parts = parts(message);
        let part = |number| parts.iter().find(|(field, _)| *field == number).map(|(_, value)| value.clone());
        let nonce = || Nonce::assume_unique_for_key([1; 12]);
        match method {
            "Status" => Ok([field(1, b"v2"), field(2, b"ok"), field(3, now.to_string().as_bytes())].concat()),
            "Encrypt" => {
                let mut sealed = part(1).unwrap();
                cipher(now).seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).unwrap();
                let entry = [field(1, b"key.example.com"), field(2, &[now])].concat();
                Ok([field(1, &sealed), field(2, now.to_string().as_bytes()), field(3, &entry)].concat())
            }
            "Decrypt" => {
                let number: u8 = String::from_utf8(part(3).unwrap()).unwrap().parse().unwrap();
                assert!(part(4).unwrap().ends_with(&[number]), "annotations come back");
                let mut sealed = part(1).unwrap();
                let plain = cipher(number).open_in_place(nonce(), Aad::empty(), &mut sealed);
                plain.map(|plain| field(1, plain)).map_err(|_| "it does not open")
            }
            _ => Err("no such method"),
        }
    }
}

/// Serves on a socket in a thread of its own until the process ends.
fn serve(socket: &Path, fake: Arc<Fake>) {
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let fake = fake.clone();
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let fake = fake.clone();
                    async move {
                        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let (status, answer) = match fake.answer(&method, &body[5..]) {
                            Ok(answer) => ("0", answer),
                            Err(_) => ("13", Vec::new()),
                        };
                        let head = [&[0], &(answer.len() as u32).to_be_bytes()[..], &answer].concat();
                        let trailers =
                            http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
                        let body = Full::new(Bytes::from(head)).with_trailers(std::future::ready(Some(Ok(trailers))));
                        let response = http::Response::builder().header("content-type", "application/grpc").body(body);
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
}

fn kms_file(dir: &Path) -> PathBuf {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers:\n  - kms: {{apiVersion: v2, name: fake, endpoint: 'unix://{}', timeout: 10s}}\n",
        dir.join("kms.sock").display()
    );
    let path = dir.join("kms.yaml");
    write_secret_file(&path, &text).unwrap();
    path
}

#[tokio::test]
async fn a_kms_plugin_wraps_the_data_keys() {
    let dir = folder("kms");
    let encryption = Encryption::new(&dir, Some(&kms_file(&dir)));
    let refused = encryption.open(redb(&dir)).await.map(|_| ());
    assert!(
        matches!(refused, Err(EncryptionError::Store(OpenError::Sealed(SealError::Service { .. })))),
        "{refused:?}"
    );
    let fake = Arc::new(Fake(Mutex::new(1)));
    serve(&dir.join("kms.sock"), fake.clone());
    let store = encryption.open(redb(&dir)).await.unwrap();
    put(&store).await;
    assert!(!on_disk(&dir) && reads(&store).await);
    drop(store);
    let store = encryption.open(redb(&dir)).await.unwrap();
    assert!(reads(&store).await);
    // The plugin's key changes: what it says next makes everything sealed anew.
    let mut known = encryption.services().unwrap();
    assert_eq!(known.ask(&store).await, (true, None));
    *fake.0.lock().unwrap() = 2;
    assert_eq!(known.ask(&store).await, (true, Some(Rotation { resealed: 1, keys_removed: 1 })));
    assert_eq!(known.ask(&store).await, (true, None));
    assert!(reads(&store).await);
    // A plugin that is away is told; what was opened before still reads.
    std::fs::remove_file(dir.join("kms.sock")).unwrap();
    assert_eq!(known.ask(&store).await, (false, None));
    assert!(reads(&store).await);
    std::fs::remove_dir_all(dir).unwrap();
}
