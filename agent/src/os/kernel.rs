//! Shell: what the kernel takes only by ioctl or by a call of its own; the board image's unsafe lines, the watchdog's apart.

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};

/// `struct dm_ioctl` with room for one target and its parameters (linux/dm-ioctl.h).
#[repr(C)]
struct DmRequest {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
    // struct dm_target_spec
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
    parameters: [u8; 1024],
}

/// `struct dm_ioctl` alone: what the opcodes are counted with.
const DM_HEADER_BYTES: usize = 312;
type DmHeader = [u8; DM_HEADER_BYTES];
const DM_CREATE: u8 = 3;
const DM_SUSPEND: u8 = 6;
const DM_LOAD: u8 = 9;
const DM_READ_ONLY: u32 = 1;

impl DmRequest {
    fn new(name: &str) -> Self {
        let mut request = Self {
            version: [4, 0, 0],
            data_size: size_of::<Self>() as u32,
            data_start: DM_HEADER_BYTES as u32,
            target_count: 0,
            open_count: 0,
            flags: DM_READ_ONLY,
            event: 0,
            padding: 0,
            device: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
            sector_start: 0,
            length: 0,
            status: 0,
            next: 0,
            target_type: [0; 16],
            parameters: [0; 1024],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request
    }

    fn send<const OPCODE: Opcode>(&mut self, control: &File) -> io::Result<()> {
        // SAFETY: the structure is as long as its `data_size` says, and the kernel reads and writes no more than that.
        Ok(unsafe { ioctl(control, Updater::<OPCODE, Self>::new(self)) }?)
    }
}

/// Makes the read-only device-mapper device `name` of `sectors` with one target; it appears as `/dev/dm-N`, whose N is
/// answered. `name` has at most 127 bytes, `parameters` at most 1,000.
///
/// # Errors
/// The kernel's.
pub fn map_device(name: &str, sectors: u64, target: &str, parameters: &str) -> io::Result<u32> {
    const CREATE: Opcode = opcode::read_write::<DmHeader>(0xfd, DM_CREATE);
    const LOAD: Opcode = opcode::read_write::<DmHeader>(0xfd, DM_LOAD);
    const RESUME: Opcode = opcode::read_write::<DmHeader>(0xfd, DM_SUSPEND);
    let too_long = name.len() > 127 || target.len() > 15 || parameters.len() > 1000;
    if too_long {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let control = File::options().read(true).write(true).open("/dev/mapper/control")?;
    let mut created = DmRequest::new(name);
    created.send::<CREATE>(&control)?;
    let mut table = DmRequest::new(name);
    table.target_count = 1;
    table.length = sectors;
    table.target_type[..target.len()].copy_from_slice(target.as_bytes());
    table.parameters[..parameters.len()].copy_from_slice(parameters.as_bytes());
    table.send::<LOAD>(&control)?;
    // A resume is a suspend without its flag.
    DmRequest { flags: 0, ..DmRequest::new(name) }.send::<RESUME>(&control)?;
    // Minor numbers of the kernel's 32-bit form: eight bits, twelve bits of major, the rest.
    let device = created.device;
    Ok((device & 0xff | device >> 12 & 0x000f_ff00) as u32)
}

/// Length of a block device in bytes.
///
/// # Errors
/// The kernel's: no block device.
pub fn device_bytes(device: &File) -> io::Result<u64> {
    const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
    // SAFETY: the kernel writes one 64-bit number.
    Ok(unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }?)
}

#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: c_int,
    names: [u8; 128],
}

#[repr(C)]
struct BlkpgArg {
    op: c_int,
    flags: c_int,
    length: c_int,
    data: *const c_void,
}

/// Tells the kernel the new length of a partition of an open disk; start and length in bytes. Others may be in use.
///
/// # Errors
/// The kernel's.
pub fn resize_partition(disk: &File, number: u32, start: u64, bytes: u64) -> io::Result<()> {
    const BLKPG: Opcode = opcode::none(0x12, 105);
    const RESIZE: c_int = 3;
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let partition = BlkpgPartition {
        start: start.try_into().map_err(invalid)?,
        length: bytes.try_into().map_err(invalid)?,
        number: number.try_into().map_err(invalid)?,
        names: [0; 128],
    };
    let argument = BlkpgArg {
        op: RESIZE,
        flags: 0,
        length: size_of::<BlkpgPartition>() as c_int,
        data: (&raw const partition).cast(),
    };
    // SAFETY: the kernel reads `argument` and the partition that it points to, which both live until the call returns.
    Ok(unsafe { ioctl(disk, Setter::<BLKPG, BlkpgArg>::new(argument)) }?)
}

/// Makes a mounted ext4 so many blocks long.
///
/// # Errors
/// The kernel's: no ext4, or its table of groups has no room.
pub fn grow_ext4(mount: &File, blocks: u64) -> io::Result<()> {
    const RESIZE: Opcode = opcode::write::<u64>(b'f', 16);
    // SAFETY: the kernel reads one 64-bit number.
    Ok(unsafe { ioctl(mount.as_fd(), Setter::<RESIZE, u64>::new(blocks)) }?)
}

/// Uses a prepared device as swap, before any other.
///
/// # Errors
/// The kernel's.
pub fn swap_on(device: &Path) -> io::Result<()> {
    const PREFER: c_int = 0x8000;
    let path = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero; the kernel only reads it.
    if unsafe { libc::swapon(path.as_ptr(), PREFER | 100) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(std::mem::offset_of!(DmRequest, sector_start), DM_HEADER_BYTES);
        assert_eq!(std::mem::offset_of!(DmRequest, parameters), DM_HEADER_BYTES + 40);
        assert_eq!((size_of::<BlkpgPartition>(), size_of::<BlkpgArg>()), (152, 24));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let file = File::open("/proc/self/exe").unwrap();
        assert!(device_bytes(&file).is_err() && grow_ext4(&file, 1).is_err());
        assert!(resize_partition(&file, 1, 0, 1).is_err() && swap_on(Path::new("/proc/version")).is_err());
        assert!(map_device(&"x".repeat(200), 1, "verity", "").is_err());
    }
}
