//! Shell: a login over SSH, for those whose keys `bramble.toml` names: Debian's dropbear, with keys only and nothing
//! forwarded.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Root's home, as `/etc/passwd` of the image has it; in memory, and nobody else's.
const HOME: &str = "/run/home";
/// The host's key, where no data partition keeps it.
const FALLBACK: &str = "/run/ssh";

/// Writes down who may come in, and makes the board's own key where it has none yet. Answers where that key is, and its
/// fingerprint. Waits for a child of its own: nobody else may bury children meanwhile.
pub(super) fn prepare(keys: &[String], data: &Path) -> io::Result<(PathBuf, String)> {
    write_authorised(Path::new(HOME), keys)?;
    // On a board without a data partition somebody must be able to see why.
    let folder = private_folder(&data.join("ssh")).or_else(|_| private_folder(Path::new(FALLBACK)))?;
    let key = folder.join("host-key");
    let told = fingerprint_of(&key, true).or_else(|_| {
        // What a cut left is no key.
        let _ = fs::remove_file(&key);
        fingerprint_of(&key, false)
    })?;
    Ok((key, told))
}

/// dropbear in the foreground, its lines on standard error: no passwords (`-s`), no forwarding (`-j`, `-k`).
pub(super) fn command_line(key: &Path) -> Vec<String> {
    let words = ["/bin/dropbear", "-F", "-E", "-s", "-j", "-k", "-p", "22", "-P", "/run/dropbear.pid", "-r"];
    words.into_iter().map(str::to_owned).chain([key.to_string_lossy().into_owned()]).collect()
}

fn write_authorised(home: &Path, keys: &[String]) -> io::Result<()> {
    let folder = private_folder(&private_folder(home)?.join(".ssh"))?;
    let mut options = fs::File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(folder.join("authorized_keys"))?;
    keys.iter().try_for_each(|key| writeln!(file, "{key}"))
}

fn private_folder(path: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Ok(path.to_owned())
}

/// The fingerprint that `dropbearkey` prints of a key that is there, or that it makes.
fn fingerprint_of(key: &Path, is_there: bool) -> io::Result<String> {
    let mut command = Command::new("/bin/dropbearkey");
    if is_there {
        command.arg("-y");
    } else {
        command.args(["-t", "ed25519"]);
    }
    let output = command.arg("-f").arg(key).env_clear().output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let missing = || io::Error::other(format!("dropbearkey: {}", String::from_utf8_lossy(&output.stderr).trim()));
    parse_fingerprint(&told).filter(|_| output.status.success()).ok_or_else(missing)
}

fn parse_fingerprint(told: &str) -> Option<String> {
    let word = told.lines().find_map(|line| line.strip_prefix("Fingerprint: "))?;
    Some(word.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn who_may_come_in_is_written_as_dropbear_wants_it() {
        let home = std::env::temp_dir().join(format!("bramble-ssh-{}", std::process::id()));
        write_authorised(&home, &["one".into(), "two".into()]).unwrap();
        write_authorised(&home, &["three".into()]).unwrap();
        let file = home.join(".ssh/authorized_keys");
        assert_eq!(fs::read_to_string(&file).unwrap(), "three\n", "who was in before is not any more");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home), mode(&home.join(".ssh")), mode(&file)), (0o700, 0o700, 0o600));
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn a_fingerprint_is_found() {
        let told = "Public key portion is:\nssh-ed25519 AAAA root@x\nFingerprint: SHA256:abc\n";
        assert_eq!(parse_fingerprint(told).as_deref(), Some("SHA256:abc"));
        assert_eq!(parse_fingerprint("nothing"), None);
    }
}
