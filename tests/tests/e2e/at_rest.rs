//! What lies on the disk of a board: no Secret in any file, under a new key as well; and its snapshot gives everything back.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bramble_tests::board::Board;

const SECRET: &str = "hunter2-must-never-lie-on-a-disk";
/// Shares no four letters with the object around it: what repeats is packed at rest.
const PLAIN: &str = "xyzzy7plugh5qwerty3nobody9hides2me";

/// How many files below a folder hold one of these texts.
fn files_with(folder: &Path, texts: &[&str]) -> usize {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path());
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        texts.iter().any(|text| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    entries.map(|path| if path.is_dir() { files_with(&path, texts) } else { usize::from(holds(&path)) }).sum()
}

#[test]
fn no_secret_lies_on_the_disk_and_a_snapshot_gives_it_back() {
    let mut board = Board::up("at-rest", &[]);
    let _ = board.kubectl(&format!("create secret generic s --from-literal=p={SECRET}"));
    let _ = board.kubectl(&format!("create configmap c --from-literal=p={PLAIN}"));
    let _ = board.kubectl("label secret s again=written");
    let encoded = BASE64_STANDARD.encode(SECRET);
    let read = |board: &Board| board.kubectl("get secret s -o jsonpath={.data.p}");
    let data = board.dir().join("data");
    let clean = || {
        assert_eq!(files_with(&data, &[SECRET, &encoded]), 0);
        assert!(files_with(&data, &[PLAIN]) > 0, "the search itself must be able to find something");
    };
    clean();
    let said = board.bramble("store rotate");
    assert!(said.contains("1 former data keys are gone"), "{said}");
    assert_eq!(read(&board), encoded);
    let snapshot = data.join("snapshot");
    let _ = board.bramble(&format!("snapshot save {}", snapshot.display()));
    let summary = board.bramble(&format!("snapshot inspect {}", snapshot.display()));
    assert!(summary.contains("secrets") && summary.contains("sealed"), "{summary}");
    let before: u64 = board.kubectl("get secret s -o jsonpath={.metadata.resourceVersion}").parse().expect("a number");
    let _ = board.kubectl("delete secret s");
    clean();

    board.stop();
    for name in ["store.redb", "store.redb.journal"] {
        fs::rename(data.join(name), board.dir().join(name)).expect("moved away");
    }
    let _ = board.bramble(&format!("snapshot restore {}", snapshot.display()));
    board.start(&[]);
    assert_eq!(read(&board), encoded);
    let after: u64 = board.kubectl("get secret s -o jsonpath={.metadata.resourceVersion}").parse().expect("a number");
    assert!(after > before + (1 << 36), "no revision comes again: {before}, {after}");
    board.stop();
    let _ = board.bramble("down");
}
