//! Shell: `bramble logs NAMESPACE/POD[/CONTAINER]`: a container's log, read on the board, controller or not; and what a
//! flashed board itself has said.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use bramble_agent::local::{Answer, Ask, ask};

use super::Options;

pub(crate) fn logs(target: &str, options: &Options) -> anyhow::Result<ExitCode> {
    let parts: Vec<&str> = target.split('/').collect();
    let (namespace, pod, container) = match parts.as_slice() {
        [pod] => ("default", *pod, None),
        [namespace, pod] => (*namespace, *pod, None),
        [namespace, pod, container] => (*namespace, *pod, Some((*container).to_owned())),
        _ => bail!("say NAMESPACE/POD or NAMESPACE/POD/CONTAINER"),
    };
    let question = Ask::Log { namespace: namespace.into(), pod: pod.into(), container };
    let Answer::Log(path) = ask(&options.run_dir, &question).map_err(|message| anyhow!(message))? else {
        bail!("the agent's answer is not understood");
    };
    let log = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(log).split(b'\n') {
        let line = line?;
        // Time, stream and tag stand before the text.
        let mut fields = line.splitn(4, |b| *b == b' ');
        let partial = fields.nth(2).is_some_and(|tag| tag.first() == Some(&b'P'));
        out.write_all(fields.next().unwrap_or_default())?;
        if !partial {
            out.write_all(b"\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What process 1 of a flashed board keeps in memory.
pub(crate) fn own(options: &Options) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut found = false;
    for path in bramble_agent::os::ring::files(&options.run_dir) {
        if let Ok(mut file) = File::open(&path) {
            found = true;
            std::io::copy(&mut file, &mut out)?;
        }
    }
    if !found {
        bail!("only a flashed board keeps its own lines; elsewhere say NAMESPACE/POD, or ask the service manager");
    }
    Ok(ExitCode::SUCCESS)
}
