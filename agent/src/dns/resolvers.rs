//! Pure: the board's resolvers as /etc/resolv.conf lists them (resolv.conf(5)).

use core::net::{IpAddr, SocketAddr};

/// glibc asks three at most.
const SERVERS_MAX: usize = 3;

/// The name servers in order, without `own`: asking ourselves would go in a circle.
pub(crate) fn parse(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .filter(|server| !own.contains(server))
        .take(SERVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_are_not_ourselves() {
        let own = ["10.43.0.10:53".parse().unwrap()];
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 10.43.0.10\n nameserver\t1.1.1.1 # one\n\
            nameserver fd00::1\nnameserver nonsense\nnameservers 4.4.4.4\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n";
        let servers: Vec<_> = parse(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["1.1.1.1:53", "[fd00::1]:53", "8.8.8.8:53"]);
    }
}
