//! Shell: the last steps before a container's program: what libcontainer leaves undone, and a word when it fails.

use std::{
    ffi::CString,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use libcontainer::{
    oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Spec},
    workload::{Executor, ExecutorError, ExecutorValidationError},
};

use crate::{config::Size, session::set_window_size};

/// Runs the program; whatever goes wrong is also written to `report`, a pipe that closes when the program starts.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) report: RawFd,
    pub(super) guard: Option<Guard>,
    /// Size of the terminal, which must stand before the program looks.
    pub(super) size: Option<Size>,
}

/// What an exec'd process must give up: libcontainer's tenants keep the host's root and no seccomp profile.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) userns: Option<RawFd>,
    pub(super) seccomp: Option<LinuxSeccomp>,
    pub(super) capabilities: LinuxCapabilities,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) no_new_privileges: bool,
}

impl Launch {
    fn tell(&self, message: &str) {
        // SAFETY: the descriptor is a pipe that this process inherited for this purpose; it is only written to.
        unsafe { libc::write(self.report, message.as_ptr().cast(), message.len()) };
    }
}

impl Executor for Launch {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let args = process.and_then(|p| p.args().clone()).unwrap_or_default();
        let env = process.and_then(|p| p.env().clone()).unwrap_or_default();
        find(&args, &env).map(|_| ()).map_err(|message| {
            self.tell(&message);
            ExecutorValidationError::ArgValidationError(message)
        })
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Some(size) = self.size.filter(|s| s.width > 0 && s.height > 0) {
            let _ = set_window_size(rustix::stdio::stdin(), size);
        }
        if let Some(guard) = &self.guard {
            if self.size.is_some() {
                let (uid, gid) = (rustix::fs::Uid::from_raw(guard.uid), rustix::fs::Gid::from_raw(guard.gid));
                let _ = rustix::fs::fchown(rustix::stdio::stdin(), Some(uid), Some(gid));
            }
            guard.apply().inspect_err(|e| self.tell(&e.to_string()))?;
        }
        let process = spec.process().as_ref();
        let args = process.and_then(|p| p.args().clone()).unwrap_or_default();
        let env = process.and_then(|p| p.env().clone()).unwrap_or_default();
        let message = match run(&args, &env) {
            Ok(never) => match never {},
            Err(message) => message,
        };
        self.tell(&message);
        Err(ExecutorError::Other(message))
    }
}

fn run(args: &[String], env: &[String]) -> Result<std::convert::Infallible, String> {
    let path = find(args, env)?;
    let c_string = |text: &str| CString::new(text).map_err(|_| "an argument contains a NUL byte".to_string());
    let program = c_string(&path)?;
    let args: Vec<CString> = args.iter().map(|a| c_string(a)).collect::<Result<_, _>>()?;
    let env: Vec<CString> = env.iter().map(|e| c_string(e)).collect::<Result<_, _>>()?;
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: both arrays end with a null pointer and their strings live until the call replaces the process.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Err(format!("exec {path:?}: {}", plain(&std::io::Error::last_os_error())))
}

/// As upstream's runtimes say it.
fn find(args: &[String], env: &[String]) -> Result<String, String> {
    let name = args.first().filter(|n| !n.is_empty()).ok_or("exec: no command specified")?;
    let executable = |path: &Path| match path.metadata() {
        Ok(meta) if meta.is_dir() => Err("is a directory"),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Err("permission denied"),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err("permission denied"),
        Err(_) => Err("no such file or directory"),
    };
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.clone()),
            Err(why) => Err(format!("exec: {name:?}: stat {name}: {why}")),
        };
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
    let found = path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name));
    match found.into_iter().find(|candidate| executable(candidate).is_ok()) {
        Some(path) => Ok(path.to_string_lossy().into_owned()),
        None => Err(format!("exec: {name:?}: executable file not found in $PATH")),
    }
}

fn plain(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or(&text).to_string()
}

fn failed(what: &str) -> ExecutorError {
    ExecutorError::Other(format!("{what}: {}", std::io::Error::last_os_error()))
}

fn other(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> ExecutorError {
    move |e| ExecutorError::Other(format!("{what}: {e}"))
}

impl Guard {
    fn apply(&self) -> Result<(), ExecutorError> {
        let system = libcontainer::syscall::syscall::create_syscall();
        let load = || match &self.seccomp {
            Some(profile) => libcontainer::seccomp::initialize_seccomp(profile)
                .map(|_| ())
                .map_err(|e| other("load the seccomp profile")(&e)),
            None => Ok(()),
        };
        // SAFETY: plain system calls on this single-threaded process with valid arguments; the raw set*id calls are
        // per thread, which is the whole process here.
        unsafe {
            if let Some(fd) = self.userns
                && libc::setns(fd.as_raw_fd(), libc::CLONE_NEWUSER) < 0
            {
                return Err(failed("join the user namespace"));
            }
            if libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) < 0 {
                return Err(failed("set the supplementary groups"));
            }
            if !self.no_new_privileges {
                // Loading needs CAP_SYS_ADMIN, which goes below.
                load()?;
            }
            libc::prctl(libc::PR_SET_KEEPCAPS, 1);
            if libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid) < 0 {
                return Err(failed("set the group"));
            }
            if libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid) < 0 {
                return Err(failed("set the user"));
            }
        }
        if self.uid != 0 {
            libcontainer::capabilities::reset_effective(&*system).map_err(|e| other("reset capabilities")(&e))?;
        }
        // SAFETY: a plain prctl call.
        unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 0) };
        libcontainer::capabilities::drop_privileges(&self.capabilities, &*system)
            .map_err(|e| other("drop capabilities")(&e))?;
        if self.no_new_privileges {
            // SAFETY: a plain prctl call.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            load()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_as_upstream_says_it() {
        let find = |name: &str| find(&[name.to_string()], &["PATH=/nowhere:/bin".into()]);
        assert_eq!(find("sh").unwrap(), "/bin/sh");
        assert_eq!(find("no-such").unwrap_err(), r#"exec: "no-such": executable file not found in $PATH"#);
        assert_eq!(find("/no/such").unwrap_err(), r#"exec: "/no/such": stat /no/such: no such file or directory"#);
        assert_eq!(find("/etc").unwrap_err(), r#"exec: "/etc": stat /etc: is a directory"#);
        assert_eq!(find("/etc/passwd").unwrap_err(), r#"exec: "/etc/passwd": stat /etc/passwd: permission denied"#);
    }
}
