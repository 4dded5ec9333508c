//! Shell: the board's own socket (0600, in the run dir), for `bramble image` and `bramble logs` without a controller.
//!
//! One request, one answer, a line of JSON each. Whoever may open the socket is root on this board, so there is no
//! further question of rights; the line is bounded all the same.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::images::BoardImages;
use crate::pods::Table;

/// Requests hold a path and a name.
const REQUEST_MAX_BYTES: u64 = 64 * 1024;
/// A client that says nothing is cut off.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Take the images of a file or folder on this board.
    Import {
        /// Absolute.
        path: PathBuf,
        /// A name for the only image in it.
        name: Option<String>,
    },
    /// All images.
    Images,
    /// Forget a name.
    Remove {
        /// A reference or an image id.
        name: String,
    },
    /// Where a container's log lies.
    Log {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// The container; the first if it is not said.
        container: Option<String>,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Images: what there is, or what was taken.
    Images(Vec<ImageLine>),
    /// Whether there was something to remove.
    Removed(bool),
    /// The file of a log.
    Log(PathBuf),
    /// What went wrong, for a person.
    Error(String),
}

/// One row of `bramble image list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLine {
    /// All its names.
    pub names: Vec<String>,
    /// Image id.
    pub id: String,
    /// Bytes on the wire.
    pub size: u64,
}

/// The socket of an instance.
#[must_use]
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// Asks the agent of this board.
///
/// # Errors
/// A sentence for the user: no agent, or what the agent said.
pub fn ask(run_dir: &Path, ask: &Ask) -> Result<Answer, String> {
    let path = socket(run_dir);
    let exchange = || -> std::io::Result<String> {
        let mut stream = StdStream::connect(&path)?;
        let mut line = serde_json::to_string(ask)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream.take(16 << 20)).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| {
        format!("no agent answers at {} ({error}): is `bramble up` or `bramble agent` running here?", path.display())
    })?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Error(message)) => Err(message),
        Ok(answer) => Ok(answer),
        Err(error) => Err(format!("the agent's answer is not understood: {error}")),
    }
}

/// Serves until the task is dropped.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(run_dir: &Path, images: Arc<BoardImages>, table: Table) -> std::io::Result<()> {
    let path = socket(run_dir);
    // The data directory's lock says that no other agent of this instance lives: a leftover may go.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (images, table) = (Arc::clone(&images), table.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &images, &table).await {
                tracing::debug!(%error, "local client");
            }
        });
    }
}

async fn converse(stream: UnixStream, images: &BoardImages, table: &Table) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = AsyncBufReader::new(read.take(REQUEST_MAX_BYTES));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(ask) => answer(ask, images, table).await,
        Err(error) => Answer::Error(format!("the request is not understood: {error}")),
    };
    let mut line = serde_json::to_string(&answer)?;
    line.push('\n');
    write.write_all(line.as_bytes()).await
}

async fn answer(ask: Ask, images: &BoardImages, table: &Table) -> Answer {
    let result = match ask {
        Ask::Import { path, name } => images.import(path, name).await.map(|taken| lines(&taken)),
        Ask::Images => images.all().await.map(|all| lines(&all)),
        Ask::Remove { name } => images.remove(name).await.map(Answer::Removed),
        Ask::Log { namespace, pod, container } => return log(table, &namespace, &pod, container.as_deref()),
    };
    result.unwrap_or_else(|error| Answer::Error(crate::images::chain(&error)))
}

fn lines(images: &[bramble_runtime::image::Image]) -> Answer {
    let line = |image: &bramble_runtime::image::Image| ImageLine {
        names: image.references.clone(),
        id: image.id.to_string(),
        size: image.size,
    };
    Answer::Images(images.iter().map(line).collect())
}

fn log(table: &Table, namespace: &str, pod: &str, container: Option<&str>) -> Answer {
    let entry = match table.pod(namespace, pod, None) {
        Ok(entry) => entry,
        Err(error) => return Answer::Error(error.to_string()),
    };
    let first = entry.containers.iter().find(|it| it.kind == crate::pods::ContainerKind::Main);
    let Some(container) = container.or(first.map(|it| it.name.as_str())) else {
        return Answer::Error(format!("pod {pod:?} has no container"));
    };
    match table.instance(namespace, pod, container, false) {
        Ok(instance) => Answer::Log(instance.log_path),
        Err(error) => Answer::Error(error.to_string()),
    }
}
