//! Stock kubectl, in the versions that this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::workspace;

/// Where people and `.ci/run` keep versions beside the one in the path.
const FOLDERS: [&str; 3] = ["/usr/lib/google-cloud-sdk/bin", "/usr/local/bin", "/usr/bin"];

/// One version of kubectl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubectl {
    /// The program.
    pub path: PathBuf,
    /// As it says itself, e.g. `v1.33.1`.
    pub version: String,
}

impl Kubectl {
    fn at(path: &Path) -> Option<Self> {
        let output = Command::new(path).args(["version", "--client"]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_once("Client Version: ")?.1.lines().next()?.trim();
        // 1.27 prints a Go structure.
        let version =
            version.split_once("GitVersion:\"").map_or(version, |(_, rest)| rest.split('"').next().unwrap_or(""));
        Some(Self { path: path.to_owned(), version: version.to_owned() })
    }

    /// The pinned one that `.ci/run` brings, or a new enough one of this machine.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn newest() -> Self {
        let mut all = Self::all();
        all.sort_by_key(|kubectl| kubectl.minor());
        all.pop().expect("these tests need kubectl: run .ci/tools, or put one in the path")
    }

    /// Every version that is there, oldest first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut paths = vec![workspace().join("target/tools/bin/kubectl")];
        for folder in FOLDERS.iter().map(Path::new) {
            paths.push(folder.join("kubectl"));
            paths.extend([27, 33].map(|minor| folder.join(format!("kubectl.1.{minor}"))));
        }
        let mut all: Vec<Self> = paths.iter().filter(|path| path.exists()).filter_map(|path| Self::at(path)).collect();
        all.sort_by_key(Self::minor);
        all.dedup_by_key(|kubectl| kubectl.minor());
        all
    }

    /// `33` of `v1.33.1`.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
    }
}
