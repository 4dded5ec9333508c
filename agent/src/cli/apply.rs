//! Shell: `bramble apply PATH`: manifests into this board's own cluster, for boards without kubectl, such as those of
//! `manifests/` beside `bramble.toml`. What stands is brought to the manifests; nothing is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use bramble_agent::link::{Link, PatchKind};
use serde::Deserialize;
use serde_json::Value;

use super::{Options, admin};

/// A manifest that is longer would be refused by the API, too.
const FILE_BYTES_MAX: u64 = 3 << 20;

pub(crate) fn apply(path: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let mut objects = Vec::new();
    for file in files(path)? {
        let read = read(&file).with_context(|| file.display().to_string())?;
        objects.extend(read.into_iter().map(|object| (file.clone(), object)));
    }
    // Definitions and namespaces come before what needs them, as they do in `kubectl apply` of a well-ordered file.
    objects.sort_by_key(|(_, object)| match object["kind"].as_str() {
        Some("Namespace") => 0,
        Some("CustomResourceDefinition") => 1,
        _ => 2,
    });
    admin::block_on(async {
        let link = admin::link(&options.data_dir)?;
        let mut discovery = Discovery::default();
        for (file, object) in &objects {
            let place = discovery.place(&link, object).await.with_context(|| file.display().to_string())?;
            let path = format!("{place}?fieldManager=bramble&force=true");
            link.patch(&path, PatchKind::Apply, object).await.with_context(|| file.display().to_string())?;
            eprintln!("bramble: applied {}", place.trim_start_matches("/api/v1/").trim_start_matches("/apis/"));
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A file, or those of a folder in the order of their names.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_manifest =
        |path: &PathBuf| matches!(path.extension().and_then(|it| it.to_str()), Some("yaml" | "yml" | "json"));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_manifest).collect();
    files.sort();
    Ok(files)
}

/// The objects of a file, lists taken apart.
fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        bail!("longer than 3 MiB");
    }
    let text = std::fs::read_to_string(path)?;
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        match Value::deserialize(document).context("no YAML")? {
            Value::Null => {}
            mut list
                if list["items"].is_array() && list["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) =>
            {
                objects.extend(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
            }
            object => objects.push(object),
        }
    }
    Ok(objects)
}

/// What the API server has, by group and version.
#[derive(Default)]
struct Discovery(BTreeMap<String, Value>);

impl Discovery {
    /// The path of an object.
    async fn place(&mut self, link: &Link, object: &Value) -> anyhow::Result<String> {
        let text = |value: &Value, name: &str| value.as_str().map(str::to_owned).ok_or_else(|| anyhow!("no {name}"));
        let (version, kind) = (text(&object["apiVersion"], "apiVersion")?, text(&object["kind"], "kind")?);
        let name = text(&object["metadata"]["name"], "metadata.name")?;
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        if !self.0.contains_key(&root) {
            self.0.insert(root.clone(), link.get(&root).await.with_context(|| version.clone())?);
        }
        let resources = self.0[&root]["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_it = |one: &&Value| one["kind"] == kind.as_str() && !one["name"].as_str().unwrap_or("/").contains('/');
        let resource = resources.iter().find(is_it).with_context(|| format!("{version} has no {kind}"))?;
        let plural = resource["name"].as_str().unwrap_or_default();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        Ok(match resource["namespaced"].as_bool() {
            Some(true) => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
            _ => format!("{root}/{plural}/{name}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let dir = std::env::temp_dir().join(format!("bramble-apply-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("b.yaml"), "---\nkind: Pod\n---\n\n---\nkind: List\nitems: [{kind: A}, {kind: B}]\n")
            .unwrap();
        std::fs::write(dir.join("a.json"), "{\"kind\": \"C\"}").unwrap();
        std::fs::write(dir.join("notes.txt"), "[").unwrap();
        let found = files(&dir).unwrap();
        let kinds: Vec<String> = found
            .iter()
            .flat_map(|file| read(file).unwrap())
            .map(|object| object["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(kinds, ["C", "Pod", "A", "B"]);
        assert!(read(&dir.join("notes.txt")).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
