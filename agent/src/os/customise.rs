//! Shell: edits the first partition of an image, or of a card, without root and without mounting.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::card::{Extent, FIRMWARE_PARTITION, partition};
use super::config::{self, Mistake};
use super::disk::FileCard;

/// Why an image was not edited.
#[derive(Debug, thiserror::Error)]
pub enum CustomiseError {
    /// It is no image of ours, or cannot be written.
    #[error("the image: {0}")]
    Image(io::Error),
    /// A file that was to be put into it.
    #[error("{0}")]
    File(String),
    /// The new configuration holds mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<Mistake>),
}

/// The `bramble.toml` of an image.
///
/// # Errors
/// [`CustomiseError`].
pub fn read(image: &Path) -> Result<Vec<u8>, CustomiseError> {
    let mut bytes = Vec::new();
    with_partition(image, false, |files| {
        let file = files.root_dir().open_file("bramble.toml")?;
        file.take(config::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map(drop)
    })?;
    Ok(bytes)
}

/// Replaces the `bramble.toml` of an image, and puts further files beside it: a join bundle (`.bundle`), a site
/// (`site.toml`), manifests (`.yaml`, `.yml`, `.json`) below `manifests/`, image archives (`.tar`) below `images/`.
///
/// # Errors
/// [`CustomiseError`]; with a mistake in the configuration, or a file of another kind, nothing is written.
pub fn customise(image: &Path, config: Option<&Path>, files: &[std::path::PathBuf]) -> Result<(), CustomiseError> {
    let unread = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| CustomiseError::File(format!("{path}: {error}"))
    };
    let text = config.map(|path| std::fs::read(path).map_err(unread(path))).transpose()?;
    if let Some(text) = &text {
        let (_, mistakes) = config::parse(text);
        if !mistakes.is_empty() {
            return Err(CustomiseError::Mistakes(mistakes));
        }
    }
    let mut additions = Vec::new();
    for path in files {
        let folder = folder_of(path).ok_or_else(|| {
            CustomiseError::File(format!(
                "{}: neither a manifest nor an image archive, a join bundle or a site.toml",
                path.display()
            ))
        })?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        additions.push((folder, name, File::open(path).map_err(unread(path))?));
    }
    with_partition(image, true, |files| {
        let root = files.root_dir();
        if let Some(text) = &text {
            let mut file = root.create_file("bramble.toml")?;
            file.truncate()?;
            file.write_all(text)?;
        }
        for (folder, name, mut content) in additions {
            let place = if folder.is_empty() { root.clone() } else { root.create_dir(folder)? };
            let mut file = place.create_file(&name)?;
            file.truncate()?;
            io::copy(&mut content, &mut file)?;
        }
        Ok(())
    })
}

/// Where a file belongs; nothing is beside `bramble.toml` itself.
fn folder_of(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "yaml" | "yml" | "json" => Some("manifests"),
        "tar" => Some("images"),
        "bundle" => Some(""),
        "toml" if path.file_name()? == "site.toml" => Some(""),
        _ => None,
    }
}

type Files = fatfs::FileSystem<Window>;

fn with_partition(
    image: &Path,
    write: bool,
    work: impl FnOnce(&Files) -> io::Result<()>,
) -> Result<(), CustomiseError> {
    let result = (|| {
        let mut card = FileCard(File::options().read(true).write(write).open(image)?);
        let extent = partition(&mut card, FIRMWARE_PARTITION)?;
        let window = Window { file: card.0, extent, at: 0 };
        let file = window.file.try_clone()?;
        let files = fatfs::FileSystem::new(window, fatfs::FsOptions::new().update_accessed_date(false))?;
        work(&files)?;
        files.unmount()?;
        if write { file.sync_all() } else { Ok(()) }
    })();
    result.map_err(CustomiseError::Image)
}

/// One partition of a file.
struct Window {
    file: File,
    extent: Extent,
    at: u64,
}

impl Window {
    fn length(&self, wanted: usize) -> usize {
        let left = self.extent.bytes.saturating_sub(self.at);
        usize::try_from(left).map_or(wanted, |left| left.min(wanted))
    }
}

impl Read for Window {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let wanted = self.length(bytes.len());
        let length = self.file.read_at(&mut bytes[..wanted], self.extent.start + self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let wanted = self.length(bytes.len());
        let length = self.file.write_at(&bytes[..wanted], self.extent.start + self.at)?;
        self.at += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.extent.bytes.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use super::super::card::tests::table;
    use super::*;

    /// A card image of one FAT partition with the file that images come with.
    fn image(name: &str) -> (PathBuf, PathBuf) {
        let dir = std::env::temp_dir().join(format!("bramble-customise-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("card.img");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        file.set_len(48 << 20).unwrap();
        file.write_all_at(&table(&[(0, 0x0c, 2048, 40 * 2048)]), 0).unwrap();
        let extent = Extent { start: 1 << 20, bytes: 40 << 20 };
        let window = || Window { file: file.try_clone().unwrap(), extent, at: 0 };
        fatfs::format_volume(window(), fatfs::FormatVolumeOptions::new()).unwrap();
        let files = fatfs::FileSystem::new(window(), fatfs::FsOptions::new()).unwrap();
        files.root_dir().create_file("bramble.toml").unwrap().write_all(b"role = \"up\"\n# a long comment\n").unwrap();
        files.unmount().unwrap();
        (dir, path)
    }

    #[test]
    fn the_file_is_replaced_and_others_stand_beside_it() {
        let (dir, image) = image("replace");
        let outside = fs::read(&image).unwrap()[..1 << 20].to_vec();
        let (config, manifest) = (dir.join("my.toml"), dir.join("web.yaml"));
        fs::write(&config, "node-name = \"pi-1\"\n").unwrap();
        fs::write(&manifest, "kind: Pod\n").unwrap();
        customise(&image, Some(&config), &[manifest]).unwrap();
        assert_eq!(read(&image).unwrap(), b"node-name = \"pi-1\"\n");
        let mut text = String::new();
        let found =
            |files: &Files| files.root_dir().open_file("manifests/web.yaml")?.read_to_string(&mut text).map(drop);
        with_partition(&image, false, found).unwrap();
        assert_eq!(text, "kind: Pod\n");
        assert_eq!(fs::read(&image).unwrap()[..1 << 20], outside, "nothing else of the card changes");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn mistakes_and_foreign_files_change_nothing() {
        let (dir, image) = image("mistakes");
        let before = fs::read(&image).unwrap();
        let config = dir.join("my.toml");
        fs::write(&config, "colour = \"red\"\n").unwrap();
        let error = customise(&image, Some(&config), &[]).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("colour") && error.contains("cure"), "{error}");
        assert!(customise(&image, None, std::slice::from_ref(&config)).unwrap_err().to_string().contains("neither"));
        assert!(customise(&image, Some(&dir.join("missing")), &[]).is_err());
        assert_eq!(fs::read(&image).unwrap(), before);
        assert!(matches!(read(&config), Err(CustomiseError::Image(_))), "what is no image");
        fs::remove_dir_all(dir).unwrap();
    }
}
