//! A name server of one's own inside a board's network namespace: what the board forwards foreign names to.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::board::Board;

/// Answers every question for an A record with one address, on one loopback address.
pub struct Resolver {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    resolv_conf: PathBuf,
}

/// Where it listens.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 99);
/// What every name means to it.
pub const ANSWER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

impl Resolver {
    /// Starts it in the board's namespace.
    ///
    /// # Panics
    /// The namespace cannot be entered.
    #[must_use]
    pub fn start(board: &Board) -> Self {
        let resolv_conf = board.dir().join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {ADDRESS}\n")).expect("written");
        let netns = fs::File::open(format!("/run/netns/{}", board.netns())).expect("the namespace");
        let done = Arc::new(AtomicBool::new(false));
        let (end, (ready, bound)) = (done.clone(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            use std::os::fd::AsFd;
            // Only this thread changes its namespace.
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(netns.as_fd(), network).expect("entered");
            let socket = UdpSocket::bind((ADDRESS, 53)).expect("bound");
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
            ready.send(()).expect("heard");
            let mut question = [0; 512];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut question) {
                    let _ = socket.send_to(&answer(&question[..length]), from);
                }
            }
        });
        bound.recv().expect("the resolver listens");
        Self { done, thread: Some(thread), resolv_conf }
    }

    /// The file that names it, for `--resolv-conf`.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        self.resolv_conf.to_string_lossy().into_owned()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The question again, with one answer when it asks for an A record (RFC 1035, section 4).
fn answer(question: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    let Some(name) = question.get(HEADER..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) else {
        return Vec::new();
    };
    let end = HEADER + name + 1 + 4;
    let Some(kind) = question.get(end - 4..end - 2) else { return Vec::new() };
    let is_address = kind == [0, 1];
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..HEADER].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ANSWER.octets());
    }
    answer
}
