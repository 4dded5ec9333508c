//! Shell: kernel modules: a list in its order, or what the devices of this board ask for.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

const NO_PARAMETERS: &CStr = c"";

/// Loads the modules that `order` in the folder names, one a line, in this order. Answers what was refused.
#[must_use]
pub fn load_list(folder: &Path) -> Vec<String> {
    let order = fs::read_to_string(folder.join("order")).unwrap_or_default();
    order.lines().filter_map(|name| load(&folder.join(name)).err()).collect()
}

fn load(path: &Path) -> Result<(), String> {
    let refused = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(refused)?;
    match rustix::system::finit_module(&file, NO_PARAMETERS, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(refused(error.into())),
    }
}

/// Loads one module with all that it needs, from the folder of this kernel. Answers what was refused, which is nothing too
/// where the folder has no such module.
#[must_use]
pub fn load_named(folder: &Path, name: &str) -> Vec<String> {
    let index = Index::read(folder);
    index.files_of(name).into_iter().filter_map(|path| load(&folder.join(path)).err()).collect()
}

/// Loads what the devices ask for by their aliases, with all that it needs, from the folder of this kernel. New devices
/// appear while modules are loaded, so it is repeated until nothing is new.
#[must_use]
pub fn load_for_devices(folder: &Path) -> Vec<String> {
    let index = Index::read(folder);
    let (mut asked, mut errors) = (BTreeSet::new(), Vec::new());
    loop {
        let mut found = Vec::new();
        aliases(Path::new("/sys/devices"), &mut found);
        let new: Vec<String> = found.into_iter().filter(|alias| asked.insert(alias.clone())).collect();
        if new.is_empty() {
            return errors;
        }
        for path in new.iter().flat_map(|alias| index.wanted(alias)) {
            errors.extend(load(&folder.join(path)).err());
        }
    }
}

/// What every device below a folder of /sys calls itself.
fn aliases(folder: &Path, found: &mut Vec<String>) {
    if let Ok(alias) = fs::read_to_string(folder.join("modalias")) {
        found.extend(alias.lines().map(str::to_owned));
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.for_each(|entry| aliases(&entry.path(), found));
}

/// `modules.alias` and `modules.dep` of depmod.
struct Index {
    /// Pattern and module.
    aliases: Vec<(String, String)>,
    /// A module's file, and those that it needs, the last one first needed.
    files: Vec<(PathBuf, Vec<PathBuf>)>,
}

impl Index {
    fn read(folder: &Path) -> Self {
        let text = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        Self::parse(&text("modules.alias"), &text("modules.dep"))
    }

    fn parse(aliases: &str, dependencies: &str) -> Self {
        let alias = |line: &str| {
            let mut words = line.strip_prefix("alias ")?.rsplitn(2, ' ');
            let module = words.next()?.to_owned();
            Some((words.next()?.to_owned(), module))
        };
        let file = |line: &str| {
            let (path, needs) = line.split_once(':')?;
            Some((PathBuf::from(path), needs.split_whitespace().map(PathBuf::from).collect()))
        };
        Self {
            aliases: aliases.lines().filter_map(alias).collect(),
            files: dependencies.lines().filter_map(file).collect(),
        }
    }

    /// The files to load for an alias, in their order.
    fn wanted(&self, alias: &str) -> Vec<&Path> {
        let asked = self.aliases.iter().filter(|(pattern, _)| matches(pattern.as_bytes(), alias.as_bytes()));
        asked.flat_map(|(_, module)| self.files_of(module)).collect()
    }

    /// The files of a module, in their order.
    fn files_of(&self, module: &str) -> Vec<&Path> {
        let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().replace('-', "_"));
        let found = self.files.iter().find(|(path, _)| stem(path).as_deref() == Some(module));
        let files = found.map(|(path, needs)| needs.iter().rev().chain([path]).map(PathBuf::as_path));
        files.into_iter().flatten().collect()
    }
}

/// As the shell's patterns: `*`, `?`, `[..]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => matches(&pattern[1..], text) || (!text.is_empty() && matches(pattern, &text[1..])),
        (Some(b'?'), Some(_)) => matches(&pattern[1..], &text[1..]),
        (Some(b'['), Some(byte)) => {
            let Some(end) = pattern.iter().position(|one| *one == b']') else { return false };
            let set = &pattern[1..end];
            let range = set.windows(3).any(|three| three[1] == b'-' && (three[0]..=three[2]).contains(byte));
            (range || set.contains(byte)) && matches(&pattern[end + 1..], &text[1..])
        }
        (Some(one), Some(other)) => one == other && matches(&pattern[1..], &text[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_brings_its_module_and_what_that_needs() {
        let index = Index::parse(
            "# comment\nalias virtio:d00000001v* virtio_net\nalias of:N*T*Cbrcm,bcm2711-genet-v5 genet\n",
            "kernel/drivers/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/core/failover.ko\n\
             kernel/drivers/net/genet.ko:\n",
        );
        let wanted: Vec<&str> =
            index.wanted("virtio:d00000001v00001AF4").iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            wanted,
            ["kernel/net/core/failover.ko", "kernel/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko"]
        );
        assert_eq!(index.wanted("of:NethernetT(null)Cbrcm,bcm2711-genet-v5").len(), 1);
        assert!(index.wanted("virtio:d00000002v1").is_empty());
        assert_eq!((index.files_of("virtio_net").len(), index.files_of("wireguard").len()), (3, 0));
    }

    #[test]
    fn patterns_match_as_in_the_shell() {
        for (pattern, text, yes) in [
            ("usb:v0424pEC00d*", "usb:v0424pEC00d0200dc", true),
            ("usb:v0424p[0-9E]C00d*", "usb:v0424pEC00d1", true),
            ("usb:v0424p[0-9]C00d*", "usb:v0424pEC00d1", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("a[", "a[", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), yes, "{pattern} {text}");
        }
    }
}
