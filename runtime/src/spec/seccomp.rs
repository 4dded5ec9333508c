//! Pure: the RuntimeDefault seccomp profile, as a table of facts, and the reading of Localhost profiles.
//!
//! The table says what Docker's and containerd's default profile says (compared with `github.com/moby/profiles/seccomp`
//! v0.3.0, rule by rule): an allow list, with EPERM for the rest. Only the native architecture is emitted: each further
//! one costs milliseconds at every start, and no image of ours is foreign.

use serde_json::{Value, json};

use crate::error::Error;

/// Allowed to every container.
const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 \
epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown \
fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 \
fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv \
futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority \
getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid \
gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch \
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc \
kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen \
listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack \
membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect \
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink \
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat \
_newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll \
ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 \
pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg \
recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir \
riscv_hwprobe rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop \
semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area \
set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid \
setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 \
sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat \
utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Allowed on one architecture.
const BY_ARCHITECTURE: [(&str, &str); 4] = [
    ("x86_64", "arch_prctl modify_ldt"),
    ("arm", "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    ("aarch64", "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    ("riscv64", "riscv_flush_icache"),
];

/// Allowed to a container with the capability.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Execution domains that `personality` may set: Linux, no randomisation, 32 bit, both, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The CLONE_NEW* flags; without CAP_SYS_ADMIN none may be set.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;
/// Every address family below this one (AF_UNSPEC, AF_UNIX, AF_INET) may be used.
const FAMILIES_BELOW: u64 = 3;
/// And each of these. Left out are the kernel's crypto interface (AF_ALG, 38), AF_VSOCK (40), which reaches other virtual
/// machines around the network namespace, and protocols that hardly anybody speaks or maintains.
const FAMILIES: [u64; 29] =
    [7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45];

/// The native architecture's name in a specification.
pub(crate) fn native(architecture: &str) -> &'static str {
    match architecture {
        "x86_64" => "SCMP_ARCH_X86_64",
        "aarch64" => "SCMP_ARCH_AARCH64",
        "arm" => "SCMP_ARCH_ARM",
        "riscv64" => "SCMP_ARCH_RISCV64",
        _ => "SCMP_ARCH_X86",
    }
}

fn names(table: &str) -> Vec<&str> {
    table.split_whitespace().collect()
}

/// The default profile for a container with these capabilities.
pub(crate) fn runtime_default(architecture: &str, capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let mut allowed = names(ALLOWED);
    for (_, table) in BY_ARCHITECTURE.iter().filter(|(name, _)| *name == architecture) {
        allowed.extend(names(table));
    }
    for (_, table) in BY_CAPABILITY.iter().filter(|(name, _)| has(name)) {
        allowed.extend(names(table));
    }
    allowed.sort_unstable();
    allowed.dedup();
    let mut rules = vec![json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" })];
    let when = |name: &str, argument: Value| json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument] });
    for value in PERSONALITIES {
        rules.push(when("personality", json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" })));
    }
    rules.push(when("socket", json!({ "index": 0, "value": FAMILIES_BELOW, "op": "SCMP_CMP_LT" })));
    for family in FAMILIES {
        rules.push(when("socket", json!({ "index": 0, "value": family, "op": "SCMP_CMP_EQ" })));
    }
    if !has("CAP_SYS_ADMIN") {
        let none = json!({ "index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" });
        rules.push(when("clone", none));
        // Its flags lie behind a pointer; ENOSYS makes libc fall back to clone.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [native(architecture)],
        "syscalls": rules,
    })
}

/// A profile file in OCI's form, or in Docker's with its conditions.
pub(crate) fn localhost(text: &str, architecture: &str, capabilities: &[String]) -> Result<Value, Error> {
    let refused = |why: &str| Error::Invalid(format!("seccomp profile: {why}"));
    let profile: Value = serde_json::from_str(text).map_err(|e| refused(&e.to_string()))?;
    let mut out = serde_json::Map::new();
    let default = profile.get("defaultAction").ok_or_else(|| refused("no defaultAction"))?;
    out.insert("defaultAction".into(), default.clone());
    for key in ["defaultErrnoRet", "flags", "architectures"] {
        if let Some(value) = profile.get(key) {
            out.insert(key.into(), value.clone());
        }
    }
    out.entry("architectures").or_insert_with(|| json!([native(architecture)]));
    let rules = profile.get("syscalls").and_then(Value::as_array).cloned().unwrap_or_default();
    let rules: Vec<Value> = rules.iter().filter_map(|rule| plain_rule(rule, architecture, capabilities)).collect();
    out.insert("syscalls".into(), Value::Array(rules));
    Ok(Value::Object(out))
}

