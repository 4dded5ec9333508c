//! The store from outside: one suite for every backend, a model, a full disk, snapshots.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod checkpoints;
mod conformance;
mod damage;
#[allow(dead_code, reason = "the tests of power cuts share it")]
mod dice;
#[allow(dead_code, reason = "the tests of power cuts share it")]
mod disk;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod etcd_tests;
mod full;
mod linear;
mod model;
mod sealing;
mod snapshots;
mod watches;
