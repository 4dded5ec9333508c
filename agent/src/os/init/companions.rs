//! Shell: programs beside the daemons, started where `bramble.toml` asks for them and again when they end.

use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::programs::spawn;
use super::{RESTART_PAUSE, RESTART_PAUSE_MAX, SETTLED};

/// All of them; few.
#[derive(Debug, Default)]
pub(super) struct Companions(Vec<Companion>);

#[derive(Debug)]
struct Companion {
    /// How people call it.
    name: &'static str,
    words: Vec<String>,
    state: State,
    /// Before the next start after an end; doubled each time, until one life was long enough.
    pause: Duration,
}

/// `Due -> Lives -> Due ...`
#[derive(Debug, Clone, Copy)]
enum State {
    Due(Instant),
    Lives(Pid, Instant),
}

impl Companions {
    /// To be started at once; a program and its arguments.
    pub(super) fn add(&mut self, name: &'static str, words: Vec<String>) {
        let pause = RESTART_PAUSE / 2;
        self.0.push(Companion { name, words, state: State::Due(Instant::now()), pause });
    }

    /// When the next one is to be started.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.0.iter().filter_map(|one| match one.state {
            State::Due(at) => Some(at),
            State::Lives(..) => None,
        });
        due.min()
    }

    /// Plans another start of those that ended; answers what is to be told.
    pub(super) fn ended(&mut self, ended: &[(Pid, String)], now: Instant) -> Vec<String> {
        let mut told = Vec::new();
        for one in &mut self.0 {
            let State::Lives(pid, begun) = one.state else { continue };
            let Some((_, how)) = ended.iter().find(|(other, _)| *other == pid) else { continue };
            let lived = now.duration_since(begun);
            one.wait(lived > SETTLED, now);
            told.push(format!("bramble: {} ended ({how}); it starts again in {:?}", one.name, one.pause));
        }
        told
    }

    /// Starts those whose time has come; answers what is to be told.
    pub(super) fn start_due(&mut self, now: Instant, lines: &mpsc::Sender<Vec<u8>>) -> Vec<String> {
        let mut told = Vec::new();
        for one in &mut self.0 {
            if !matches!(one.state, State::Due(at) if at <= now) {
                continue;
            }
            let mut command = Command::new(&one.words[0]);
            command.args(&one.words[1..]);
            match spawn(command, start_of(one.name), lines) {
                Ok(pid) => one.state = State::Lives(pid, now),
                Err(error) => {
                    one.wait(false, now);
                    told.push(format!("bramble: {} does not start: {error}", one.name));
                }
            }
        }
        told
    }
}

impl Companion {
    fn wait(&mut self, lived: bool, now: Instant) {
        self.pause = if lived { RESTART_PAUSE } else { (self.pause * 2).min(RESTART_PAUSE_MAX) };
        self.state = State::Due(now + self.pause);
    }
}

/// What its lines begin with.
fn start_of(name: &str) -> &'static str {
    match name {
        "ssh" => "ssh: ",
        _ => "wifi: ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_ends_is_started_again_later_and_later() {
        let (send, mut lines) = mpsc::channel(4);
        let mut companions = Companions::default();
        companions.add("ssh", ["/bin/sh", "-c", "echo here"].map(str::to_owned).to_vec());
        let mut now = companions.due().unwrap();
        for pause in [2, 4, 8, 16, 32, 60, 60] {
            assert!(companions.start_due(now, &send).is_empty());
            assert_eq!(lines.recv().await.unwrap(), b"ssh: here");
            assert!(companions.due().is_none() && companions.ended(&[], now).is_empty());
            let State::Lives(pid, _) = companions.0[0].state else { panic!("it does not live") };
            let told = companions.ended(&[(pid, "exit status 0".into())], now);
            assert!(told.len() == 1 && told[0].contains("exit status 0"), "{told:?}");
            assert_eq!(companions.due(), Some(now + Duration::from_secs(pause)));
            now += Duration::from_secs(pause);
        }
        let _ = companions.start_due(now, &send);
        let State::Lives(pid, _) = companions.0[0].state else { panic!("it does not live") };
        now += SETTLED * 2;
        let _ = companions.ended(&[(pid, String::new())], now);
        assert_eq!(companions.due(), Some(now + RESTART_PAUSE), "after a long life soon");
    }

    #[tokio::test]
    async fn one_that_does_not_start_is_tried_again() {
        let (send, _lines) = mpsc::channel(4);
        let mut companions = Companions::default();
        companions.add("ssh", vec!["/nowhere/to/be/found".to_owned()]);
        let now = companions.due().unwrap();
        let told = companions.start_due(now, &send);
        assert!(told.len() == 1 && told[0].contains("does not start"), "{told:?}");
        assert_eq!(companions.due(), Some(now + RESTART_PAUSE));
    }
}
