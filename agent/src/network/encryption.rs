//! Shell: the board's WireGuard device: its key, which never leaves the board, and its peers.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::io::Errno;

use super::attach::{Error, smallest_mtu};
use super::overlay::{self, Overlay, changes};
use super::plan;
use crate::instance::Instance;
use crate::netlink::route::{self, Scope};
use crate::netlink::socket::{Error as NetlinkError, Socket, execute_unless, links};
use crate::netlink::wire::Batch;
use crate::netlink::wireguard::{self, Device, Key, Peer};
use crate::os::modules;
use crate::records::file;

/// The port that flannel's WireGuard has, and with it k3s': firewalls know it.
pub(crate) const PORT: u16 = 51820;
/// What is added to a packet: UDP 8, WireGuard 32, and the outer header.
const OVERHEAD_IPV4_BYTES: u32 = 60;
const OVERHEAD_IPV6_BYTES: u32 = 80;
/// Peers that are told at a time, so that their acknowledgements have room.
const AT_ONCE: usize = 256;

/// A board's end of the encrypted tunnels.
pub(super) struct Encryption {
    name: String,
    instance: Instance,
    private: Key,
    pub(super) public: Key,
    /// Boards without a key are not spoken to.
    pub(super) required: bool,
    family: u16,
    state: Mutex<State>,
}

/// What this run told the kernel.
#[derive(Default)]
struct State {
    endpoints: BTreeMap<Key, SocketAddr>,
    addresses: Vec<IpAddr>,
}

impl Encryption {
    /// None where the kernel cannot and need not; the device is made at once, because the kernel derives the public key.
    pub(super) fn open(instance: &Instance, overlay: Overlay) -> Result<Option<Self>, Error> {
        let name = plan::encrypted_interface(instance);
        let route = Socket::route()?;
        if overlay == Overlay::Vxlan {
            remove(&route, &name)?;
            return Ok(None);
        }
        let made = make(&route, &name, smallest_mtu(&route, instance)?.saturating_sub(OVERHEAD_IPV4_BYTES));
        if let Err(source) = made {
            if overlay == Overlay::Auto {
                tracing::warn!(error = %crate::services::chain(&source), "no WireGuard in this kernel: boards are joined by VXLAN, in the clear");
                return Ok(None);
            }
            return Err(Error::NoWireguard(source));
        }
        let path = instance.data_dir.join("agent").join("wireguard.key");
        let private = key(&path).map_err(file(path.display().to_string()))?;
        let generic = Socket::generic()?;
        let family = family(&generic)?;
        let required = overlay == Overlay::Wireguard;
        let state = Mutex::default();
        let mut encryption =
            Self { name, instance: instance.clone(), private, public: [0; 32], required, family, state };
        encryption.public = encryption.identify(&generic)?.public.ok_or(NetlinkError::Malformed)?;
        Ok(Some(encryption))
    }

    /// The device has our key and port when this returns.
    fn identify(&self, generic: &Socket) -> Result<Device, Error> {
        let device = self.device(generic)?;
        if device.private == Some(self.private) && device.port == PORT {
            return Ok(device);
        }
        let mut batch = Batch::default();
        wireguard::set_identity(&mut batch, self.family, &self.name, &self.private, PORT);
        generic.execute(&batch)?;
        self.device(generic)
    }

    pub(super) fn device(&self, generic: &Socket) -> Result<Device, Error> {
        let mut question = Batch::default();
        wireguard::get_device(&mut question, self.family, &self.name);
        let mut device = Device::default();
        generic.dump(&question, |message| wireguard::take_device(&mut device, message.payload))?;
        Ok(device)
    }

