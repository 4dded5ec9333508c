//! Shell: what /proc, /sys and the kernel say about this board.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use super::Facts;
use crate::network::Cidr;

/// Firmware is foreign: a name that is longer is none.
const MODEL_CHARS_MAX: usize = 128;

/// What interfaces of a board may have although it is not theirs: it belongs to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterAddresses {
    /// Pods: one range, or one of each family, the primary one first.
    pub pods: Vec<Cidr>,
    /// Services.
    pub services: Vec<Cidr>,
}

impl ClusterAddresses {
    fn holds(&self, ip: IpAddr) -> bool {
        self.pods.iter().chain(&self.services).any(|range| range.contains(ip))
    }
}

/// Reads the facts; what cannot be read stays empty. `server` is the API server's address, `node_ips` override.
#[must_use]
pub fn gather(data_dir: &Path, server: Option<SocketAddr>, node_ips: &[IpAddr], cluster: &ClusterAddresses) -> Facts {
    let uname = rustix::system::uname();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine_id = line("/etc/machine-id");
    let system_uuid = Some(line("/sys/class/dmi/id/product_uuid"))
        .filter(|uuid| !uuid.is_empty())
        .or_else(|| Some(line("/proc/device-tree/serial-number")).filter(|serial| !serial.is_empty()))
        .unwrap_or_else(|| machine_id.clone());
    let storage = rustix::fs::statvfs(data_dir).map_or(0, |stat| stat.f_blocks * stat.f_frsize);
    Facts {
        host_name: uname.nodename().to_string_lossy().into_owned(),
        architecture: go_architecture(std::env::consts::ARCH).to_owned(),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        model: model(&line("/proc/device-tree/model"), &line("/sys/class/dmi/id/product_name")),
        machine_id,
        system_uuid,
        boot_id: boot_id(),
        cpus: online(&line("/sys/devices/system/cpu/online")),
        memory_bytes: kibibytes(&memory, "MemTotal:") * 1024,
        swap_bytes: kibibytes(&memory, "SwapTotal:") * 1024,
        storage_bytes: storage,
        addresses: addresses(server, node_ips, cluster, &[]),
    }
}

/// This board's addresses, one of each family of the cluster's pods, in their order. One that it `had` stays while there is
/// no other one.
#[must_use]
pub fn addresses(
    server: Option<SocketAddr>,
    node_ips: &[IpAddr],
    cluster: &ClusterAddresses,
    had: &[IpAddr],
) -> Vec<IpAddr> {
    if !node_ips.is_empty() {
        return node_ips.to_vec();
    }
    if cluster.pods.len() < 2 && cluster.pods.iter().all(Cidr::is_ipv4) {
        let found = primary(server);
        let own = found.filter(|ip| !cluster.holds(*ip)).or(had.first().copied());
        return own.or(found).into_iter().collect();
    }
    let of_family = |range: &Cidr| {
        let ipv4 = range.is_ipv4();
        let server = server.filter(|server| server.is_ipv4() == ipv4);
        let found = if ipv4 { primary(server) } else { primary6(server, cluster) };
        let found = found.filter(|ip| ip.is_ipv4() == ipv4 && !cluster.holds(*ip));
        found.or_else(|| had.iter().copied().find(|ip| ip.is_ipv4() == ipv4))
    };
    cluster.pods.iter().filter_map(of_family).collect()
}

/// The kernel's random id of this boot.
#[must_use]
pub fn boot_id() -> String {
    line("/proc/sys/kernel/random/boot_id")
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_matches(['\0', '\n', ' ']).to_owned()
}

/// The device tree's name of the board; else that of a computer's firmware.
fn model(device_tree: &str, firmware: &str) -> String {
    let told = if device_tree.is_empty() { firmware } else { device_tree };
    told.chars().filter(|one| !one.is_control()).take(MODEL_CHARS_MAX).collect()
}

fn go_architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn os_image(os_release: &str) -> String {
    let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.unwrap_or("Linux").trim_matches('"').to_owned()
}

fn kibibytes(meminfo: &str, key: &str) -> u64 {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(key));
    rest.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Counts a list like `0-3,5`.
