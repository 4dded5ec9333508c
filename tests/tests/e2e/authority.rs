//! Keys, certificates and the authority itself change under a running cluster.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::lan::Lan;

use crate::teller::HOLDER;

const SERVER: &str = "https://10.99.0.1:6443";

/// A watch on ConfigMaps by a token, written to a file; it ends with the test.
struct Watch(Child, PathBuf);

impl Watch {
    fn start(board: &Board, bearer: &str) -> Self {
        let told = board.dir().join("watch");
        let url = format!("{SERVER}/api/v1/namespaces/default/configmaps?watch=1");
        let mut curl = board.command("curl");
        curl.args(["-skN", "-H", bearer, &url]).stdout(File::create(&told).expect("a file")).stderr(Stdio::null());
        Self(curl.spawn().expect("curl"), told)
    }

    /// Whether it still lives and has told of this object.
    fn tells(&mut self, name: &str) -> bool {
        self.0.try_wait().expect("waited").is_none()
            && fs::read_to_string(&self.1).is_ok_and(|told| told.contains(name))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn status(board: &Board, bearer: &str) -> String {
    let mut command = board.command("curl");
    command.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", "-H", bearer]);
    let told = output(command.arg(format!("{SERVER}/api/v1/namespaces/default/configmaps")));
    String::from_utf8_lossy(&told.stdout).into_owned()
}

/// How many of the authorities a pod is told of.
fn authorities(one: &Board) -> usize {
    one.kubectl("get cm kube-root-ca.crt -o jsonpath={.data}").matches("BEGIN CERTIFICATE").count()
}

/// The board answers through its own server, and to nobody but the controller of today.
fn serves(one: &Board) -> bool {
    one.try_kubectl("exec holder -- true").status.success()
}

fn by_kubeconfig(one: &Board, config: &str) -> bool {
    one.try_kubectl(&format!("--kubeconfig {config} get --raw /api")).status.success()
}

#[test]
fn keys_and_the_authority_change_under_a_running_cluster() {
    let lan = Lan::new(1);
    let mut one = lan.board("authority", 0);
    one.start(&[]);
    let [mut awake, mut asleep] = [lan.board("authority", 0), lan.board("authority", 0)];
    awake.join(&one, "pi-2");
    awake.load_tools();
    asleep.join(&one, "pi-3");
    asleep.stop();
    one.apply(HOLDER);
    let _ = one.kubectl("wait pod holder --for=condition=Ready --timeout=60s");
    for line in ["create sa reader", "create rolebinding reader --clusterrole=view --serviceaccount=default:reader"] {
        let _ = one.kubectl(line);
    }
    let bearer = |token: &str| format!("Authorization: Bearer {}", token.trim());
    let early = bearer(&one.kubectl("create token reader"));
    let mut watch = Watch::start(&one, &early);
    let former = one.dir().join("former.kubeconfig").to_string_lossy().into_owned();
    fs::copy(one.dir().join("data/admin.kubeconfig"), &former).expect("copied");
    let path = |name: &str| one.dir().join("data/pki").join(name);
    let serving = fs::read(path("serving.crt")).expect("read");

    let told = one.bramble("certificate rotate");
    assert_eq!(told.matches("service-account key").count(), 2, "{told}");
    assert_ne!(fs::read(path("serving.crt")).expect("read"), serving);
    assert!(serves(&one) && by_kubeconfig(&one, &former));
    let late = bearer(&one.kubectl("create token reader"));
    assert_eq!((status(&one, &early).as_str(), status(&one, &late).as_str()), ("200", "200"));

    let told = one.bramble("certificate rotate-ca");
    assert_eq!(told.matches("authority ").count(), 2, "{told}");
    assert!(by_kubeconfig(&one, &former), "both are trusted");
    one.eventually("pods are told of both", 30, || (authorities(&one) == 2).then_some(()));
    let taken = |board: &Board| board.log().matches("authorities of today").count();
    for board in [&one, &awake] {
        one.eventually("the board takes them over", 60, || (taken(board) == 1).then_some(()));
        one.eventually("and renews", 60, || board.log().contains("renewed the client certificate").then_some(()));
    }
    one.eventually("its server is asked", 30, || serves(&one).then_some(()));

    let told = one.bramble("certificate retire-ca");
    assert!(told.contains("retired"), "{told}");
    assert!(!by_kubeconfig(&one, &former), "the former authority's word is worth nothing");
    one.eventually("pods are told of one", 30, || (authorities(&one) == 1).then_some(()));
    one.eventually("the board forgets the former one", 60, || (taken(&awake) == 2).then_some(()));
    one.eventually("its server is asked", 60, || serves(&one).then_some(()));
    let _ = one.kubectl("create cm after-all --from-literal=a=b");
    one.eventually("no watch was broken", 10, || watch.tells("after-all").then_some(()));
    assert_eq!((status(&one, &early).as_str(), status(&one, &late).as_str()), ("200", "200"));

    // It knows the first authority only, and its certificate is the first one's.
    asleep.join_by(&one, &["--server", SERVER, "--node-name", "pi-3"], "pi-3");
    assert_eq!(taken(&asleep), 1, "{}", asleep.log());
    assert!(asleep.log().contains("renewed the client certificate"));
    let known = fs::read_to_string(asleep.dir().join("data/agent/pki/ca.crt")).expect("read");
    assert_eq!(known.trim(), fs::read_to_string(path("ca.crt")).expect("read").trim());
    let restarted = one.bramble("certificate check");
    assert_eq!(restarted.matches("retired").count(), 1);
}