fn plain_rule(rule: &Value, architecture: &str, capabilities: &[String]) -> Option<Value> {
    let docker_name = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let strings = |part: &str, key: &str| -> Vec<String> {
        let list = rule.get(part).and_then(|p| p.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect()
    };
    let here = |list: &[String]| list.iter().any(|a| a == docker_name || a == architecture);
    let included = strings("includes", "arches");
    let applies = (included.is_empty() || here(&included))
        && !here(&strings("excludes", "arches"))
        && strings("includes", "caps").iter().all(|cap| capabilities.contains(cap))
        && !strings("excludes", "caps").iter().any(|cap| capabilities.contains(cap));
    if !applies {
        return None;
    }
    let mut plain = serde_json::Map::new();
    let names = rule.get("names").cloned().or_else(|| rule.get("name").map(|n| json!([n])))?;
    plain.insert("names".into(), names);
    for key in ["action", "errnoRet", "args"] {
        if let Some(value) = rule.get(key).filter(|v| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty())) {
            plain.insert(key.into(), value.clone());
        }
    }
    Some(Value::Object(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(profile: &Value, name: &str) -> bool {
        profile["syscalls"].as_array().unwrap().iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW" && rule["names"].as_array().unwrap().iter().any(|n| n == name)
        })
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        let plain = runtime_default("x86_64", &[]);
        for name in ["mount", "unshare", "setns", "reboot", "init_module", "bpf", "keyctl", "add_key", "kexec_load"] {
            assert!(!allows(&plain, name), "{name}");
        }
        assert!(allows(&plain, "openat") && allows(&plain, "clone") && allows(&plain, "arch_prctl"));
        let admin = runtime_default("aarch64", &["CAP_SYS_ADMIN".into(), "CAP_SYS_BOOT".into()]);
        assert!(allows(&admin, "mount") && allows(&admin, "clone3") && allows(&admin, "reboot"));
        assert!(!allows(&admin, "arch_prctl"));
        assert_eq!(admin["architectures"], json!(["SCMP_ARCH_AARCH64"]));
    }

    #[test]
    fn sockets_are_of_families_that_upstream_allows() {
        let profile = runtime_default("x86_64", &["CAP_SYS_ADMIN".into()]);
        let rules = profile["syscalls"].as_array().unwrap().iter().filter(|rule| rule["names"] == json!(["socket"]));
        let conditions: Vec<(u64, &str)> = rules
            .map(|rule| (rule["args"][0]["value"].as_u64().unwrap(), rule["args"][0]["op"].as_str().unwrap()))
            .collect();
        let opens = |family| {
            conditions.iter().any(|(value, op)| if *op == "SCMP_CMP_LT" { family < *value } else { family == *value })
        };
        let (unix, inet, inet6, netlink, packet) = (1, 2, 10, 16, 17);
        assert!([unix, inet, inet6, netlink, packet].into_iter().all(opens));
        let (ax25, appletalk, alg, vsock) = (3, 5, 38, 40);
        assert!(![ax25, appletalk, alg, vsock].into_iter().any(opens));
        assert!(!allows(&runtime_default("x86_64", &[]), "lsm_set_self_attr") && allows(&profile, "lsm_set_self_attr"));
    }

    #[test]
    fn no_name_stands_twice() {
        let mut all = names(ALLOWED);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_docker_profile_is_reduced_to_what_applies() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[],"syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[],"includes":{},"excludes":{}},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"],"arches":["s390"]}},
            {"name":"arch_prctl","action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64"]}}]}"#;
        let profile = localhost(text, "x86_64", &[]).unwrap();
        assert!(allows(&profile, "read") && allows(&profile, "clone") && allows(&profile, "arch_prctl"));
        assert!(!allows(&profile, "mount"));
        assert!(profile["syscalls"][0].get("args").is_none());
        assert!(!allows(&localhost(text, "aarch64", &[]).unwrap(), "arch_prctl"));
        assert!(localhost("{}", "x86_64", &[]).is_err());
    }
}