fn online(list: &str) -> u64 {
    let count: u64 = list
        .split(',')
        .filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some(to.parse::<u64>().ok()? + 1 - from.parse::<u64>().ok()?)
        })
        .sum();
    count.max(1)
}

/// This board's address on its network, if it has one yet.
#[must_use]
pub fn own_address() -> Option<IpAddr> {
    primary(None)
}

/// The same in IPv6: never one that the kernel changes by the day for privacy's sake.
fn primary6(server: Option<SocketAddr>, cluster: &ClusterAddresses) -> Option<IpAddr> {
    let all = lasting6(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
    let own: Vec<IpAddr> = all.into_iter().filter(|ip| !cluster.holds(*ip)).collect();
    let elsewhere = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    let used = server.into_iter().chain([elsewhere]).filter_map(towards).find(|ip| own.contains(ip));
    used.or_else(|| own.first().copied())
}

/// The global addresses of the kernel's list that are in use and to stay.
fn lasting6(if_inet6: &str) -> Vec<IpAddr> {
    /// IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE.
    const FLEETING: u8 = 0x01 | 0x08 | 0x20 | 0x40;
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, scope, flags, _] = words.as_slice() else { return None };
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let address = u128::from_str_radix(address, 16).ok()?;
        (*scope == "00" && flags & FLEETING == 0).then(|| IpAddr::V6(Ipv6Addr::from(address)))
    };
    if_inet6.lines().filter_map(read).collect()
}

/// The source address of what goes there.
fn towards(to: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().ok()?;
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// The address from which this board reaches the API server, or, when that is on this very board, the one towards the
/// default route, or any that is not loopback. Connecting a UDP socket sends nothing.
fn primary(server: Option<SocketAddr>) -> Option<IpAddr> {
    let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    server
        .and_then(towards)
        .or_else(|| towards(elsewhere))
        .or_else(|| first_local(&fs::read_to_string("/proc/net/fib_trie").unwrap_or_default()))
}

/// The first local address in the kernel's routing trie that is not loopback.
fn first_local(fib_trie: &str) -> Option<IpAddr> {
    let mut address = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("|-- ") {
            address = rest.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(found) = address.filter(|ip| !ip.is_loopback())
        {
            return Some(IpAddr::V4(found));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        assert_eq!(online("0-3,5"), 5);
        assert_eq!(online(""), 1);
        assert_eq!(model("Raspberry Pi 4\0", "PC"), "Raspberry Pi 4");
        assert_eq!(model("", "PC"), "PC");
        assert_eq!(kibibytes("MemTotal:  1024 kB\nMemFree: 1 kB", "MemTotal:"), 1024);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        let trie = "  |-- 127.0.0.1\n /32 host LOCAL\n |-- 10.0.0.5\n    /32 host LOCAL\n";
        assert_eq!(first_local(trie), Some("10.0.0.5".parse().unwrap()));
    }

    #[test]
    fn addresses_that_pass_are_not_the_boards() {
        let text = "fd420000000000000000000000000001 0b 80 00 80 brxnet\n\
                    fe80000000000000000000000000abcd 02 40 20 80 eth0\n\
                    20010db8000000000000000000000007 02 40 00 01 eth0\n\
                    20010db8000000000000000000000008 02 40 00 40 eth0\n\
                    20010db8000000000000000000000009 02 40 00 00 eth0\n\
                    00000000000000000000000000000001 01 80 10 80 lo\n";
        let wanted: [IpAddr; 2] = ["fd42::1".parse().unwrap(), "2001:db8::9".parse().unwrap()];
        assert_eq!(lasting6(text), wanted);
        let cluster = ClusterAddresses { pods: Cidr::list("10.42.0.0/16,fd42::/48").unwrap(), services: Vec::new() };
        assert!(cluster.holds(wanted[0]) && !cluster.holds(wanted[1]));
        let given = ["10.0.0.5".parse().unwrap()];
        assert_eq!(addresses(None, &given, &cluster, &wanted), given);
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = gather(Path::new("/"), None, &[], &ClusterAddresses::default());
        assert!(facts.memory_bytes > 0 && facts.cpus > 0 && facts.storage_bytes > 0 && !facts.boot_id.is_empty());
    }
}
