//! Shell: a link of this board, for frames about one address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_ipv6_add_membership;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{FRAME_BYTES, arp, ndp};
use crate::netlink::route::{self, Mac};
use crate::netlink::socket::{Error, Socket, link_towards, link_with, links};
use crate::platform;
use crate::services::chain;

/// An Ethernet link; only frames about the address that it was opened for wake its reader up.
pub(super) struct Lan {
    pub(super) name: String,
    pub(super) mac: Mac,
    socket: AsyncFd<OwnedFd>,
    /// Keeps this board, as switches see it, in the group in which questions for the address are asked.
    _group: Option<OwnedFd>,
}

impl Lan {
    /// The link on which others look for an address that this board has not for itself.
    pub(super) async fn towards(ip: IpAddr) -> io::Result<Self> {
        blocking(move || {
            let link = found(|socket| link_towards(socket, ip))?;
            match ip {
                IpAddr::V4(ip) => Self::open(link, platform::ARP, &arp::wanted(ip), None),
                IpAddr::V6(ip) => {
                    let group = join(ndp::group(ip), link.index)?;
                    Self::open(link, platform::IPV6, &ndp::wanted(ip), Some(group))
                }
            }
        })
        .await
    }

    /// The link that has this address of the board's own, for what others say who have it too; with the hardware addresses of all
    /// of the board's links: two of them on one LAN hear each other.
    pub(super) async fn of(ip: Ipv4Addr) -> io::Result<(Self, Vec<Mac>)> {
        blocking(move || {
            let link = found(|socket| link_with(socket, ip.into()))?;
            let own = found(links)?.into_iter().filter_map(|link| link.mac).collect();
            Ok((Self::open(link, platform::ARP, &arp::claiming(ip), None)?, own))
        })
        .await
    }

    fn open(link: route::Link, protocol: u16, words: &[(u32, u32)], group: Option<OwnedFd>) -> io::Result<Self> {
        let mac = link.mac.ok_or_else(|| io::Error::other(format!("{} is no Ethernet", link.name)))?;
        let socket = platform::frame_socket(link.index, protocol, words)?;
        let socket = platform::pollable(socket, Interest::READABLE)?;
        Ok(Self { name: link.name, mac, socket, _group: group })
    }

    /// The next frame, as far as it concerns us.
    pub(super) async fn hear(&self) -> io::Result<Vec<u8>> {
        let mut frame = [0; FRAME_BYTES];
        loop {
            let mut ready = self.socket.readable().await?;
            match recv(self.socket.get_ref(), &mut frame, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(frame[..length.min(FRAME_BYTES)].to_vec()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        match send(self.socket.get_ref(), frame, SendFlags::DONTWAIT) {
            // A queue that is full is no reason to give the address up.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}

fn found<T>(look: impl FnOnce(&Socket) -> Result<T, Error>) -> io::Result<T> {
    Socket::route().and_then(|socket| look(&socket)).map_err(|error| io::Error::other(chain(&error)))
}

/// Hears a group of the link for as long as the descriptor is open.
fn join(group: Ipv6Addr, interface: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_ipv6_add_membership(&socket, &group, interface)?;
    Ok(socket)
}
