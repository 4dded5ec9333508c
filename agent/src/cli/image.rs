//! Shell: `bramble image`: the images of this board, through the agent's socket.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use bramble_agent::local::{Answer, Ask, ImageLine, ask};

use super::{ImageVerb, Options};

pub(crate) fn image(verb: ImageVerb, options: &Options) -> anyhow::Result<ExitCode> {
    let question = match &verb {
        ImageVerb::Import { path, name } => {
            let path = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
            eprintln!("bramble: reading {}", path.display());
            Ask::Import { path, name: name.clone() }
        }
        ImageVerb::List => Ask::Images,
        ImageVerb::Remove(name) => Ask::Remove { name: name.clone() },
    };
    match ask(&options.run_dir, &question).map_err(|message| anyhow!(message))? {
        Answer::Images(images) => table(&images),
        Answer::Removed(true) => println!("removed"),
        Answer::Removed(false) => {
            eprintln!("bramble: there is no such image; `bramble image list` shows what there is");
            return Ok(ExitCode::FAILURE);
        }
        other => return Err(anyhow!("unexpected answer {other:?}")),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(images: &[ImageLine]) {
    println!("{:<14} {:>9}  NAMES", "IMAGE ID", "SIZE");
    for image in images {
        let id = image.id.trim_start_matches("sha256:");
        let names = image.names.join(", ");
        println!("{:<14} {:>6.1} MB  {names}", &id[..id.len().min(12)], image.size as f64 / 1e6);
    }
}
