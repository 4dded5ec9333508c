//! Shell: a whole board for tests: its namespace, a machine on its LAN, pods with servers.

use super::namespace::Namespace;
use super::{Network, Options, Overlay, down};
use crate::instance::Instance;
use crate::netlink::route;
use crate::pods::{HostPort, PodNetRequest};
use crate::services::{self, Policies, Proxy};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The board's address on the LAN, and the other machine's.
pub(crate) const BOARD_IP: &str = "192.168.77.1";
pub(crate) const LAN_IP: &str = "192.168.77.2";

pub(crate) struct Board {
    pub(crate) netns: Namespace,
    pub(crate) lan: Namespace,
    pub(crate) instance: Instance,
    pub(crate) proxy: Proxy,
    pub(crate) policies: Policies,
    pub(crate) network: Network,
}

pub(crate) struct Pod {
    pub(crate) netns: Namespace,
    pub(crate) id: String,
    pub(crate) ips: Vec<IpAddr>,
}

impl Pod {
    pub(crate) fn ip(&self) -> String {
        self.ips[0].to_string()
    }
}

impl Board {
    pub(crate) fn new() -> Self {
        let (netns, lan) = (Namespace::new(), Namespace::new());
        netns.run(&["ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", lan.name()]);
        netns.run(&["ip", "address", "add", &format!("{BOARD_IP}/24"), "dev", "lan0"]);
        netns.run(&["ip", "link", "set", "lan0", "up"]);
        lan.run(&["ip", "address", "add", &format!("{LAN_IP}/24"), "dev", "eth0"]);
        lan.run(&["ip", "link", "set", "eth0", "up"]);
        let dir: PathBuf = std::env::temp_dir().join(netns.name());
        let instance = Instance::new(&dir.join("data"), &dir.join("run"), None);
        let (proxy, policies, network) = Self::start(&netns, &instance);
        Self { netns, lan, instance, proxy, policies, network }
    }

    /// As after a restart of the agent: nothing is remembered but what stands on the host.
    pub(crate) fn restart(&mut self) {
        (self.proxy, self.policies, self.network) = Self::start(&self.netns, &self.instance);
    }

    fn start(netns: &Namespace, instance: &Instance) -> (Proxy, Policies, Network) {
        let range = |text: &str| text.parse().unwrap();
        let dns = vec![IpAddr::from([10, 43, 0, 10])];
        let proxy = Proxy::new(&services::Options {
            instance: instance.clone(),
            node_name: "n1".to_owned(),
            cluster_ranges: vec![range("10.42.0.0/16"), range("fd42::/48")],
            service_ranges: vec![range("10.43.0.0/16"), range("fd43::/112")],
            dns_addresses: dns.clone(),
        });
        let policies = Policies::none(proxy.clone());
        let options = Options {
            instance: instance.clone(),
            node_name: "n1".to_owned(),
            service_ranges: vec![range("10.43.0.0/16"), range("fd43::/112")],
            dns_addresses: dns,
            mtu: None,
            foreign: false,
            overlay: Overlay::default(),
            keepalive_s: 0,
        };
        let network = netns.enter(|| {
            let network = Network::open(options, proxy.clone(), policies.clone()).unwrap();
            network.set_ranges(&[range("10.42.0.0/24"), range("fd42::/64")]).unwrap();
            network
        });
        (proxy, policies, network)
    }

    /// As the pod `app` of the namespace `d`, where its sandbox is `sandbox-<app>`.
    pub(crate) fn attach(&self, pod: &Namespace, id: &str, ports: &[HostPort]) -> Vec<IpAddr> {
        let name = id.trim_start_matches("sandbox-");
        let request = PodNetRequest {
            namespace: "d".to_owned(),
            name: name.to_owned(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            host_ports: ports.to_vec(),
            ..PodNetRequest::default()
        };
        self.netns.enter(|| self.network.connect(&pod.path(), id, &request)).unwrap()
    }

    /// A pod whose server on 8080 answers with its name.
    pub(crate) fn pod(&self, name: &str, ports: &[HostPort]) -> Pod {
        let netns = Namespace::new();
        let id = format!("sandbox-{name}");
        let ips = self.attach(&netns, &id, ports);
        ips.iter().for_each(|ip| netns.serve(name, SocketAddr::new(*ip, 8080)));
        Pod { netns, id, ips }
    }

    pub(crate) fn sync(&self) {
        self.netns.enter(|| self.proxy.sync()).unwrap();
    }

    /// Names of the interfaces of the board that are ours.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let socket = self.netns.enter(crate::netlink::socket::Socket::route).unwrap();
        let links: Vec<route::Link> = crate::netlink::socket::links(&socket).unwrap();
        let own = links.into_iter().map(|link| link.name).filter(|name| name.starts_with(&self.instance.interface("")));
        own.collect()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.netns.enter(|| down(&self.instance));
        let _ = std::fs::remove_dir_all(std::env::temp_dir().join(self.netns.name()));
    }
}
