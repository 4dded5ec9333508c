//! How a board comes into a cluster: by a line that is pasted, or by a file that is carried over.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bramble_tests::board::Board;
use bramble_tests::host::{binary, output};
use bramble_tests::lan::Lan;

/// What an agent says that does not get into the cluster.
fn refused(board: &Board, words: &[&str]) -> String {
    let mut command = board.command("timeout");
    let told = output(command.arg("30").arg(binary()).arg("agent").args(words).args(board.directories()));
    assert!(!told.status.success() && told.status.code() != Some(124), "it ended by itself");
    String::from_utf8_lossy(&told.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_board_joins_by_the_bundle_that_its_file_names() {
    let lan = Lan::new(1);
    let mut one = lan.board("join", 0);
    one.start(&[]);
    let (mut two, three) = (lan.board("join", 0), lan.board("join", 0));

    // It will have expired when it is used.
    let short = one.dir().join("short.bundle");
    let _ = one.bramble(&format!("token create --ttl 10s --bundle {}", short.display()));
    let bundle = two.dir().join("home.bundle");
    let _ = one.bramble(&format!("token create --bundle {}", bundle.display()));
    assert_eq!(fs::metadata(&bundle).expect("written").permissions().mode() & 0o777, 0o600);
    let again =
        output(one.command(binary()).args(["token", "create", "--bundle", text(&bundle)]).args(one.directories()));
    assert!(!again.status.success(), "an older bundle is not overwritten");
    assert!(String::from_utf8_lossy(&again.stderr).contains("name a new file"), "{again:?}");
    let tokens = one.bramble("token list");
    assert_eq!(tokens.matches("token create").count(), 2, "no token was made for nothing:\n{tokens}");

    let config = two.dir().join("bramble.toml");
    fs::write(&config, "node-name = \"pi-2\"\n[controller]\nbundle = \"home.bundle\"\n").expect("written");
    two.join_by(&one, &["--config", text(&config)], "pi-2");

    // Nothing of it may be changed.
    let whole = fs::read_to_string(&bundle).expect("read");
    let changed = three.dir().join("changed.bundle");
    fs::write(&changed, whole.replace("10.99.0.1", "10.99.0.7")).expect("written");
    let said = refused(&three, &["--bundle", text(&changed)]);
    assert!(said.contains("its signature does not hold"), "{said}");
    fs::write(&changed, &whole[..whole.len() / 2]).expect("written");
    let said = refused(&three, &["--bundle", text(&changed)]);
    assert!(said.contains("not a whole one"), "{said}");
    let other = format!("sha256:{}", "0".repeat(64));
    let said = refused(&three, &["--bundle", text(&bundle), "--ca-pin", &other]);
    assert!(said.contains("foreign cluster"), "{said}");
    let server = ["--server", "https://10.99.0.1:6443"];
    let said = refused(&three, &[&server[..], &["--token", "abcdef.0123456789abcdef", "--ca-pin", &other]].concat());
    assert!(said.contains("does not hold the pinned key"), "{said}");
    let line = one.bramble("token create");
    let pin = line.split_whitespace().last().expect("the pin");
    let said = refused(&three, &[&server[..], &["--token", "abcdef.0123456789abcdef", "--ca-pin", pin]].concat());
    assert!(said.contains("the cluster does not accept the token") && said.contains("token create"), "{said}");
    assert!(one.log().contains("a bootstrap token was refused"), "the controller says so too: {}", one.log());
    fs::write(&config, "node-nam = \"pi-3\"\n").expect("written");
    let said = refused(&three, &["--config", text(&config)]);
    assert!(said.contains("line 1") && said.contains("cure"), "{said}");

    let expired =
        one.try_eventually(30, || (one.bramble("token list").matches("token create").count() == 2).then_some(()));
    assert!(expired.is_some(), "the short token is cleaned up");
    let said = refused(&three, &["--bundle", text(&short), "--node-name", "pi-3"]);
    assert!(said.contains("the join bundle expired at") && said.contains("token create"), "{said}");
}

#[test]
fn a_board_that_is_told_no_address_finds_its_controller() {
    let lan = Lan::new(1);
    let mut one = lan.board("found", 0);
    one.start(&[]);
    let (mut two, stranger) = (lan.board("found", 0), lan.board("found", 0));
    let line = one.bramble("token create");
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| words[words.iter().position(|word| *word == name).expect("printed") + 1];
    let (token, pin) = (value("--token"), value("--ca-pin"));
    two.join_by(&one, &["--token", token, "--ca-pin", pin, "--node-name", "pi-2"], "pi-2");

    // Whom somebody else on the link tells of is only asked for the pinned key.
    let other = format!("sha256:{}", "0".repeat(64));
    let mut command = stranger.command("timeout");
    command.arg("5").arg(binary()).args(["agent", "--token", token, "--ca-pin", &other]).args(stranger.directories());
    let said = String::from_utf8_lossy(&output(&mut command).stderr).into_owned();
    assert!(said.contains("are of other clusters: 10.99.0.1:6443"), "{said}");

    // As a router does that gives out another address.
    one.stop();
    for line in
        ["addr del 10.99.0.1/24 dev eth0", "addr add 10.99.0.77/24 dev eth0", "route add default via 10.99.0.254"]
    {
        let _ = one.succeed(&["ip"].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
    }
    one.start(&[]);
    let found = one.try_eventually(60, || {
        let log = two.log();
        log.contains("connected to the API server server=10.99.0.77:6443").then_some(())
    });
    assert!(found.is_some(), "{}", two.log());
    let last = || one.kubectl("get lease pi-2 -n kube-node-lease -o jsonpath={.spec.renewTime}");
    let before = last();
    one.eventually("its lease goes on", 60, || (last() != before).then_some(()));
    let _ = stranger.bramble("down --purge");
}
