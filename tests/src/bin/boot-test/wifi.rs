//! A board that joins a network by radio: a real access point (hostapd) on the other of two radios that its kernel plays.

use bramble_tests::board::Board;
use bramble_tests::emulator::Emulator;

use crate::guest::PATIENCE;
use crate::ssh::{Key, SSH};
use crate::{Test, step};

const ACCESS_POINT: &str = include_str!("access-point.sh");
const PASSPHRASE: &str = "correct horse";
const OTHER_PASSPHRASE: &str = "battery staple";

struct OnAir {
    board: Board,
    key: Key,
    emulator: Emulator,
}

impl Test {
    pub(crate) fn joins_by_radio(&self) {
        step("joins a network by radio");
        let board = Board::new("wifi");
        let key = Key::make(&self.work, "wifi-key");
        let config = format!(
            "{}role = \"up\"\nnode-name = \"arm-4\"\n[wifi]\nssid = \"test net\"\npassphrase = \"{PASSPHRASE}\"\n\
             country = \"DE\"\n",
            key.config()
        );
        let card = self.card("wifi", &config, &[]);
        let (dir, radios) = (self.work.join("wifi"), self.work.join("radios.tar"));
        let mut emulator = Emulator::start(&board, &dir, &self.power(&card, Some(&radios), &[(SSH, 22)]));
        let _ = emulator.wait_for("bramble: up.", 1);
        // A radio may come at any time, as from a driver that loads its firmware first.
        let _ = emulator.wait_for("wifi: this board has no radio", 1);
        let mut air = OnAir { board, key, emulator };
        let begun = air.emulator.seconds();
        air.access_point(PASSPHRASE, "WPA-PSK", 0);
        let _ = air.emulator.wait_for("bramble: wifi: joined \"test net\"", 1);
        let addressed = air.emulator.wait_for("bramble: wlan0 has 10.77.0.20/24", 1);
        self.seconds("a radio appears to an address over it", addressed - begun);
        air.carries();
        air.keeps_the_rules();

        step("the access point changes its group's key");
        let _ = air.emulator.wait_for("Group rekeying completed", 2);
        // To everybody, which is what that key is for.
        let ask = "nsenter -t $(cat /run/access-point/pid) -n arping -b -c 3 -w 10 -I wlan1 10.77.0.20";
        let told = air.key.wait_for(&air.board, ask);
        assert!(told.contains("reply from 10.77.0.20"), "{told}");

        step("the access point comes back with another passphrase");
        air.access_point(OTHER_PASSPHRASE, "WPA-PSK", 0);
        let wrong = "bramble: wifi: \"test net\" does not take the passphrase";
        let _ = air.emulator.wait_for(wrong, 1);
        let told = air.status();
        assert!(told.contains("wifi: \"test net\" does not take the passphrase"), "{told}");

        step("and with the right one, as WPA3 alone");
        air.access_point(PASSPHRASE, "SAE", 2);
        let _ = air.emulator.wait_for("bramble: wifi: joined \"test net\"", 2);
        air.carries();
        assert_eq!(air.emulator.console().matches(wrong).count(), 1, "it is told once");
        air.tells_no_secret();
    }
}

impl OnAir {
    /// Starts it, or starts it again.
    fn access_point(&self, passphrase: &str, key_management: &str, protection: u8) {
        let line = format!("sh -s '{passphrase}' {key_management} {protection} <<'END'\n{ACCESS_POINT}\nEND\n");
        let started = self.key.run(&self.board, &line);
        assert!(started.status.success(), "{started:?}");
    }

    /// What the access point serves comes over the air; the wire stays the way to everywhere else.
    fn carries(&self) {
        self.board.eventually("the access point answers", PATIENCE, || {
            let ask = r"printf 'GET /index.html HTTP/1.0\r\n\r\n' | timeout 10 nc 10.77.0.1 80";
            let answer = self.key.run(&self.board, ask);
            answer.stdout.ends_with(b"\r\n\r\nover the air\n").then_some(())
        });
        let routes = self.key.wait_for(&self.board, "ip route");
        let lines: Vec<&str> = routes.lines().map(str::trim).filter(|line| line.starts_with("default")).collect();
        let is_right = lines.len() == 2 && lines[0].contains("dev eth0") && !lines[0].contains("metric");
        assert!(is_right && lines[1].contains("10.77.0.1 dev wlan0") && lines[1].contains("metric 600"), "{routes}");
    }

    /// The country's, which its kernel has read and believes.
    fn keeps_the_rules(&self) {
        let told = self.key.wait_for(&self.board, "/run/access-point/sbin/iw reg get");
        assert!(told.contains("country DE"), "{told}");
    }

    /// `bramble-status.txt` as the card has it.
    fn status(&self) -> String {
        let line = "mkdir -p /tmp/card && mount -t vfat -o ro /dev/vda1 /tmp/card && cat /tmp/card/bramble-status.txt; \
                    umount /tmp/card";
        self.key.wait_for(&self.board, line)
    }

    fn tells_no_secret(&self) {
        assert!(!self.emulator.console().contains(PASSPHRASE), "the console shows the passphrase");
        let line = "stat -c %a /run/bramble-wifi; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /run/bramble/system.log";
        let told = self.key.wait_for(&self.board, line);
        assert!(told.starts_with("600\n") && told.contains("wpa_supplicant"), "{told}");
        assert!(!told.contains(PASSPHRASE), "it stands in an argument or in the log");
    }
}
