//! SQLite with a write-ahead log and a flush a commit, through Debian's shell: a pipe's round trip a commit. It has no
//! group commit, so a hundred clients are one transaction for all that wait, as an application would write it.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Figures, Load, Meter};

const SETUP: &str = "PRAGMA journal_mode=WAL;\nPRAGMA synchronous=FULL;\n\
    CREATE TABLE records (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;\nSELECT 'ready';\n";

pub(crate) fn run(dir: &Path, load: Load) -> Figures {
    let dir = dir.join("sqlite");
    fs::create_dir_all(&dir).unwrap();
    let mut shell = Command::new("sqlite3")
        .args(["-batch", "-init", "/dev/null"])
        .arg(dir.join("records.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's sqlite3 is needed: apt-get install sqlite3");
    let mut to = shell.stdin.take().unwrap();
    let mut from = BufReader::new(shell.stdout.take().unwrap()).lines();
    to.write_all(SETUP.as_bytes()).unwrap();
    while from.next().unwrap().unwrap() != "ready" {}
    if load.filled {
        let mut text = String::from("BEGIN;\n");
        for number in 0..load.keys {
            text.push_str(&format!(
                "REPLACE INTO records VALUES('{}', x'{}');\n",
                load.key(number),
                hex(&load.value(number))
            ));
        }
        text.push_str("COMMIT;\nSELECT 'filled';\n");
        to.write_all(text.as_bytes()).unwrap();
        while from.next().unwrap().unwrap() != "filled" {}
    }
    let meter = Meter::start(shell.id(), &dir);
    let begin = Instant::now();
    let mut latencies = Vec::new();
    for index in 0..load.writes_per_client {
        let start = Instant::now();
        let mut text = String::from("BEGIN;\n");
        for client in 0..load.clients {
            let (key, value) = load.write(client, index);
            text.push_str(&format!("REPLACE INTO records VALUES('{key}', x'{}');\n", hex(&value)));
        }
        text.push_str("COMMIT;\nSELECT 'done';\n");
        to.write_all(text.as_bytes()).unwrap();
        while from.next().unwrap().unwrap() != "done" {}
        latencies.extend(std::iter::repeat_n(start.elapsed(), load.clients));
    }
    let figures = meter.figures(latencies, begin.elapsed());
    drop(to);
    shell.wait().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    figures
}

fn hex(value: &[u8]) -> String {
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}
