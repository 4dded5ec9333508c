//! A control plane without an agent, for trying clients against:
//! `cargo run -p bramble-controller --example apiserver -- <data dir> [address]`, then use `<data dir>/admin.kubeconfig`.

use std::net::SocketAddr;
use std::path::PathBuf;

use bramble_controller::serve::{Options, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let data_dir = PathBuf::from(args.next().ok_or("a data directory is needed")?);
    let address: SocketAddr = args.next().unwrap_or_else(|| "127.0.0.1:16443".to_owned()).parse()?;
    let options = Options {
        listen: vec![address],
        join_file: Some(data_dir.join("join")),
        ..Options::new(data_dir, address.ip(), "example")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options, std::future::pending(), |ready| {
        println!("serving; KUBECONFIG={}", ready.kubeconfig.display())
    }))?;
    Ok(())
}
