//! Pure: the map of the board image's own part: what runs where nothing but Bramble runs.
//!
//! ```text
//! firmware -> U-Boot: boot.script picks a slot by `slots` -> kernel, and its initial file system: `stage1`
//!   stage1: modules -> `verity` over the slot's system -> root -> `init`, process 1:
//!     mounts, `clock`, `config` (bramble.toml) -> `disk` grows the data partition -> `modules`, `swap`, `net` (`dhcp`, `wifi`)
//!     -> the daemons, watched over; their lines go to `ring`; `slots` are confirmed; `watchdog`; orderly end
//! `install` writes the other slot of a `card`; `customise` and `flash` work on an image or card from another computer.
//! ```
//!
//! **Architecture invariant:** an update writes only the inactive slot and the two copies of the boot state.
//! **Architecture invariant:** whatever stands in `bramble.toml`, the board comes up as far as it can and says what it
//! did not understand.

pub mod card;
pub mod clock;
pub mod config;
pub mod console;
pub mod customise;
pub mod dhcp;
pub mod disk;
pub mod flash;
pub mod init;
pub mod install;
pub mod kernel;
pub mod modules;
pub mod net;
pub mod ring;
pub mod slots;
pub mod stage1;
pub mod status;
pub mod swap;
pub mod watchdog;
pub mod wifi;
