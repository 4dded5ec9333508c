//! Shell: the one file that talks netlink to the kernel: send, read acknowledgements, walk dumps, hear changes.
//!
//! The kernel works a request off inside the send, so these calls are synchronous and take micro- to milliseconds.
//! A socket belongs to the network namespace of the thread that opened it, wherever it is used afterwards.

use super::describe::{Language, describe};
use super::wire::{Batch, DONE, ERROR, MULTI, Message, messages};
use super::{nft, route};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::netlink::{GENERIC, NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with, sockopt,
};
use std::net::IpAddr;
use std::time::Duration;

/// What the kernel may answer with at once: dumps come in pages of at most 32 KiB.
const REPLY_MAX: usize = 64 * 1024;
/// Acknowledgements and notifications may wait in the socket up to this.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// The kernel answers within the send; waiting longer means that a reply was lost.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call on the socket itself failed.
    #[error("netlink: cannot {call}")]
    Socket {
        /// Which one.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel refused one message.
    #[error("{message}")]
    Refused {
        /// The message in words.
        message: String,
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel's reply was cut short or of no known form.
    #[error("netlink: a reply cannot be read")]
    Malformed,
}

impl Error {
    /// The errno behind it, if it has one.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => Some(*source),
            Self::Malformed => None,
        }
    }
}

fn failed(call: &'static str) -> impl Fn(Errno) -> Error {
    move |source| Error::Socket { call, source }
}

