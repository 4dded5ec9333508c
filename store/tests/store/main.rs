//! The store from outside: one suite for every backend, a model, power cuts, a full disk, snapshots.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod conformance;
mod dice;
mod disk;
mod full;
mod model;
mod power_cut;
mod snapshots;
mod watches;
