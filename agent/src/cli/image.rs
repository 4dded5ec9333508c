//! Shell: `bramble image`: the images of this board, through the agent's socket; and images of cards, as files.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use bramble_agent::local::{Answer, Ask, ImageLine, ask};
use bramble_agent::os;

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
        ImageVerb::Customise(image) => return customise(image, options),
        ImageVerb::Flash { image, device } => return flash(image, device),
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

fn customise(image: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    if options.config.is_none() && options.add.is_empty() {
        std::io::stdout().write_all(&os::customise::read(image)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    os::customise::customise(image, options.config.as_deref(), &options.add)?;
    eprintln!("bramble: {} is changed; `bramble image flash` writes it to a card", image.display());
    Ok(ExitCode::SUCCESS)
}

fn flash(image: &Path, device: &Path) -> anyhow::Result<ExitCode> {
    let (mut told, mut was_reading) = (0, false);
    let mut progress = |done: u64, reads: bool| {
        if reads != was_reading {
            (told, was_reading) = (0, reads);
        }
        if done >= told + (16 << 20) {
            told = done;
            eprintln!("bramble: {} {:>5} MiB", if reads { "read back" } else { "written" }, done >> 20);
        }
    };
    let bytes = os::flash::flash(image, device, &mut progress)?;
    eprintln!("bramble: {} holds the image, {} MiB written and compared", device.display(), bytes >> 20);
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
