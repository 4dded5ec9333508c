//! Pure: the fixed-size messages between the agent, a shim and its verbs. One packet each over SOCK_SEQPACKET.
//!
//! Descriptors travel beside the bytes: `Start` [result], `Exec` [result, exit, stdin?, stdout?, stderr?],
//! `Attach` [exit, stdout, stderr?], `Adopt` [pidfd, keeper?]. The answer to `Attach` and `Keeper` carries the
//! terminal's master or the writing end of stdin.

use heapless::{String, Vec};

/// Longest id.
pub(crate) const ID_MAX: usize = 64;
/// Longest path in a message.
pub(crate) const PATH_MAX: usize = 768;
/// Longest message.
pub(crate) const MESSAGE_MAX: usize = 2048;
/// Most descriptors with one message.
pub(crate) const FDS_MAX: usize = 5;

/// What the shim is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verb {
    Start = 1,
    Exec,
    Attach,
    Adopt,
    CloseStdin,
    Keeper,
    Signal,
    Resize,
    ReopenLog,
    Quit,
}

const VERBS: [Verb; 10] = [
    Verb::Start,
    Verb::Exec,
    Verb::Attach,
    Verb::Adopt,
    Verb::CloseStdin,
    Verb::Keeper,
    Verb::Signal,
    Verb::Resize,
    Verb::ReopenLog,
    Verb::Quit,
];

/// The process has a terminal.
pub(crate) const TTY: u8 = 1;
/// The process has a stdin.
pub(crate) const STDIN: u8 = 2;
/// Its stdin ends with the first attach.
pub(crate) const STDIN_ONCE: u8 = 4;
/// The container has no pid namespace of its own: when its first process ends, the rest of its cgroup is killed.
pub(crate) const KILL_ALL: u8 = 8;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) verb: Verb,
    pub(crate) flags: u8,
    /// Owner of the stdio pipes, on the host.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `Adopt`: the process.
    pub(crate) pid: i32,
    /// `Signal`: the signal; `Exec`: its number.
    pub(crate) number: u32,
    pub(crate) timeout_ms: u32,
    pub(crate) width: u16,
    pub(crate) height: u16,
    pub(crate) log_max_bytes: u64,
    pub(crate) log_max_files: u32,
    pub(crate) id: String<ID_MAX>,
    pub(crate) log_path: String<PATH_MAX>,
    /// The directory of the container's memory cgroup (v1) or cgroup (v2).
    pub(crate) cgroup: String<PATH_MAX>,
}

impl Request {
    pub(crate) fn new(verb: Verb) -> Request {
        Request {
            verb,
            flags: 0,
            uid: 0,
            gid: 0,
            pid: 0,
            number: 0,
            timeout_ms: 0,
            width: 0,
            height: 0,
            log_max_bytes: 0,
            log_max_files: 0,
            id: String::new(),
            log_path: String::new(),
            cgroup: String::new(),
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn encode(&self) -> Vec<u8, MESSAGE_MAX> {
        let mut out = Vec::new();
        let mut put =
            |bytes: &[u8]| out.extend_from_slice(bytes).expect("MESSAGE_MAX holds every field at its longest");
        put(&[self.verb as u8, self.flags]);
        for word in [self.uid, self.gid, self.pid as u32, self.number, self.timeout_ms, self.log_max_files] {
            put(&word.to_le_bytes());
        }
        put(&self.width.to_le_bytes());
        put(&self.height.to_le_bytes());
        put(&self.log_max_bytes.to_le_bytes());
        for text in [self.id.as_str(), self.log_path.as_str(), self.cgroup.as_str()] {
            put(&(text.len() as u16).to_le_bytes());
            put(text.as_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Request> {
        let mut rest = bytes;
        let verb = take::<1>(&mut rest)?[0];
        let mut request = Request::new(*VERBS.iter().find(|v| **v as u8 == verb)?);
        request.flags = take::<1>(&mut rest)?[0];
        request.uid = u32::from_le_bytes(take(&mut rest)?);
        request.gid = u32::from_le_bytes(take(&mut rest)?);
        request.pid = i32::from_le_bytes(take(&mut rest)?);
        request.number = u32::from_le_bytes(take(&mut rest)?);
        request.timeout_ms = u32::from_le_bytes(take(&mut rest)?);
        request.log_max_files = u32::from_le_bytes(take(&mut rest)?);
        request.width = u16::from_le_bytes(take(&mut rest)?);
        request.height = u16::from_le_bytes(take(&mut rest)?);
        request.log_max_bytes = u64::from_le_bytes(take(&mut rest)?);
        request.id = text(&mut rest)?;
        request.log_path = text(&mut rest)?;
        request.cgroup = text(&mut rest)?;
        rest.is_empty().then_some(request)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn text<const N: usize>(rest: &mut &[u8]) -> Option<String<N>> {
    let length = u16::from_le_bytes(take(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    String::try_from(std::str::from_utf8(head).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_survives_the_wire() {
        for verb in VERBS {
            let mut request = Request::new(verb);
            request.flags = TTY | KILL_ALL;
            request.uid = 1000;
            request.pid = -1;
            request.log_max_bytes = 1 << 40;
            request.id.push_str("0123").unwrap();
            request.log_path.push_str("/var/log/pods/a/0.log").unwrap();
            request.cgroup.push_str("/sys/fs/cgroup/memory/x").unwrap();
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
    }

    #[test]
    fn the_longest_request_fits() {
        let mut request = Request::new(Verb::Start);
        for _ in 0..ID_MAX {
            request.id.push('x').unwrap();
        }
        for _ in 0..PATH_MAX {
            request.log_path.push('x').unwrap();
            request.cgroup.push('x').unwrap();
        }
        assert_eq!(Request::decode(&request.encode()), Some(request));
    }

    #[test]
    fn a_truncated_request_is_refused() {
        let bytes = Request::new(Verb::Quit).encode();
        for end in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..end]), None);
        }
    }
}
