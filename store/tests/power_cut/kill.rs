//! The real thing: a process that is killed while it writes, again and again, on the same files.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bramble_store::{Config, Durability, Precondition, Store, Write};

use crate::dice::Dice;

const KILLS: u64 = 5;
/// Says to this test, in a process of its own, which store it is to write to, and from which number on.
const STORE: &str = "BRAMBLE_KILLED_STORE";

fn config(path: &Path) -> Config {
    let mut config = Config::redb(path);
    // Checkpoints come often, so that many a kill hits one.
    config.checkpoint_bytes = 64 << 10;
    config.journal_bytes = 128 << 10;
    config
}

fn batch(number: u64) -> Vec<Write> {
    ["pods", "nodes"]
        .map(|name| Write::put(format!("{name}/{}", number % 500), Precondition::Any, number.to_string().repeat(200)))
        .to_vec()
}

/// Writes until it is killed; says which number is acknowledged.
async fn write_on(path: &Path, from: u64) {
    let store = Store::open(config(path)).unwrap();
    for number in from.. {
        store.write(batch(number), Durability::Durable).await.unwrap();
        println!("at rest {number}");
    }
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    if let Ok(task) = std::env::var(STORE) {
        let (from, path) = task.split_once(' ').unwrap();
        return write_on(Path::new(path), from.parse().unwrap()).await;
    }
    let mut dice = Dice::roll();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut next = 1;
    for _ in 0..KILLS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::a_kill_loses_nothing_that_was_acknowledged", "--nocapture"])
            .env(STORE, format!("{next} {}", path.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let enough = next + 20 + dice.below(300);
        let mut acknowledged = next - 1;
        for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix("at rest ").and_then(|number| number.parse().ok()) {
                acknowledged = number;
            }
            if acknowledged >= enough {
                // Lines that are still under way are read to the end.
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(acknowledged >= enough, "the writer ended by itself");
        let store = Store::open(config(&path)).unwrap();
        let mut newest = 0;
        for number in acknowledged.saturating_sub(400).max(1)..=acknowledged + 1 {
            let found = store.get(&format!("pods/{}", number % 500)).await.unwrap().map(|record| record.value);
            let twin = store.get(&format!("nodes/{}", number % 500)).await.unwrap().map(|record| record.value);
            assert_eq!(found, twin, "half of batch {number}");
            let whole = found.as_deref() == Some(number.to_string().repeat(200).as_bytes());
            assert!(whole || number > acknowledged, "batch {number} of {acknowledged} is lost");
            newest = if whole { number } else { newest };
        }
        next = newest + 1;
    }
}
