//! Shell: what is known of each sandbox, one small file each in a folder; and what an error says of a file.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file, a folder or a knob of the kernel that did not do as it should.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct FileError {
    what: String,
    source: io::Error,
}

/// Says of an error what it is about.
pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { what: what.into(), source }
}

/// How a record's file ends; any other is half a write.
const END: &str = ".json";

/// The folder of the records of one kind. It is made by the first that is saved.
#[derive(Debug, Clone)]
pub(crate) struct Records<T> {
    dir: PathBuf,
    kind: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Records<T> {
    pub(crate) fn below(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), kind: PhantomData }
    }

    /// The sandboxes that there are records of.
    pub(crate) fn sandboxes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_suffix(END).map(str::to_owned)).collect()
    }

    /// None where there is none, or one that a power cut halved.
    pub(crate) fn load(&self, sandbox_id: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.path(sandbox_id)).ok()?).ok()
    }

    /// Every record by sandbox; what cannot be read is half a write of a crash and is removed.
    ///
    /// # Errors
    /// The folder cannot be made or read, or a file in it not be removed.
    pub(crate) fn load_all(&self) -> io::Result<BTreeMap<String, T>> {
        std::fs::create_dir_all(&self.dir)?;
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(END));
            match name.and_then(|sandbox_id| Some((sandbox_id.to_owned(), self.load(sandbox_id)?))) {
                Some((sandbox_id, record)) => drop(records.insert(sandbox_id, record)),
                None => std::fs::remove_file(&path)?,
            }
        }
        Ok(records)
    }

    /// # Errors
    /// The disk's; the former record stays then.
    pub(crate) fn save(&self, sandbox_id: &str, record: &T) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let aside = self.dir.join(format!("{sandbox_id}.new"));
        std::fs::write(&aside, serde_json::to_vec(record)?)?;
        std::fs::rename(aside, self.path(sandbox_id))
    }

    /// # Errors
    /// The disk's; one that is gone already is none.
    pub(crate) fn remove(&self, sandbox_id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(sandbox_id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn path(&self, sandbox_id: &str) -> PathBuf {
        self.dir.join(format!("{sandbox_id}{END}"))
    }
}