/// An open netlink socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    language: Language,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Socket {
    /// A socket for links, addresses, routes and neighbours of this thread's network namespace.
    pub(crate) fn route() -> Result<Self, Error> {
        Self::open(Language::Route, 0, SocketFlags::CLOEXEC)
    }

    /// A socket for nf_tables and conntrack of this thread's network namespace.
    pub(crate) fn netfilter() -> Result<Self, Error> {
        Self::open(Language::Netfilter, 0, SocketFlags::CLOEXEC)
    }

    /// A socket for families that have no language of their own, such as WireGuard's.
    pub(crate) fn generic() -> Result<Self, Error> {
        Self::open(Language::Generic, 0, SocketFlags::CLOEXEC)
    }

    /// A non-blocking socket that becomes readable when anybody changes a ruleset.
    pub(crate) fn ruleset_changes() -> Result<Self, Error> {
        Self::open(Language::Netfilter, nft::CHANGES_GROUP, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    /// A non-blocking socket that becomes readable when links, addresses or routes of the namespace change.
    pub(crate) fn route_changes() -> Result<Self, Error> {
        Self::open(Language::Route, route::CHANGES_GROUPS, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    /// Reads and drops what has been heard: whoever listens asks the kernel how things stand.
    pub(crate) fn forget_heard(&self) {
        let mut buffer = vec![0; 4096];
        loop {
            match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok(_) | Err(Errno::INTR) => {}
                // Too much at once is as good as one more change; the next read says that all is read.
                Err(Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn open(language: Language, groups: u32, flags: SocketFlags) -> Result<Self, Error> {
        let protocol = match language {
            Language::Route => None,
            Language::Netfilter => Some(NETFILTER),
            Language::Generic => Some(GENERIC),
        };
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).map_err(failed("open a socket"))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(TIMEOUT)).map_err(failed("set a timeout"))?;
        // Without the privilege the default size has to do; then only very large replies fail.
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER);
        bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(failed("bind a socket"))?;
        Ok(Self { fd, language })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        // A transaction is one datagram, and the kernel accepts none that is larger than the send buffer.
        let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() + 4096);
        let sent =
            sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map_err(failed("send"))?;
        if sent == bytes.len() { Ok(()) } else { Err(Error::Malformed) }
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::TRUNC) {
                Ok((kept, whole)) if kept == whole => return Ok(&buffer[..kept]),
                Ok(_) => return Err(Error::Malformed),
                Err(Errno::INTR) => {}
                Err(source) => return Err(Error::Socket { call: "receive", source }),
            }
        }
    }

    fn refused(&self, batch: &Batch, sequence: u32, errno: i32) -> Error {
        let message = batch.at(sequence).map_or_else(|| "a message".to_owned(), |m| describe(self.language, m));
        Error::Refused { message, source: Errno::from_raw_os_error(errno) }
    }

    /// Sends messages that each ask for an acknowledgement; all are tried, the first error is returned.
    pub(crate) fn execute(&self, batch: &Batch) -> Result<(), Error> {
        if batch.count == 0 {
            return Ok(());
        }
        self.send(&batch.bytes)?;
        let mut buffer = vec![0; REPLY_MAX];
        let mut first = Ok(());
        let mut waiting = batch.count;
        while waiting > 0 {
            for message in messages(self.receive(&mut buffer)?).filter(|m| m.kind == ERROR) {
                waiting = waiting.saturating_sub(1);
                let errno = message.errno().ok_or(Error::Malformed)?;
                if errno != 0 && first.is_ok() {
                    first = Err(self.refused(batch, message.sequence, errno));
                }
            }
        }
        first
    }

    /// Sends one question and hands every part of the answer to `each`.
    pub(crate) fn dump(&self, question: &Batch, mut each: impl FnMut(&Message<'_>)) -> Result<(), Error> {
        self.send(&question.bytes)?;
        let mut buffer = vec![0; REPLY_MAX];
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                match message.kind {
                    DONE => return Ok(()),
                    ERROR => match message.errno().ok_or(Error::Malformed)? {
                        0 => return Ok(()),
                        errno => return Err(self.refused(question, message.sequence, errno)),
                    },
                    _ => each(&message),
                }
                if message.flags & MULTI == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// The generation of the namespace's ruleset: it counts transactions, whoever's.
    pub(crate) fn generation(&self) -> Result<u32, Error> {
        let mut question = Batch::default();
        nft::get_generation(&mut question);
        let mut generation = None;
        self.dump(&question, |message| {
            if message.kind == nft::NEW_GENERATION {
                generation = nft::parse_generation(message.payload);
            }
        })?;
        generation.ok_or(Error::Malformed)
    }

    /// Carries a whole nf_tables transaction out (its `begin` and `end` included); all or nothing.
    ///
    /// Only failures are answered, and they are there when the send returns: the generation asked for afterwards
    /// marks the end of them.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), Error> {
        self.send(&batch.bytes)?;
        let mut question = Batch::default();
        nft::get_generation(&mut question);
        self.send(&question.bytes)?;
        let mut buffer = vec![0; REPLY_MAX];
        let mut first = Ok(());
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                match message.kind {
                    nft::NEW_GENERATION => return first,
                    ERROR if first.is_ok() => {
                        let errno = message.errno().ok_or(Error::Malformed)?;
                        if errno != 0 {
                            first = Err(self.refused(batch, message.sequence, errno));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether a table of family inet with this name stands.
    pub(crate) fn has_table(&self, table: &str) -> Result<bool, Error> {
        let mut question = Batch::default();
        nft::get_table(&mut question, table);
        match self.dump(&question, |_| {}) {
            Ok(()) => Ok(true),
            Err(Error::Refused { source: Errno::NOENT, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what has been heard of ruleset changes without waiting.
    ///
    /// Each transaction ends with its generation; those that `own` knows are left out.
    pub(crate) fn heard(&self, table: &str, own: impl Fn(u32) -> bool) -> Heard {
        let mut buffer = vec![0; REPLY_MAX];
        let (mut concerned, mut heard) = (false, Heard::Nothing);
        loop {
            match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    for message in messages(&buffer[..length]) {
                        if message.kind != nft::NEW_GENERATION {
                            concerned |= nft::concerns(message.payload, table);
                        } else if std::mem::take(&mut concerned)
                            && !nft::parse_generation(message.payload).is_some_and(&own)
                        {
                            heard = Heard::Foreign;
                        }
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return if concerned { Heard::Foreign } else { heard },
                // Too much at once: some of it was dropped.
                Err(_) => heard = Heard::Lost,
            }
        }
    }
}

/// What the notifications said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    /// Somebody else changed our table.
    Foreign,
    /// Some could not be kept; only the generation can tell.
    Lost,
}

/// The interfaces of this thread's namespace.
pub(crate) fn links(socket: &Socket) -> Result<Vec<route::Link>, Error> {
    let mut question = Batch::default();
    route::list_links(&mut question);
    let mut links = Vec::new();
    socket.dump(&question, |message| links.extend(route::parse_link(message.payload)))?;
    Ok(links)
}

fn link_at(socket: &Socket, index: Option<u32>) -> Result<route::Link, Error> {
    let found = links(socket)?.into_iter().find(|link| Some(link.index) == index);
    found.ok_or(Error::Malformed)
}

/// The interface through which this thread's namespace reaches an address.
pub(crate) fn link_towards(socket: &Socket, ip: IpAddr) -> Result<route::Link, Error> {
    let mut question = Batch::default();
    route::get_route(&mut question, ip);
    let mut index = None;
    socket.dump(&question, |message| index = route::parse_interface(message.payload))?;
    link_at(socket, index)
}

/// The interface of this thread's namespace that has an address.
pub(crate) fn link_with(socket: &Socket, ip: IpAddr) -> Result<route::Link, Error> {
    let mut question = Batch::default();
    route::list_addresses(&mut question);
    let mut index = None;
    socket.dump(&question, |message| {
        index = route::parse_address(message.payload).filter(|(_, own)| *own == ip).map(|(index, _)| index).or(index);
    })?;
    link_at(socket, index)
}

/// The routes to other boards' pods in this thread's namespace.
pub(crate) fn routes(socket: &Socket) -> Result<Vec<route::Route>, Error> {
    let mut question = Batch::default();
    route::list_routes(&mut question);
    let mut routes = Vec::new();
    socket.dump(&question, |message| routes.extend(route::parse_peer_route(message.payload)))?;
    Ok(routes)
}

/// Opens a routing socket inside another network namespace, through a thread that lives only for that.
pub(crate) fn route_socket_in(netns: BorrowedFd<'_>) -> Result<Socket, Error> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    std::thread::scope(|scope| {
        let enter = move || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(failed("enter a namespace"))?;
            Socket::route()
        };
        let thread = std::thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, enter);
        let thread = thread.map_err(|_| Error::Socket { call: "start a thread", source: Errno::AGAIN })?;
        thread.join().map_err(|_| Error::Malformed)?
    })
}

/// The number of the interface with this name in the socket's namespace.
pub(crate) fn index_of(socket: &Socket, name: &str) -> Result<u32, Error> {
    let mut question = Batch::default();
    route::get_link(&mut question, name);
    let mut index = None;
    socket.dump(&question, |message| index = route::parse_link(message.payload).map(|link| link.index))?;
    index.ok_or(Error::Malformed)
}

/// Sends route messages that may be refused with one of `fine`.
pub(crate) fn execute_unless(socket: &Socket, batch: &Batch, fine: &[Errno]) -> Result<(), Error> {
    match socket.execute(batch) {
        Err(Error::Refused { source, .. }) if fine.contains(&source) => Ok(()),
        other => other,
    }
}
