//! Shell: one binary, many verbs: parses the command line and wires.

mod cli;

use std::process::ExitCode;

use cli::Command;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // Shims and container helpers must stay single-threaded and tiny, so they branch off before anything else.
    if let Some(code) = bramble_runtime::helper_main(&args) {
        return code;
    }
    let (command, options) = match cli::parse(args.into_iter().skip(1)) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("bramble: {error}");
            return ExitCode::from(2);
        }
    };
    start_logging(&command);
    match dispatch(command, &options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bramble: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Log lines go to standard error, so that standard output belongs to what a verb answers.
fn start_logging(command: &Command) {
    let daemon = matches!(command, Command::Up | Command::Controller | Command::Agent | Command::Init);
    let fallback = if daemon { LevelFilter::INFO } else { LevelFilter::WARN };
    let level = std::env::var("BRAMBLE_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(fallback);
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
}

fn dispatch(command: Command, options: &cli::Options) -> anyhow::Result<ExitCode> {
    cli::daemon::bind_to_parent(options)?;
    match command {
        Command::Up => cli::up::up(&cli::config_file::take_over(options)?),
        Command::Controller => cli::daemon::controller(&cli::config_file::take_over(options)?),
        Command::Agent => cli::daemon::agent(&cli::config_file::take_over(options)?),
        Command::Down { purge } => cli::down::down(options, purge),
        Command::Check => cli::check::check(options),
        Command::Token(verb) => cli::token::token(verb, options),
        Command::Node(verb) => cli::node::node(verb, options),
        Command::Snapshot(verb) => cli::snapshot::snapshot(verb, options),
        Command::Certificate(verb) => cli::certificate::certificate(verb, options),
        Command::Store(verb) => cli::store::store(verb, options),
        Command::Apply(path) => cli::apply::apply(&path, options),
        Command::Image(verb) => cli::image::image(verb, options),
        Command::Logs(Some(target)) => cli::logs::logs(&target, options),
        Command::Logs(None) => cli::logs::own(options),
        Command::Slot(verb) => cli::slot::slot(verb, options),
        Command::Init => cli::init::init(),
        Command::Reboot { off } => cli::init::reboot(off),
        Command::Demo => cli::demo::demo(options),
        Command::Hello { port } => cli::hello::hello(port),
        Command::Help => {
            print!("{}", cli::HELP);
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("bramble {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}
