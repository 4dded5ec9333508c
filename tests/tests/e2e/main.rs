//! The end-to-end tests, one program: they are linked once, and those of different files run side by side. One file's tests:
//! `cargo test -p bramble-tests --test e2e streams::`. What each file proves stands in `src/lib.rs`.

mod apps;
mod at_rest;
mod authority;
mod backup;
mod balancer;
mod boards;
mod card;
mod conflict;
mod controllers;
mod demo;
mod dual;
mod identity;
mod join;
mod kubectl;
mod nat;
mod partition;
mod policy;
mod site;
mod static_binary;
mod streams;
mod survival;
mod teller;
mod trouble;
