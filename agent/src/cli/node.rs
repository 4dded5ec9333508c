//! Shell: `bramble node`: the boards' keys, and the one command against a board that was stolen.

use std::process::ExitCode;

use anyhow::{Context, bail};
use bramble_agent::link::{Link, PatchKind};
use bramble_agent::pods::time::rfc3339;
use serde_json::{Map, Value, json};

use super::{NodeVerb, Options, admin};

/// Where the controller writes down which keys it signed for which node.
const BOARD_KEYS: &str = "/api/v1/namespaces/kube-system/configmaps/board-keys";

pub(crate) fn node(verb: NodeVerb, options: &Options) -> anyhow::Result<ExitCode> {
    admin::block_on(async {
        let link = admin::link(&options.data_dir)?;
        match verb {
            NodeVerb::List => list(&link).await,
            NodeVerb::Revoke(name) => revoke(&link, &name).await,
            NodeVerb::Readmit(name) => readmit(&link, &name).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A key (SHA-256, hexadecimal digits) and what is known of it.
type Known = (String, Value);

async fn known(link: &Link) -> anyhow::Result<Vec<Known>> {
    let map = match link.get(BOARD_KEYS).await {
        Ok(map) => map,
        Err(error) if error.is_not_found() => Value::Null,
        Err(error) => return Err(error.into()),
    };
    Ok(entries(&map))
}

/// By node, then by key.
fn entries(map: &Value) -> Vec<Known> {
    let data = map["data"].as_object().into_iter().flatten();
    let parse = |(key, text): (&String, &Value)| Some((key.clone(), serde_json::from_str(text.as_str()?).ok()?));
    let mut all: Vec<Known> = data.filter_map(parse).collect();
    all.sort_by(|(a, one), (b, other)| (one["node"].as_str(), a).cmp(&(other["node"].as_str(), b)));
    all
}

fn is_of((_, entry): &Known, name: &str) -> bool {
    entry["node"] == name
}

async fn list(link: &Link) -> anyhow::Result<()> {
    println!("{:<24} {:<18} SHUT OUT SINCE", "NODE", "KEY");
    for (key, entry) in known(link).await? {
        let node = entry["node"].as_str().unwrap_or_default();
        println!("{node:<24} {:<18} {}", &key[..key.len().min(16)], entry["revoked"].as_str().unwrap_or("-"));
    }
    Ok(())
}

/// The keys first: from then on the board is refused. What it holds of tokens dies with its pods and its Node.
async fn revoke(link: &Link, name: &str) -> anyhow::Result<()> {
    let since = rfc3339(i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?);
    let keys = known(link).await?;
    let mut data = Map::new();
    for (key, entry) in keys.iter().filter(|one| is_of(one, name)) {
        if entry["revoked"].is_null() {
            data.insert(key.clone(), json!({"node": name, "revoked": since}).to_string().into());
        }
    }
    if !keys.iter().any(|one| is_of(one, name)) {
        bail!("no key was ever signed for a node {name:?}; `bramble node list` shows the boards");
    }
    let count = data.len();
    link.patch(BOARD_KEYS, PatchKind::Merge, &json!({"data": data})).await.context("the keys are not shut out")?;
    println!("{name}: {count} key(s) shut out");
    gone(link.delete(&format!("/api/v1/nodes/{name}"), &json!({})).await)?;
    let pods = link.get(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")).await?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    for pod in &pods {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let path = format!("/api/v1/namespaces/{}/pods/{}", text("namespace"), text("name"));
        gone(link.delete(&path, &json!({"gracePeriodSeconds": 0})).await)?;
    }
    println!("{name}: its Node and {} pod(s) are removed, and the tokens that were theirs", pods.len());
    eprintln!(
        "bramble: change what Secrets those pods could read; a board of that name is approved by a person from now on"
    );
    Ok(())
}

/// Its keys count again, and its name is given by token again.
async fn readmit(link: &Link, name: &str) -> anyhow::Result<()> {
    let mut data = Map::new();
    for (key, entry) in known(link).await?.iter().filter(|one| is_of(one, name)) {
        if !entry["revoked"].is_null() {
            data.insert(key.clone(), json!({"node": name}).to_string().into());
        }
    }
    if data.is_empty() {
        bail!("{name:?} is not shut out; `bramble node list` shows the boards");
    }
    link.patch(BOARD_KEYS, PatchKind::Merge, &json!({"data": data})).await?;
    println!("{name}: readmitted");
    Ok(())
}

/// What is gone already is as good.
fn gone(deleted: Result<Value, bramble_agent::link::LinkError>) -> anyhow::Result<()> {
    match deleted {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_by_node() {
        let map = json!({"data": {"bb": "{\"node\":\"pi-1\"}", "aa": "{\"node\":\"pi-2\",\"revoked\":\"x\"}", "cc": "rubbish"}});
        let all = entries(&map);
        assert_eq!(all.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["bb", "aa"]);
        assert!(is_of(&all[0], "pi-1") && !is_of(&all[0], "pi-2"));
        assert!(entries(&Value::Null).is_empty());
    }
}
