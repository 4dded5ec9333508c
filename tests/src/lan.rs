//! Several boards on one link, and links behind a router.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::board::Board;
use crate::host::{output, succeed};
use crate::line::Line;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace that is switch and router: link `n` is 10.99.`n`.0/24 and fd99:0:0:`n`::/64, its router's addresses end in 254
/// and `fe`.
pub struct Lan {
    netns: String,
    boards: AtomicU32,
}

impl Lan {
    /// With so many links.
    ///
    /// # Panics
    /// Not root, or iproute2 is missing.
    #[must_use]
    pub fn new(links: u8) -> Self {
        let netns = format!("brl{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lan = Self { netns, boards: AtomicU32::new(0) };
        let _ = succeed(Command::new("ip").args(["netns", "add", &lan.netns]));
        lan.run("ip link set lo up");
        lan.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for link in 0..links {
            lan.run(&format!("ip link add lan{link} type bridge"));
            lan.run(&format!("ip addr add 10.99.{link}.254/24 dev lan{link}"));
            lan.run(&format!("ip addr add fd99:0:0:{link}::fe/64 dev lan{link} nodad"));
            lan.run(&format!("ip link set lan{link} up"));
        }
        lan
    }

    /// A new board on a link; nothing runs on it yet. Its addresses end in its number, from 1.
    ///
    /// # Panics
    /// The namespace cannot be made.
    #[must_use]
    pub fn board(&self, test: &str, link: u8) -> Board {
        let number = self.boards.fetch_add(1, Ordering::Relaxed) + 1;
        let board = Board::unwired(test);
        let ns = board.netns();
        self.run(&format!("ip link add port{number} type veth peer name eth0 netns {ns}"));
        self.run(&format!("ip link set port{number} master lan{link} up"));
        board.address(&format!("10.99.{link}.{number}"));
        board.address6(&format!("fd99:0:0:{link}"), number);
        board
    }

    /// A new board whose line to the link can be spoilt; a good one at first.
    ///
    /// # Panics
    /// The namespace or the line cannot be made.
    #[must_use]
    pub fn board_on_a_line(&self, test: &str, link: u8) -> (Board, Line) {
        let number = self.boards.fetch_add(1, Ordering::Relaxed) + 1;
        let board = Board::unwired(test);
        let line = Line::new(board.netns(), "eth0", &self.netns, &format!("port{number}"));
        self.run(&format!("ip link set port{number} master lan{link} up"));
        board.address(&format!("10.99.{link}.{number}"));
        board.address6(&format!("fd99:0:0:{link}"), number);
        (board, line)
    }

    /// Pulls the plug of the board with that number, or puts it in again.
    ///
    /// # Panics
    /// There is no such board.
    pub fn plug(&self, number: u32, connected: bool) {
        self.run(&format!("ip link set port{number} {}", if connected { "up" } else { "down" }));
    }

    /// Puts a link behind a NAT: its boards reach others, by the router's address, and nobody reaches them.
    ///
    /// # Panics
    /// nftables is missing.
    pub fn masquerade(&self, link: u8) {
        self.run("nft add table ip nat");
        self.run("nft add chain ip nat out { type nat hook postrouting priority 100 ; }");
        self.run(&format!("nft add rule ip nat out ip saddr 10.99.{link}.0/24 oifname != lan{link} masquerade"));
        self.run("nft add chain ip nat in { type filter hook forward priority 0 ; }");
        self.run(&format!("nft add rule ip nat in oifname lan{link} iifname != lan{link} ct state new drop"));
    }

    /// A command on the router, which is on every link and no board.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command
    }

    fn run(&self, line: &str) {
        let words = line.split(' ');
        let _ = succeed(Command::new("nsenter").arg(format!("--net=/run/netns/{}", self.netns)).args(words));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = output(Command::new("ip").args(["netns", "del", &self.netns]));
    }
}
