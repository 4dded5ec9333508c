//! Shell: a note on the card that a pod must not begin again after a boot: it runs and its policy is `Never`, or it has ended.
//! A board that starts without its controller knows nothing else of it. One empty file a pod, gone with its directory.

use std::fs::{self, File};
use std::path::Path;

const NAME: &str = "begun";

/// Whether an earlier agent noted it.
pub(super) fn is_noted(pods: &Path, uid: &str) -> bool {
    pods.join(uid).join(NAME).exists()
}

/// Notes it, at rest when it returns; once a pod.
pub(super) fn note(pods: &Path, uid: &str) {
    if is_noted(pods, uid) {
        return;
    }
    let dir = pods.join(uid);
    let noted = fs::create_dir_all(&dir).and_then(|()| File::create(dir.join(NAME))?.sync_all());
    if let Err(error) = noted.and_then(|()| File::open(&dir)?.sync_all()) {
        tracing::warn!(uid, %error, "after a boot without its controller this board may run a pod a second time");
    }
}