    /// The device's number, with these addresses of the board and a size that fits; made anew where somebody removed it.
    /// What stands is not touched: every change is heard, and ours would be answered for ever.
    pub(super) fn interface(&self, route: &Socket, own: &[IpAddr], peers: &[Peer]) -> Result<u32, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let over_ipv6 = peers.iter().filter_map(|peer| peer.endpoint).any(|at| at.is_ipv6());
        let overhead = if over_ipv6 { OVERHEAD_IPV6_BYTES } else { OVERHEAD_IPV4_BYTES };
        let mtu = smallest_mtu(route, &self.instance)?.saturating_sub(overhead);
        if make(route, &self.name, mtu)? {
            *state = State::default();
            self.identify(&Socket::generic()?)?;
        }
        let link = links(route)?.into_iter().find(|link| link.name == self.name).ok_or(NetlinkError::Malformed)?;
        let mut batch = Batch::default();
        if link.mtu != mtu {
            wireguard::set_mtu(&mut batch, &self.name, mtu);
        }
        for ip in own.iter().filter(|ip| !state.addresses.contains(ip)) {
            route::add_address(&mut batch, link.index, *ip, Scope::Universe);
        }
        for ip in state.addresses.iter().filter(|ip| !own.contains(ip)) {
            route::delete_address(&mut batch, link.index, *ip);
        }
        execute_unless(route, &batch, &[Errno::ADDRNOTAVAIL])?;
        own.clone_into(&mut state.addresses);
        Ok(link.index)
    }

    /// Makes the device's peers these, and touches none that is already as it should be.
    pub(super) fn speak_with(&self, peers: &[Peer]) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let generic = Socket::generic()?;
        let known = self.device(&generic)?.peers;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let changes = changes(&known, peers, &state.endpoints, now_s.try_into().unwrap_or(i64::MAX));
        for keys in changes.remove.chunks(AT_ONCE) {
            let mut batch = Batch::default();
            keys.iter().for_each(|key| wireguard::remove_peer(&mut batch, self.family, &self.name, key));
            generic.execute(&batch)?;
        }
        for peers in changes.set.chunks(AT_ONCE) {
            let mut batch = Batch::default();
            peers.iter().for_each(|peer| wireguard::set_peer(&mut batch, self.family, &self.name, peer));
            generic.execute(&batch)?;
        }
        state.endpoints = peers.iter().filter_map(|peer| Some((peer.key, peer.endpoint?))).collect();
        Ok(())
    }
}

/// True if there was none before.
fn make(route: &Socket, name: &str, mtu: u32) -> Result<bool, NetlinkError> {
    let mut batch = Batch::default();
    wireguard::add_interface(&mut batch, name, mtu);
    let add = || match route.execute(&batch) {
        Err(error) if error.errno() == Some(Errno::EXIST) => Ok(false),
        other => other.map(|()| true),
    };
    match add() {
        // On a flashed board nobody loads modules for the kernel.
        Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => {
            let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
            let refused = modules::load_named(&Path::new("/lib/modules").join(kernel), "wireguard");
            refused.iter().for_each(|message| tracing::debug!(message, "loading WireGuard"));
            add()
        }
        other => other,
    }
}

fn remove(route: &Socket, name: &str) -> Result<(), Error> {
    let mut batch = Batch::default();
    route::delete_link(&mut batch, name);
    Ok(execute_unless(route, &batch, &[Errno::NODEV])?)
}

fn family(generic: &Socket) -> Result<u16, Error> {
    let mut question = Batch::default();
    wireguard::get_family(&mut question);
    let mut family = None;
    generic.dump(&question, |message| family = wireguard::parse_family(message.payload))?;
    Ok(family.ok_or(NetlinkError::Malformed)?)
}

/// The private key of an earlier run, or a new one, which root alone may read.
fn key(path: &PathBuf) -> io::Result<Key> {
    match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(256).read_to_string(&mut text)?;
            if let Some(key) = overlay::decode(text.trim()) {
                return Ok(key);
            }
            tracing::warn!(path = %path.display(), "it holds no key, and gets a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut key = Key::default();
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
    // As Curve25519 wants its scalars (RFC 7748, section 5): so the kernel gives it back as it was told.
    key[0] &= 248;
    key[31] = (key[31] & 127) | 64;
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let aside = path.with_extension("new");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    writeln!(file, "{}", overlay::encode(&key))?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_board_keeps_its_key_to_itself() {
        let folder = std::env::temp_dir().join(format!("bramble-wireguard-{}", std::process::id()));
        let path = folder.join("agent/wireguard.key");
        let first = key(&path).unwrap();
        assert_eq!(key(&path).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((first[0] & 7, first[31] & 192), (0, 64));
        std::fs::write(&path, "torn").unwrap();
        assert_ne!(key(&path).unwrap(), first);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
