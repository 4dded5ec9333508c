//! Pure: an update goes into the slot that does not run: forbidden, written, read back, booted once.
//!
//! An update is a tar of `manifest.json`, `kernel.img` and `system.img`, in this order, so that it can be installed from
//! a stream that is read once.

use std::io::{self, Read};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::card::{Card, Extent, kernel_partition, partition, read_state, system_partition, write_state};
use super::slots::Slot;

/// What is written and read at once: a card's erase block, more or less.
const PIECE_BYTES: usize = 1 << 20;
/// The manifest is some hundred bytes long.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// What an update says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the image, for people.
    pub version: String,
    /// For which boards: `aarch64`.
    pub architecture: String,
    /// The file system with kernel, initial file system and device trees.
    pub kernel: Part,
    /// The system.
    pub system: Part,
}

/// One image of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Length.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// Why an update was not installed. The running slot boots as before in each case.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The card refused.
    #[error("the card: {0}")]
    Card(io::Error),
    /// The update could not be read.
    #[error("reading the update: {0}")]
    Read(io::Error),
    /// It is no update.
    #[error("this is no update: {0}")]
    Foreign(String),
    /// For other boards.
    #[error("this update is for {found}, this board is {own}")]
    Architecture {
        /// What it says.
        found: String,
        /// What is needed.
        own: &'static str,
    },
    /// It does not fit.
    #[error("{name} has {bytes} bytes, the slot has room for {room}; flash the card anew with a larger image")]
    TooLarge {
        /// Which image.
        name: &'static str,
        /// Its length.
        bytes: u64,
        /// The partition's.
        room: u64,
    },
    /// It came otherwise than its manifest says.
    #[error("{0} arrived damaged; fetch the update again")]
    Damaged(&'static str),
    /// What was written is not what is read.
    #[error("{0} was read back otherwise than it was written: the card is worn out, replace it")]
    Worn(&'static str),
}

/// Writes an update into the slot that does not run, and has it booted once. `progress` hears bytes done and of how many.
///
/// # Errors
/// [`InstallError`]; nothing of the running slot was touched.
pub fn install(
    card: &mut dyn Card,
    running: Slot,
    update: impl Read,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Slot, Manifest), InstallError> {
    let slot = running.other();
    let mut archive = tar::Archive::new(update);
    let mut entries = archive.entries().map_err(InstallError::Read)?;
    let mut next = |name: &'static str| -> Result<_, InstallError> {
        let entry = entries.next().transpose().map_err(InstallError::Read)?;
        let entry = entry.ok_or_else(|| InstallError::Foreign(format!("{name} is missing")))?;
        let found = entry.path().map(|path| path.display().to_string()).unwrap_or_default();
        if found != name {
            return Err(InstallError::Foreign(format!("{found:?} stands where {name} should")));
        }
        Ok(entry)
    };
    let mut text = Vec::new();
    next("manifest.json")?.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(InstallError::Read)?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| InstallError::Foreign(format!("manifest.json: {error}")))?;
    if manifest.architecture != std::env::consts::ARCH {
        return Err(InstallError::Architecture { found: manifest.architecture, own: std::env::consts::ARCH });
    }
    let parts = [
        ("kernel.img", &manifest.kernel, kernel_partition(slot)),
        ("system.img", &manifest.system, system_partition(slot)),
    ];
    // All that can be refused is refused before the slot is given up.
    let mut places = Vec::new();
    for (name, part, number) in parts {
        let place = partition(card, number).map_err(InstallError::Card)?;
        if part.bytes > place.bytes {
            return Err(InstallError::TooLarge { name, bytes: part.bytes, room: place.bytes });
        }
        places.push(place);
    }
    let mut state = read_state(card).map_err(InstallError::Card)?;
    state.forbid(slot);
    write_state(card, &state).map_err(InstallError::Card)?;
    let all = manifest.kernel.bytes + manifest.system.bytes;
    let mut done = 0;
    for ((name, part, _), place) in parts.into_iter().zip(places) {
        let entry = next(name)?;
        let mut told = |bytes| progress(done + bytes, all);
        write(card, place, entry, part, name, &mut told)?;
        done += part.bytes;
    }
    state.try_once(slot);
    write_state(card, &state).map_err(InstallError::Card)?;
    Ok((slot, manifest))
}

fn write(
    card: &mut dyn Card,
    place: Extent,
    mut from: impl Read,
    part: &Part,
    name: &'static str,
    told: &mut dyn FnMut(u64),
) -> Result<(), InstallError> {
    let mut piece = vec![0; PIECE_BYTES];
    let (mut at, mut arrived) = (0, Context::new(&SHA256));
    while at < part.bytes {
        let wanted = usize::try_from(part.bytes - at).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        from.read_exact(&mut piece[..wanted]).map_err(InstallError::Read)?;
        arrived.update(&piece[..wanted]);
        card.write_at(place.start + at, &piece[..wanted]).map_err(InstallError::Card)?;
        at += wanted as u64;
        told(at);
    }
    card.flush().map_err(InstallError::Card)?;
    if hexadecimal(arrived) != part.sha256 {
        return Err(InstallError::Damaged(name));
    }
    let (mut at, mut kept) = (0, Context::new(&SHA256));
    while at < part.bytes {
        let wanted = usize::try_from(part.bytes - at).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        card.read_at(place.start + at, &mut piece[..wanted]).map_err(InstallError::Card)?;
        kept.update(&piece[..wanted]);
        at += wanted as u64;
    }
    if hexadecimal(kept) == part.sha256 { Ok(()) } else { Err(InstallError::Worn(name)) }
}

fn hexadecimal(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
