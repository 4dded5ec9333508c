//! The power goes: at any operation on the disk, while clients write, and for real.
//!
//! `CUT_POINTS=100000 cargo test --release -p bramble-store --test power_cut -- --nocapture` cuts so often.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod clients;
#[path = "../store/dice.rs"]
mod dice;
#[allow(dead_code, reason = "other tests share it")]
#[path = "../store/disk.rs"]
mod disk;
mod history;
mod image;
mod kill;
mod model;
