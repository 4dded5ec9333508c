//! Shell: what happens, without polling: inotify on the exits, one pidfd a shim, behind one readable descriptor.

use std::{
    collections::BTreeMap,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex},
};

use rustix::{
    buffer::spare_capacity,
    event::{EventfdFlags, epoll},
    fs::inotify,
};

use crate::{
    error::Error,
    status::{EventKind, RuntimeEvent},
};

const EXITS: u64 = 0;
const STARTED: u64 = 1;
const FIRST_SHIM: u64 = 2;

/// What happened since the last look. There is one queue: one reader.
#[derive(Clone, Debug)]
pub struct Events {
    source: Arc<Source>,
}

#[derive(Debug)]
pub(super) struct Source {
    epoll: OwnedFd,
    exits: OwnedFd,
    wake: OwnedFd,
    started: Mutex<Vec<RuntimeEvent>>,
    shims: Mutex<Shims>,
}

#[derive(Debug, Default)]
struct Shims {
    next: u64,
    watched: BTreeMap<u64, (String, OwnedFd)>,
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.epoll.as_fd()
    }
}

impl Source {
    pub(super) fn new(exits_dir: &Path) -> Result<Arc<Source>, Error> {
        let failed = |e: rustix::io::Errno| Error::io("watch", exits_dir)(e.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let exits = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
        inotify::add_watch(&exits, exits_dir, inotify::WatchFlags::MOVED_TO).map_err(failed)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        for (fd, data) in [(&exits, EXITS), (&wake, STARTED)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN).map_err(failed)?;
        }
        let shims = Mutex::new(Shims { next: FIRST_SHIM, watched: BTreeMap::new() });
        Ok(Arc::new(Source { epoll, exits, wake, started: Mutex::default(), shims }))
    }

    pub(super) fn events(self: &Arc<Self>) -> Events {
        Events { source: Arc::clone(self) }
    }

    pub(super) fn tell_started(&self, event: RuntimeEvent) {
        self.started.lock().unwrap_or_else(|e| e.into_inner()).push(event);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(super) fn watch_shim(&self, sandbox_id: &str, pid: i32) {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
        let mut shims = self.shims.lock().unwrap_or_else(|e| e.into_inner());
        shims.watched.retain(|_, (id, _)| id != sandbox_id);
        let number = shims.next;
        shims.next += 1;
        if epoll::add(&self.epoll, &pidfd, epoll::EventData::new_u64(number), epoll::EventFlags::IN).is_ok() {
            shims.watched.insert(number, (sandbox_id.to_string(), pidfd));
        }
    }

    /// Its end is no news any more.
    pub(super) fn forget_shim(&self, sandbox_id: &str) {
        let mut shims = self.shims.lock().unwrap_or_else(|e| e.into_inner());
        shims.watched.retain(|_, (id, _)| id != sandbox_id);
    }

    fn take_exits(&self, found: &mut Vec<RuntimeEvent>) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.exits, &mut buffer);
        while let Ok(event) = reader.next() {
            let Some(name) = event.file_name().and_then(|n| n.to_str().ok()) else { continue };
            let Some((sandbox, container)) = name.strip_suffix(".exit").and_then(|n| n.split_once('.')) else {
                continue;
            };
            found.push(RuntimeEvent {
                sandbox_id: sandbox.to_string(),
                container_id: Some(container.to_string()),
                kind: EventKind::Exited,
            });
        }
    }
}

impl Events {
    /// What happened; empties the queue, so that the descriptor is not readable any more.
    pub fn drain(&self) -> Result<Vec<RuntimeEvent>, Error> {
        let source = &self.source;
        let mut ready = Vec::with_capacity(32);
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let waited = epoll::wait(&source.epoll, spare_capacity(&mut ready), Some(&now));
        waited.map_err(|e| Error::io("wait for", "events")(e.into()))?;
        let mut sink = [0u8; 8];
        let _ = rustix::io::read(&source.wake, &mut sink);
        let mut found = std::mem::take(&mut *source.started.lock().unwrap_or_else(|e| e.into_inner()));
        source.take_exits(&mut found);
        let mut shims = source.shims.lock().unwrap_or_else(|e| e.into_inner());
        for event in ready.iter().map(|e| e.data.u64()).filter(|data| *data >= FIRST_SHIM) {
            if let Some((sandbox_id, _)) = shims.watched.remove(&event) {
                found.push(RuntimeEvent { sandbox_id, container_id: None, kind: EventKind::ShimLost });
            }
        }
        Ok(found)
    }
}
