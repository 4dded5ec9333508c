//! Shell: which devices a container may use on cgroup v2, where libcontainer leaves it open: a small BPF program that is
//! attached to its cgroup (`BPF_PROG_TYPE_CGROUP_DEVICE`, linux/bpf.h).

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// `struct bpf_insn`: opcode, registers (source in the high half), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | target, offset, immediate }
}

/// Type in r2, access in r3, major in r4, minor in r5; the first rule from the end that matches decides.
fn program(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut block = Vec::new();
        match rule.typ() {
            Some(LinuxDeviceType::B) => block.push(instruction(JUMP_UNLESS_EQUAL, 2, 0, 0, 1)),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => block.push(instruction(JUMP_UNLESS_EQUAL, 2, 0, 0, 2)),
            _ => {}
        }
        let access = access(rule.access().as_deref().unwrap_or("rwm"));
        if access != 7 {
            block.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
            block.push(instruction(AND, 1, 0, 0, !access & 7));
            block.push(instruction(JUMP_UNLESS_EQUAL, 1, 0, 0, 0));
        }
        for (register, number) in [(4, rule.major()), (5, rule.minor())] {
            if let Some(number) = number.filter(|n| *n >= 0) {
                block.push(instruction(JUMP_UNLESS_EQUAL, register, 0, 0, number as i32));
            }
        }
        let decides_all = block.is_empty();
        block.push(instruction(MOVE, 0, 0, 0, i32::from(rule.allow())));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (at, step) in block.iter_mut().enumerate().filter(|(_, step)| step.code == JUMP_UNLESS_EQUAL) {
            step.offset = (length - at - 1) as i16;
        }
        code.extend(block);
        if decides_all {
            // What would follow is never reached, and older kernels refuse a program with such a part.
            return code;
        }
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// BPF_DEVCG_ACC_MKNOD, _READ, _WRITE.
fn access(letters: &str) -> i32 {
    letters
        .chars()
        .map(|l| match l {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        })
        .sum()
}

/// From here on the rules hold for everything in the cgroup and below it. They go with the cgroup.
pub(crate) fn restrict(cgroup: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    const PROG_LOAD: libc::c_long = 5;
    const PROG_ATTACH: libc::c_long = 8;
    const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    /// The first fields of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log: [u64; 5],
    }
    /// And for BPF_PROG_ATTACH.
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    let code = program(rules);
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        log: [0; 5],
    };
    // SAFETY: the structure is a zero-padded prefix of bpf_attr and its pointers live through the call; the result is a
    // new descriptor of ours.
    let loaded = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<Load>());
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let target = File::open(cgroup)?;
    let attach = Attach {
        target: target.as_raw_fd(),
        program: loaded.as_raw_fd(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above; both descriptors live through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, size_of::<Attach>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: serde_json::Value) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(json).unwrap()
    }

    /// Does what the kernel does with the few instructions there are.
    fn runs(code: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 16];
        let mut at = 0;
        loop {
            let step = code[at];
            let (target, source) = ((step.registers & 15) as usize, (step.registers >> 4) as usize);
            at += 1;
            match step.code {
                LOAD_WORD => registers[target] = context[step.offset as usize / 4],
                AND => registers[target] &= step.immediate as u32,
                SHIFT_RIGHT => registers[target] >>= step.immediate,
                MOVE => registers[target] = step.immediate as u32,
                MOVE_REGISTER => registers[target] = registers[source],
                JUMP_UNLESS_EQUAL if registers[target] != step.immediate as u32 => at += step.offset as usize,
                JUMP_UNLESS_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    const BLOCK: u32 = 1;
    const CHARACTER: u32 = 2;

    #[test]
    fn the_last_rule_that_matches_decides() {
        let code = program(&rules(serde_json::json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "access": "m" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
            { "allow": true, "type": "c", "major": 136, "access": "rw" },
            { "allow": true, "type": "b", "major": 8, "minor": 0, "access": "r" },
        ])));
        assert!(runs(&code, CHARACTER, 7, 1, 3));
        assert!(runs(&code, CHARACTER, 1, 1, 1), "making a node is allowed");
        assert!(!runs(&code, CHARACTER, 2, 1, 1), "reading it is not");
        assert!(runs(&code, CHARACTER, 6, 136, 9) && !runs(&code, CHARACTER, 6, 137, 9));
        assert!(runs(&code, BLOCK, 2, 8, 0) && !runs(&code, BLOCK, 4, 8, 0) && !runs(&code, BLOCK, 1, 8, 0));
    }

    #[test]
    fn everything_and_nothing() {
        let all = program(&rules(serde_json::json!([{ "allow": true, "access": "rwm" }])));
        assert!(runs(&all, BLOCK, 7, 8, 0));
        assert!(!runs(&program(&[]), CHARACTER, 2, 1, 3));
        // Nothing comes after what decides all: older kernels refuse what is never reached.
        let early =
            serde_json::json!([{ "allow": true, "type": "c", "major": 1 }, { "allow": false, "access": "rwm" }]);
        let code = program(&rules(early));
        assert_eq!((code.len(), code.iter().filter(|step| step.code == EXIT).count()), (8, 1));
    }

    /// The kernel's own verdict needs root and some cgroup2; where it is not mounted, the interpreter above must do.
    #[test]
    fn the_kernel_takes_the_program() {
        let mount = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let root = mount.iter().find(|m| Path::new(m).join("cgroup.controllers").exists());
        let Some(root) = root.filter(|_| rustix::process::geteuid().is_root()) else {
            eprintln!("NOT RUN: needs root and a cgroup2 mount below /sys/fs/cgroup");
            return;
        };
        let dir = Path::new(root).join(format!("bramble-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let only_null =
            rules(serde_json::json!([{ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" }]));
        let restricted = restrict(&dir, &only_null);
        let script =
            format!("echo $$ > {}/cgroup.procs && head -c 0 /dev/null && ! head -c 0 /dev/zero", dir.display());
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        std::fs::remove_dir(&dir).unwrap();
        restricted.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
