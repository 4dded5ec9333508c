# One command each; CI calls the same ones.
check:
    cargo fmt --all --check && cargo clippy --workspace --all-targets --all-features -- -D warnings
test:
    cargo test --workspace --all-features -- --test-threads=2
e2e:
    cargo test -p bramble-tests -- --test-threads=2
bench:
    cargo bench -p bramble-tests --bench figures
dist:
    cargo build --profile dist --bin bramble
