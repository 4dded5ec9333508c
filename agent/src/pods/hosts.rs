//! Pure: the files that every pod gets: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.

use std::net::IpAddr;

use super::config::hostname;
use super::spec::Pod;

/// The cluster's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    /// Where cluster names are answered; empty without cluster DNS.
    pub(crate) servers: Vec<IpAddr>,
    /// `cluster.local`.
    pub(crate) domain: String,
}

/// The resolver's limits of glibc, which upstream enforces.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// `/etc/hosts`; `of_host` is the board's own, for pods of the host's network.
pub(crate) fn hosts(pod: &Pod, ips: &[IpAddr], dns: &Dns, of_host: &str) -> String {
    let mut text = String::new();
    if pod.spec.host_network {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(of_host);
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        );
        text.push_str(
            "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let name = hostname(pod, &dns.domain);
        let short = name.split('.').next().unwrap_or(&name);
        for ip in ips {
            if pod.spec.subdomain.is_empty() {
                text.push_str(&format!("{ip}\t{name}\n"));
            } else {
                let full = format!("{short}.{}.{}.svc.{}", pod.spec.subdomain, pod.metadata.namespace, dns.domain);
                text.push_str(&format!("{ip}\t{full}\t{short}\n"));
            }
        }
    }
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    text
}

#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// `/etc/resolv.conf`; `of_host` is the board's own.
pub(crate) fn resolv_conf(pod: &Pod, dns: &Dns, of_host: &str) -> String {
    let policy = match pod.spec.dns_policy.as_str() {
        "None" => "None",
        "Default" => "Default",
        "ClusterFirstWithHostNet" => "ClusterFirst",
        _ if pod.spec.host_network => "Default",
        _ => "ClusterFirst",
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "ClusterFirst" if !dns.servers.is_empty() => {
            let domain = &dns.domain;
            let mut searches =
                vec![format!("{}.svc.{domain}", pod.metadata.namespace), format!("svc.{domain}"), domain.clone()];
            searches.extend(parse(of_host).searches);
            Resolver {
                servers: dns.servers.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => parse(of_host),
    };
    let own = &pod.spec.dns_config;
    resolver.servers.extend(own.nameservers.iter().cloned());
    resolver.searches.extend(own.searches.iter().cloned());
    for option in &own.options {
        resolver.options.retain(|known| known.split(':').next() != Some(&option.name));
        let value = option.value.as_ref().filter(|value| !value.is_empty());
        resolver.options.push(value.map_or_else(|| option.name.clone(), |value| format!("{}:{value}", option.name)));
    }
    render(resolver)
}

fn render(mut resolver: Resolver) -> String {
    for (list, most) in [(&mut resolver.servers, MAX_NAMESERVERS), (&mut resolver.searches, MAX_SEARCHES)] {
        let mut seen = Vec::new();
        list.retain(|one| {
            let new = !seen.contains(one);
            seen.push(one.clone());
            new
        });
        list.truncate(most);
    }
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        text.push_str(&format!("search {}\n", resolver.searches.join(" ")));
    }
    for server in resolver.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !resolver.options.is_empty() {
        text.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    text
}

fn parse(resolv_conf: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
            Some("search") => resolver.searches = words.filter(|one| *one != ".").map(str::to_owned).collect(),
            Some("options") => resolver.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dns() -> Dns {
        Dns { servers: vec!["10.43.0.10".parse().unwrap()], domain: "cluster.local".into() }
    }

    #[test]
    fn cluster_names_come_first() {
        let pod = Pod::read(&json!({"metadata": {"namespace": "a"}, "spec": {
            "dnsConfig": {"options": [{"name": "ndots", "value": "2"}], "searches": ["x.y"]}}}))
        .unwrap();
        assert_eq!(
            resolv_conf(&pod, &dns(), "nameserver 1.1.1.1\nsearch lan\n"),
            "search a.svc.cluster.local svc.cluster.local cluster.local lan x.y\nnameserver 10.43.0.10\noptions ndots:2\n"
        );
        let host = Pod::read(&json!({"spec": {"hostNetwork": true}})).unwrap();
        assert_eq!(resolv_conf(&host, &dns(), "nameserver 1.1.1.1\n"), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn a_pod_knows_its_own_name() {
        let pod = Pod::read(&json!({"metadata": {"name": "web-0", "namespace": "a"}, "spec": {"subdomain": "web",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}]}}))
        .unwrap();
        let text = hosts(&pod, &["10.42.0.2".parse().unwrap()], &dns(), "");
        assert!(text.contains("10.42.0.2\tweb-0.web.a.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\tx\ty\n"), "{text}");
    }
}
