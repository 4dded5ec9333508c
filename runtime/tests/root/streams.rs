//! Shell: stdio, attach, logs.

use std::{
    fs,
    io::{Read, Write},
};

use bramble_runtime::ExecConfig;

use crate::{Test, board::Board};

pub(crate) const TESTS: &[Test] = &[
    ("the_log_is_in_the_cri_format", log_format),
    ("logs_are_rotated_by_size", rotation),
    ("a_log_can_be_reopened", reopen_log),
    ("attach_sees_output_and_stdin_once_ends_it", attach),
    ("a_slow_caller_loses_nothing", slow_caller),
    ("exec_has_three_streams", exec_streams),
    ("a_flood_of_output_is_all_there", flood),
];

fn log_format() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf end";
    let id = board.start(&sandbox, &board.config(script));
    board.ended(&id);
    let log = fs::read_to_string(board.log_path(&id)).unwrap();
    let mut streams = Vec::new();
    for line in log.lines() {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        assert_eq!(fields[0].len(), "2026-11-22T03:46:55.000000007Z".len(), "{}", fields[0]);
        streams.push((fields[1], fields[2], fields[3].len()));
    }
    streams.sort_unstable();
    let wanted =
        [("stderr", "F", 3), ("stdout", "F", 3), ("stdout", "F", 3616), ("stdout", "P", 3), ("stdout", "P", 16384)];
    assert_eq!(streams, wanted);
}

fn rotation() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done");
    (config.log_max_bytes, config.log_max_files) = (2000, 3);
    let id = board.start(&sandbox, &config);
    board.ended(&id);
    let path = board.log_path(&id);
    let mut names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 2 && names.len() <= 3, "{names:?}");
    assert_eq!(names[0], "0.log");
    let stamp = names[1].strip_prefix("0.log.").unwrap();
    assert_eq!((stamp.len(), &stamp[8..9]), (15, "-"), "kubelet's naming: {stamp}");
    assert!(fs::read_to_string(path).unwrap().trim_end().ends_with("line 299"));
}

fn reopen_log() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("read a; echo $a; read b; echo $b; sleep 1000");
    config.stdin = true;
    let id = board.start(&sandbox, &config);
    let session = board.runtime.attach(&id, true).unwrap();
    let mut stdin = fs::File::from(session.stdin.unwrap());
    stdin.write_all(b"one\n").unwrap();
    board.until(|| (board.log(&id) == "one\n").then_some(()));
    let path = board.log_path(&id);
    fs::rename(&path, path.with_extension("old")).unwrap();
    board.runtime.reopen_log(&id).unwrap();
    stdin.write_all(b"two\n").unwrap();
    board.until(|| (board.log(&id) == "two\n").then_some(()));
}

fn attach() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("echo early; cat; echo err >&2; exit 6");
    (config.stdin, config.stdin_once) = (true, true);
    let id = board.start(&sandbox, &config);
    board.until(|| (board.log(&id) == "early\n").then_some(()));
    // Without a caller, stdin stays open; one that only looks does not end it.
    drop(board.runtime.attach(&id, false).unwrap());
    let mut session = board.runtime.attach(&id, true).unwrap();
    let mut stdin = fs::File::from(session.stdin.take().unwrap());
    stdin.write_all(b"hello\nthere\n").unwrap();
    drop(stdin);
    let mut out = String::new();
    fs::File::from(session.stdout.take().unwrap()).read_to_string(&mut out).unwrap();
    let mut err = String::new();
    fs::File::from(session.stderr.take().unwrap()).read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("hello\nthere\n", "err\n"));
    assert_eq!(session.wait().unwrap().unwrap().code, 6);
    assert_eq!(board.ended(&id).exit_code, Some(6));
    assert_eq!(board.log(&id), "early\nhello\nthere\nerr\n");
}

fn slow_caller() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("read go; seq 1 60000; echo end");
    config.stdin = true;
    let id = board.start(&sandbox, &config);
    let mut session = board.runtime.attach(&id, true).unwrap();
    fs::File::from(session.stdin.take().unwrap()).write_all(b"go\n").unwrap();
    // Other containers of the pod are not held up meanwhile.
    assert_eq!(board.says(&sandbox, &board.config("echo other")), "other\n");
    let mut out = String::new();
    fs::File::from(session.stdout.take().unwrap()).read_to_string(&mut out).unwrap();
    assert_eq!(out.lines().count(), 60001);
    assert!(out.ends_with("60000\nend\n"));
    board.ended(&id);
    assert_eq!(board.log(&id), out);
}

fn exec_streams() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    let config = ExecConfig {
        args: ["sh", "-c", "cat; echo err >&2; echo $MORE $HOSTNAME; exit 3"].map(String::from).to_vec(),
        env: vec!["MORE=more".into()],
        stdin: true,
        ..ExecConfig::default()
    };
    let mut session = board.runtime.exec(&id, &config).unwrap();
    let mut stdin = fs::File::from(session.stdin.take().unwrap());
    stdin.write_all(b"in\n").unwrap();
    drop(stdin);
    let mut out = String::new();
    fs::File::from(session.stdout.take().unwrap()).read_to_string(&mut out).unwrap();
    let mut err = String::new();
    fs::File::from(session.stderr.take().unwrap()).read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("in\nmore web-0\n", "err\n"));
    assert_eq!(session.wait().unwrap().unwrap().code, 3);
}

fn flood() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("seq 1 200000"));
    board.ended(&id);
    let log = board.log(&id);
    assert_eq!(log.lines().count(), 200_000);
    assert!(log.lines().enumerate().all(|(at, line)| line == (at + 1).to_string()));
}
