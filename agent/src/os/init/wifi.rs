//! Shell: the radio: its passphrase in a file of root's alone, and what is told of it, once for each change.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::Board;
use super::firmware::private_file;
use crate::os::wifi::{Air, configuration};

/// What `wpa_supplicant` reads; in memory.
pub(super) const CONFIGURATION: &str = "/run/bramble-wifi";
/// What its lines begin with.
const MARK: &[u8] = b"wifi: ";

/// How the radio is, and what was written onto the card of it: each news once since the start, whatever the air does.
#[derive(Debug, Default)]
pub(super) struct Heard {
    air: Air,
    written: BTreeSet<String>,
}

impl Board {
    /// Prepares to join the network that `bramble.toml` names; a radio may be found later.
    pub(super) fn take_to_air(&mut self) {
        let Some(text) = configuration(&self.config.wifi) else { return };
        let written = || -> io::Result<()> { private_file(Path::new(CONFIGURATION))?.write_all(text.as_bytes()) };
        match written() {
            Ok(()) => {
                self.status.wifi = Some(Air::Seeks.words(self.config.wifi.name()));
                self.air = Some(Heard::default());
            }
            Err(error) => self.consoles.line(format!("bramble: no Wi-Fi: {error}")),
        }
    }

    /// A line of a daemon or companion is told; of `wpa_supplicant`'s only what changes how it is.
    pub(super) fn hear(&mut self, line: &[u8]) {
        let (Some(heard), Some(event)) = (&mut self.air, line.strip_prefix(MARK)) else { return self.say(line) };
        let event = String::from_utf8_lossy(event).into_owned();
        let air = heard.air.after(&event);
        if air == heard.air {
            // Looking around again is no news.
            if !event.contains("CTRL-EVENT-NETWORK-NOT-FOUND") {
                self.say(line);
            }
            return;
        }
        heard.air = air;
        let words = air.words(self.config.wifi.name());
        let is_new = heard.written.insert(words.clone());
        self.say(format!("bramble: wifi: {words}").as_bytes());
        self.status.wifi = Some(words);
        if is_new {
            self.tell_status();
        }
    }
}
