//! A board is its key: it comes back after years, and is shut out with one command.

use std::fs;
use std::path::{Path, PathBuf};

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::lan::Lan;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};

use crate::teller::HOLDER;

const SERVER: &str = "https://10.99.0.1:6443";

fn credentials(board: &Board) -> PathBuf {
    board.dir().join("data/agent/pki/client.pem")
}

/// The certificate of a board as it would be if it had been off since 2021.
fn put_to_sleep(board: &Board, controller: &Board) {
    let read = |path: &Path| fs::read_to_string(path).expect("read");
    let pki = controller.dir().join("data/pki");
    let authority = KeyPair::from_pem(&read(&pki.join("ca.key"))).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read(&pki.join("ca.crt")), authority).expect("a certificate");
    let held = read(&credentials(board));
    let key = &held[held.find("-----BEGIN PRIVATE KEY").expect("it follows the certificate")..];
    let key = KeyPair::from_pem(key).expect("the board's key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:pi-2");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let expired = params.signed_by(&key, &issuer).expect("signed");
    fs::write(credentials(board), format!("{}{}", expired.pem(), key.serialize_pem())).expect("written");
}

/// The status with which the API server answers what a board's certificate, or a token, asks for.
fn status(board: &Board, path: &str, who: &[&str]) -> String {
    let mut command = board.command("curl");
    command.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"]).args(who);
    let told = output(command.arg(format!("{SERVER}{path}")));
    String::from_utf8_lossy(&told.stdout).into_owned()
}

#[test]
fn a_board_that_slept_for_years_rejoins_and_a_stolen_one_is_shut_out() {
    let lan = Lan::new(1);
    let mut one = lan.board("identity", 0);
    one.start(&[]);
    let mut two = lan.board("identity", 0);
    two.join(&one, "pi-2");
    two.load_tools();
    let keys = one.bramble("node list");
    assert!(keys.contains("pi-1 ") && keys.contains("pi-2 ") && keys.lines().count() == 3, "{keys}");

    two.stop();
    put_to_sleep(&two, &one);
    let asleep = fs::read(credentials(&two)).expect("read");
    let path = credentials(&two).to_string_lossy().into_owned();
    let as_board = ["--cert", path.as_str()];
    for refused in ["/api/v1/nodes/pi-2", "/api/v1/pods?fieldSelector=spec.nodeName%3Dpi-2", "/api", "/api/v1/secrets"]
    {
        assert_eq!(status(&two, refused, &as_board), "403", "{refused}");
    }
    // Nobody gives it a token; the key is enough, for this one thing.
    two.join_by(&one, &["--server", SERVER, "--node-name", "pi-2"], "pi-2");
    one.eventually("it has renewed", 30, || two.log().contains("renewed the client certificate").then_some(()));
    assert_ne!(fs::read(credentials(&two)).expect("read"), asleep);
    assert_eq!(status(&two, "/api/v1/nodes/pi-2", &as_board), "200");
    assert_eq!(one.bramble("node list"), keys, "it is the same key");
    one.apply(HOLDER);
    let _ = one.kubectl("wait pod holder --for=condition=Ready --timeout=60s");

    let token = one.kubectl("exec holder -- cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(status(&two, "/api", &["-H", &bearer]), "200");
    let said = one.bramble("node revoke pi-2");
    assert!(said.contains("1 key(s) shut out") && said.contains("1 pod(s) are removed"), "{said}");
    assert_eq!(status(&two, "/api", &as_board), "401");
    assert_eq!(status(&two, "/api", &["-H", &bearer]), "401");
    two.eventually("the board is told", 30, || two.log().to_lowercase().contains("unauthorized").then_some(()));
    assert!(!one.try_kubectl("get node pi-2").status.success(), "it does not come back by itself");

    // A card that was written anew joins under the name only when a person says so.
    two.stop();
    let _ = two.bramble("down --purge");
    let line = one.bramble("token create");
    let words: Vec<&str> = line.split_whitespace().skip(2).chain(["--node-name", "pi-2"]).collect();
    two.begin(&words);
    let pending = "get csr -o jsonpath={.items[?(@.spec.username!=\"system:node:pi-2\")].metadata.name}";
    let open = one.eventually("its request waits", 30, || {
        let all = one.try_kubectl(pending);
        let names = String::from_utf8_lossy(&all.stdout).into_owned();
        names
            .split_whitespace()
            .map(str::to_owned)
            .find(|name| one.kubectl(&format!("get csr {name} -o jsonpath={{.status.conditions}}")).is_empty())
    });
    let _ = one.kubectl(&format!("certificate approve {open}"));
    one.eventually("it is ready", 30, || {
        one.try_kubectl("wait node pi-2 --for=condition=Ready --timeout=1s").status.success().then_some(())
    });
    assert!(one.bramble("node list").lines().count() == 4, "one key more");
}
