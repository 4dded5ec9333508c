//! Shell: `bramble-status.txt` beside `bramble.toml`: how the board is, for whoever puts the card into another computer.
//! The file was made with the image and is written over in place, so that no write moves anything on that partition.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::config::Mistake;
use super::slots::Slot;

/// The file's name.
pub const NAME: &str = "bramble-status.txt";

/// What is told.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The image's version.
    pub version: String,
    /// Which slot runs.
    pub slot: Option<Slot>,
    /// The node's name.
    pub node_name: String,
    /// The fingerprint of the key that a login is greeted with, where somebody may log in.
    pub ssh: Option<String>,
    /// How the radio is, where a Wi-Fi network is named.
    pub wifi: Option<String>,
    /// Whether all that it shall do has started.
    pub state: String,
    /// What was not understood.
    pub mistakes: Vec<Mistake>,
}

impl Status {
    fn text(&self, time: &str) -> String {
        let slot = self.slot.map_or("none".to_owned(), |slot| slot.to_string());
        let Self { version, node_name, state, .. } = self;
        let mut text =
            format!("time     {time}\nnode     {node_name}\nstate    {state}\nversion  {version}\nslot     {slot}\n\n");
        if let Some(wifi) = &self.wifi {
            let _ = writeln!(text, "wifi: {wifi}.\n");
        }
        if let Some(fingerprint) = &self.ssh {
            let _ = writeln!(text, "ssh root@ this board is greeted by its key {fingerprint}.\n");
        }
        if self.mistakes.is_empty() {
            text.push_str("bramble.toml holds no mistakes.\n");
        }
        for mistake in &self.mistakes {
            let _ = writeln!(text, "{mistake}\n");
        }
        text
    }

    /// Writes over the file; the rest of it becomes blank.
    ///
    /// # Errors
    /// The kernel's; `NotFound` where the image's file is gone.
    pub fn write(&self, folder: &Path, time: &str) -> io::Result<()> {
        let file = File::options().write(true).open(folder.join(NAME))?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(64 << 10);
        let mut bytes = self.text(time).replace('\n', "\r\n").into_bytes();
        bytes.resize(length, b' ');
        file.write_all_at(&bytes, 0)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_in_place() {
        let dir = std::env::temp_dir().join(format!("bramble-status-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(NAME);
        assert!(Status::default().write(&dir, "now").is_err(), "nothing is made that was not there");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let mistake = Mistake { line: 3, message: "what".into(), cure: "how".into() };
        let status = Status { slot: Some(Slot::B), mistakes: vec![mistake], ..Status::default() };
        status.write(&dir, "now").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 4096);
        assert!(
            text.contains("slot     B\r\n") && text.contains("bramble.toml, line 3: what\r\n  cure: how"),
            "{text}"
        );
        assert!(!text.contains('x'));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
