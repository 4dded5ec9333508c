//! Shell: the objects that a new cluster starts with, made through the API like everybody's.

mod objects;
pub mod policy;
mod reconcile;
pub mod tokens;

use serde_json::Value;
use tokio::task::JoinSet;

pub use self::objects::Facts;
use self::objects::{Wanted, stages};
use self::reconcile::{Action, plan};
use crate::client::{Client, ClientError, DeleteOptions};

/// Objects in flight at once: enough that their writes share commits.
const AT_ONCE: usize = 32;
/// How often an object is looked at again when somebody else changes it at the same time.
const TRIES: usize = 5;

/// Creates what is missing and puts back what the default policy lost. Idempotent; run before the API server is ready, with a
/// client in `system:masters`.
pub async fn ensure(client: &Client, facts: &Facts) -> Result<(), ClientError> {
    for stage in stages(facts) {
        let mut running = JoinSet::new();
        for wanted in stage {
            if running.len() >= AT_ONCE {
                finished(running.join_next().await)?;
            }
            let client = client.clone();
            running.spawn(async move { ensure_one(&client, &wanted).await });
        }
        while let Some(done) = running.join_next().await {
            finished(Some(done))?;
        }
    }
    Ok(())
}

fn finished(done: Option<Result<Result<(), ClientError>, tokio::task::JoinError>>) -> Result<(), ClientError> {
    match done {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(ClientError::Transport(std::io::Error::other(error))),
        None => Ok(()),
    }
}

async fn ensure_one(client: &Client, wanted: &Wanted) -> Result<(), ClientError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt(client, wanted).await {
            Err(error)
                if tries < TRIES && (error.is_conflict() || error.is_already_exists() || error.is_not_found()) => {}
            result => return result,
        }
    }
}

async fn attempt(client: &Client, wanted: &Wanted) -> Result<(), ClientError> {
    let Wanted { resource, care, object } = wanted;
    let namespace = object["metadata"]["namespace"].as_str();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let existing: Option<Value> = match client.get(resource, namespace, name).await {
        Ok(existing) => Some(existing),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    match plan(existing.as_ref(), object, *care) {
        Action::Nothing => return Ok(()),
        Action::Create => client.create(resource, namespace, object).await?,
        Action::Update(changed) => client.update(resource, &changed).await?,
        Action::Recreate(anew) => {
            client.delete(resource, namespace, name, &DeleteOptions::default()).await?;
            client.create(resource, namespace, &anew).await?
        }
    };
    tracing::debug!(resource = %resource.plural, namespace, name, "a default object was brought in order");
    Ok(())
}

#[cfg(test)]
mod tests;
