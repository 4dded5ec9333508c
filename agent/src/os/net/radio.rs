//! Shell: the radio: found whenever its driver has it, and given an address as often as it has joined its network.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Settings, interface_address, interfaces, keep_leased, prepare, settle, up};
use crate::netlink::socket::Socket;
use crate::os::config::wifi::Wifi;

/// Routes over the air; a wire is preferred. IPv6's come from routers with the kernel's own 1024.
const METRIC: u32 = 600;
const METRIC_OF_ROUTERS: &str = "2048";
/// Drivers load firmware in the background; a board that has no radio by then has none.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn is_one(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("phy80211").exists()
}

/// Waits for a radio, tells it to `found`, who joins the network, and keeps its address while it has joined.
pub(super) async fn keep(wifi: Wifi, dns: Vec<IpAddr>, name: String, found: oneshot::Sender<String>) {
    let changes = Socket::route_changes().map_err(|error| error.to_string());
    let changes =
        changes.and_then(|socket| crate::platform::pollable_socket(socket).map_err(|error| error.to_string()));
    let changes = match changes {
        Ok(changes) => Changes(changes),
        Err(error) => return tracing::warn!(error, "changes of the radio cannot be heard; there is no Wi-Fi"),
    };
    let Ok(radio) = changes.radio().await else { return };
    prepare(&radio);
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{radio}/ra_defrtr_metric"), METRIC_OF_ROUTERS);
    if let Err(error) = up(&radio) {
        tracing::warn!(radio, %error, "a radio that does not come up; it is tried nevertheless");
    }
    let _ = found.send(radio.clone());
    let address = wifi.address.as_deref().and_then(interface_address);
    loop {
        if changes.until(|| has_joined(&radio)).await.is_err() {
            return;
        }
        let addressed = async {
            let Some((address, prefix)) = address else {
                return keep_leased(radio.clone(), name.clone(), dns.clone(), METRIC).await;
            };
            let settings =
                Settings { address, prefix, gateway: wifi.gateway, dns: dns.clone(), seconds: None, metric: METRIC };
            settle(&radio, &settings);
            std::future::pending().await
        };
        // Joined again it may be elsewhere: an address is asked for anew.
        tokio::select! {
            () = addressed => {}
            left = changes.until(|| !has_joined(&radio)) => if left.is_err() { return },
        }
    }
}

/// Up only when the keys are agreed upon; carrier alone comes before them.
fn has_joined(radio: &str) -> bool {
    fs::read_to_string(format!("/sys/class/net/{radio}/operstate")).is_ok_and(|state| state.trim() == "up")
}

struct Changes(AsyncFd<Socket>);

impl Changes {
    /// The first radio by name, as soon as there is one.
    async fn radio(&self) -> std::io::Result<String> {
        let first = || interfaces().into_iter().find(|name| is_one(name));
        if timeout(PATIENCE, self.until(|| first().is_some())).await.is_err() {
            eprintln!("bramble: wifi: this board has no radio that its kernel has driver and firmware for");
        }
        loop {
            self.until(|| first().is_some()).await?;
            if let Some(name) = first() {
                return Ok(name);
            }
        }
    }

    /// Asks again after every change of the network.
    async fn until(&self, is_so: impl Fn() -> bool) -> std::io::Result<()> {
        loop {
            // Forgotten before it is looked at: a change afterwards is heard.
            self.0.get_ref().forget_heard();
            if is_so() {
                return Ok(());
            }
            self.0.readable().await?.clear_ready();
        }
    }
}
