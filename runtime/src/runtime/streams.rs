//! Shell: exec, attach, and what else concerns a container's streams.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    pipe::PipeFlags,
};

use super::{Runtime, locked};
use crate::{
    config::{ExecConfig, Size},
    error::Error,
    record::{self, ContainerRecord},
    session::Session,
    status::ContainerState,
    wire::{Request, STDIN, TTY, Verb},
};

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("make", "a pipe")(e.into()))
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    fd.try_clone().map_err(Error::io("duplicate", "a descriptor"))
}

impl Runtime {
    fn running(&self, id: &str) -> Result<std::sync::Arc<ContainerRecord>, Error> {
        let record = self.container_record(id)?;
        let state = self.status(id, &record).state;
        if state != ContainerState::Running {
            return Err(Error::State { id: id.to_string(), state: state.name(), wanted: "running" });
        }
        Ok(record)
    }

    fn request(verb: Verb, id: &str) -> Request {
        let mut request = Request::new(verb);
        // An id that is too long was refused when the container was made.
        request.id = id.try_into().unwrap_or_default();
        request
    }

    /// A further process in a running container; it runs when this returns.
    pub fn exec(&self, id: &str, config: &ExecConfig) -> Result<Session, Error> {
        let record = self.running(id)?;
        if config.args.is_empty() {
            return Err(Error::Invalid("no command specified".into()));
        }
        let mut random = [0u8; 4];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .expect("the kernel has randomness");
        let mut request = Runtime::request(Verb::Exec, id);
        request.number = u32::from_le_bytes(random);
        request.timeout_ms = config.timeout_ms.unwrap_or(0);
        request.flags = if config.tty.is_some() { TTY } else { 0 } | if config.stdin { STDIN } else { 0 };
        let dir = self.layout.container_dir(&record.sandbox_id, id);
        record::write_json(&dir.join(format!("exec-{}.json", request.number)), config)?;

        let (exit, exit_theirs) = pipe()?;
        let mut session = Session { stdin: None, stdout: None, stderr: None, terminal: None, exit };
        let mut theirs = vec![exit_theirs];
        if config.tty.is_none() {
            if config.stdin {
                let (reader, writer) = pipe()?;
                session.stdin = Some(writer);
                theirs.push(reader);
            }
            for stream in [&mut session.stdout, &mut session.stderr] {
                let (reader, writer) = pipe()?;
                *stream = Some(reader);
                theirs.push(writer);
            }
            self.give(&record, &theirs[1..])?;
        }
        let (_, master) = self.run_verb(&record.sandbox_id, &request, &theirs)?;
        if let Some(master) = master {
            session.stdin = config.stdin.then(|| duplicate(&master)).transpose()?;
            session.stdout = Some(duplicate(&master)?);
            session.terminal = Some(master);
        }
        Ok(session)
    }

    /// The container's user may open its own /dev/stdout anew.
    fn give(&self, record: &ContainerRecord, pipes: &[OwnedFd]) -> Result<(), Error> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(record.uid), rustix::fs::Gid::from_raw(record.gid));
        for pipe in pipes {
            rustix::fs::fchown(pipe, Some(uid), Some(gid)).map_err(|e| Error::io("chown", "a pipe")(e.into()))?;
        }
        Ok(())
    }

    /// The running container's own stdio, from now on.
    pub fn attach(&self, id: &str, stdin: bool) -> Result<Session, Error> {
        let record = self.running(id)?;
        let (exit, exit_theirs) = pipe()?;
        let mut session = Session { stdin: None, stdout: None, stderr: None, terminal: None, exit };
        let mut theirs = vec![exit_theirs];
        let (reader, writer) = pipe()?;
        session.stdout = Some(reader);
        theirs.push(writer);
        let mut request = Runtime::request(Verb::Attach, id);
        if !record.config.tty {
            let (reader, writer) = pipe()?;
            session.stderr = Some(reader);
            theirs.push(writer);
            if stdin && record.config.stdin {
                // Opened before the shim lets go of its own: stdin always has a writer until ours closes.
                session.stdin = Some(self.open_stdin(&record, id)?);
                request.flags |= STDIN;
            }
        }
        let fds: Vec<_> = theirs.iter().map(|fd| fd.as_fd()).collect();
        let keeper = match self.ask(&record.sandbox_id, &request, &fds)? {
            Ok(keeper) => keeper,
            Err(errno) => {
                return Err(Error::io("attach to", format!("container {id}"))(std::io::Error::from_raw_os_error(
                    errno,
                )));
            }
        };
        if record.config.tty {
            session.stdin = keeper.as_ref().filter(|_| stdin).map(duplicate).transpose()?;
            session.terminal = keeper;
        } else if session.stdin.is_some() && record.config.stdin_once {
            locked(&self.keepers).remove(id);
        }
        Ok(session)
    }

    fn open_stdin(&self, record: &ContainerRecord, id: &str) -> Result<OwnedFd, Error> {
        let path = self.layout.container_dir(&record.sandbox_id, id).join("stdin");
        let failed = |e: rustix::io::Errno| Error::io("open", &path)(e.into());
        let fd = rustix::fs::open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
        rustix::io::ioctl_fionbio(&fd, false).map_err(failed)?;
        Ok(fd)
    }

    /// Ends the container's input; what an attached caller still writes arrives.
    pub fn close_stdin(&self, id: &str) -> Result<(), Error> {
        locked(&self.keepers).remove(id);
        self.simple(id, Runtime::request(Verb::CloseStdin, id))
    }

    /// Sets the size of the container's own terminal.
    pub fn resize(&self, id: &str, size: Size) -> Result<(), Error> {
        let mut request = Runtime::request(Verb::Resize, id);
        (request.width, request.height) = (size.width, size.height);
        self.simple(id, request)
    }

    /// Opens the log file anew, after somebody else rotated it.
    pub fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.simple(id, Runtime::request(Verb::ReopenLog, id))
    }

    fn simple(&self, id: &str, request: Request) -> Result<(), Error> {
        let record = self.running(id)?;
        match self.ask(&record.sandbox_id, &request, &[])? {
            Ok(_) => Ok(()),
            Err(errno) => Err(Error::io("reach", format!("container {id}"))(std::io::Error::from_raw_os_error(errno))),
        }
    }
}
