//! An updated system that arrives whole and boots, and is not good all the same: it hangs, or it does not become ready.

use bramble_tests::board::Board;

use crate::guest::wait_for_node;
use crate::joins::{Joined, runs};
use crate::step;

impl Joined {
    /// Without its controller a new system is never ready. Slot A runs before and after.
    pub(crate) fn gives_way_while_on_trial(&mut self, board: &mut Board) {
        board.stop();
        let (from_a, from_b) = (self.starts_of('A'), self.starts_of('B'));

        step("an update that hangs is reset by the watchdog");
        self.boots_the_update(board, from_b + 1);
        let slots = self.key.wait_for(board, "bramble slot status");
        assert!(runs(&slots, 'B'), "{slots}");
        // A kernel that stopped and does not restart by itself, as it would otherwise.
        self.soon(board, "echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger");
        self.emulator.wait_for("bramble: slot A, attempts left", from_a + 1);

        step("an update that does not become ready gives way");
        self.boots_the_update(board, from_b + 2);
        self.emulator.wait_for("on trial and did not become ready", 1);
        self.emulator.wait_for("bramble: slot A, attempts left", from_a + 2);

        board.start(&[]);
        wait_for_node(board);
    }

    fn boots_the_update(&mut self, board: &Board, times: usize) {
        let _ = self.key.wait_for(board, "bramble slot install /dev/vdb");
        self.soon(board, "bramble reboot");
        self.emulator.wait_for("bramble: slot B, attempts left", times);
    }

    /// How often the boot loader has chosen a slot since the card was put in.
    fn starts_of(&self, slot: char) -> usize {
        self.emulator.console().matches(&format!("bramble: slot {slot}, attempts left")).count()
    }

    /// A login that asks for what ends it would never hear of its end.
    fn soon(&self, board: &Board, line: &str) {
        let _ = self.key.wait_for(board, &format!("(sleep 1; {line}) >/dev/null 2>&1 </dev/null &"));
    }
}
