//! An API server over a store in RAM for trying clients against; everybody is `system:masters`.
//! `cargo run -p bramble-controller --example apiserver -- 127.0.0.1:16443 <dir>` and use `<dir>/admin.kubeconfig`.

fn main() {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or("127.0.0.1:16443".into());
    let dir = args.next().expect("a directory for keys");
    bramble_controller::serve::try_out(&address, std::path::Path::new(&dir));
}
