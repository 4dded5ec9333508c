//! Shell: the initial file system's only program: a board's first step, apart from the large binary.

fn main() {
    assert_eq!(std::process::id(), 1, "this is the first process of a board; see `bramble --help` for the others");
    bramble_agent::os::stage1::run()
}
