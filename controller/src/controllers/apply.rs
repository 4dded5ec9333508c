//! Shell: carries out one plan through a client: steps in order, the actions of a step at once.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Options;
use super::kind::{ACCESS_REVIEWS, Kind, KindId, Kinds};
use super::plan::{Action, Need, Reads, Report};
use super::text::{list_at, merge, str_at};
use super::time::Now;
use super::view::Key;
use super::view::meta::{Uid, revision};
use crate::authn::boards;
use crate::client::{Client, ClientError, DeleteOptions, ListOptions, PatchKind, Resource};
use crate::pki::approval;

/// A plan's own write, which the view must have seen before the next plan of the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The watch of the kind has told this revision.
    Revision(KindId, u64),
    /// That object is gone or on its way out.
    Gone(Key, Uid),
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) fences: Vec<Fence>,
    pub(crate) reports: Vec<Report>,
    /// The error that ended the plan, and whether it merely lost a race.
    pub(crate) failure: Option<Failure>,
}

/// Why a plan ended early.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// Somebody else wrote first: the view will tell, no harm done.
    pub(crate) raced: bool,
}

/// What one controller acts with.
#[derive(Clone)]
pub(crate) struct Hands {
    pub(crate) client: Client,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) options: Arc<Options>,
}

pub(super) fn resource(kind: &Kind) -> Resource {
    Resource { group: kind.group.clone(), version: kind.version.clone(), plural: kind.plural.clone() }
}

fn space(namespace: &str) -> Option<&str> {
    Some(namespace).filter(|namespace| !namespace.is_empty())
}

impl Hands {
    /// Carries out all steps; stops after the step in which an action failed.
    pub(crate) async fn carry_out(self, steps: Vec<Vec<Action>>, now: Now) -> Outcome {
        let mut outcome = Outcome::default();
        for step in steps {
            for (reports, result) in self.step(step, now).await {
                outcome.reports.extend(reports);
                match result {
                    Ok(fence) => outcome.fences.extend(fence),
                    Err(failure) => match &outcome.failure {
                        Some(known) if !known.raced => {}
                        _ => outcome.failure = Some(failure),
                    },
                }
            }
            if outcome.failure.is_some() {
                break;
            }
        }
        outcome
    }

    async fn step(&self, mut step: Vec<Action>, now: Now) -> Vec<(Vec<Report>, Result<Option<Fence>, Failure>)> {
        if step.len() == 1 {
            return match step.pop() {
                Some(action) => vec![self.clone().one(action, now).await],
                None => Vec::new(),
            };
        }
        let mut set = JoinSet::new();
        for action in step {
            set.spawn(self.clone().one(action, now));
        }
        set.join_all().await
    }

    async fn one(self, action: Action, now: Now) -> (Vec<Report>, Result<Option<Fence>, Failure>) {
        if let Action::Event(report) = action {
            return (vec![report], Ok(None));
        }
        let note = match &action {
            Action::Create { note, .. } | Action::Delete { note, .. } => note.clone(),
            _ => None,
        };
        let deleted = match &action {
            Action::Delete { key, .. } => Some(key.name.clone()),
            _ => None,
        };
        let result = self.write(action, now).await;
        let reports = match (&result, note) {
            (Ok((_, name)), Some(note)) if deleted.is_none() => vec![note.succeeded(name)],
            (Ok(_), Some(note)) => vec![note.succeeded(deleted.as_deref().unwrap_or_default())],
            (Err(failure), Some(note)) if !failure.raced => vec![note.failed(&failure.message)],
            _ => Vec::new(),
        };
        (reports, result.map(|(fence, _)| fence))
    }

    /// The fence of the write, and the name of the object written.
    async fn write(&self, action: Action, now: Now) -> Result<(Option<Fence>, String), Failure> {
        match action {
            Action::Create { kind, body, exists_ok, .. } => {
                let namespace = str_at(&body, &["metadata", "namespace"]);
                match self.client.create(&self.resource(kind), space(namespace), &body).await {
                    Err(error) if exists_ok && error.is_already_exists() => Ok((None, String::new())),
                    answer => written(kind, answer),
                }
            }
            Action::Edit { key, subresource, uid, revision, merge } => {
                self.edit(&key, subresource, (uid, revision), |object| {
                    super::text::merge(object, &merge);
                    Ok(())
                })
                .await
            }
            Action::Replace { key, subresource, body } => {
                written(key.kind, self.client.put(&self.resource(key.kind), subresource, &body).await)
            }
            Action::Patch { key, subresource, patch, body } => {
                let of = self.resource(key.kind);
                let answer = self.client.patch(&of, space(&key.namespace), &key.name, subresource, (patch, &body));
                written(key.kind, answer.await)
            }
            Action::Delete { key, uid, propagation, grace_seconds, .. } => {
                self.delete(key, uid, propagation, grace_seconds).await
            }
            Action::DeleteCollection { kind, namespace } => {
                let path = self.resource(kind).path(space(&namespace), None, None);
                self.client.call(http::Method::DELETE, &path, None).await.map_err(failure)?;
                Ok((None, String::new()))
            }
            Action::Sign { key, request } => self.sign(&key, &request, now).await,
            Action::Token { key, uid, account, account_uid } => self.token(&key, uid, &account, account_uid).await,
            Action::Event(_) => Ok((None, String::new())),
        }
    }

    fn resource(&self, kind: KindId) -> Resource {
        resource(self.kinds.get(kind))
    }

    /// Read, change, put back: the revision of the read guards the write.
    async fn edit(
        &self,
        key: &Key,
        subresource: Option<&'static str>,
        (uid, expected): (Uid, Option<u64>),
        change: impl FnOnce(&mut Value) -> Result<(), Failure>,
    ) -> Result<(Option<Fence>, String), Failure> {
        let of = self.resource(key.kind);
        let mut object = self.client.get(&of, space(&key.namespace), &key.name).await.map_err(failure)?;
        let found = revision(&object);
        if Uid::parse(str_at(&object, &["metadata", "uid"])) != uid || expected.is_some_and(|known| known != found) {
            return Err(Failure { message: format!("{} has changed meanwhile", key.path()), raced: true });
        }
        change(&mut object)?;
        written(key.kind, self.client.put(&of, subresource, &object).await)
    }

    async fn delete(
        &self,
        key: Key,
        uid: Uid,
        propagation_policy: &'static str,
        grace_period_seconds: Option<i64>,
    ) -> Result<(Option<Fence>, String), Failure> {
        let uid_text = uid.to_string();
        let options = DeleteOptions { grace_period_seconds, propagation_policy, ..DeleteOptions::of_uid(&uid_text) };
        let answer = self.client.delete(&self.resource(key.kind), space(&key.namespace), &key.name, &options).await;
        match answer {
            Err(error) if !error.is_not_found() => Err(failure(error)),
            _ => Ok((Some(Fence::Gone(key.clone(), uid)), key.name.to_string())),
        }
    }

    async fn sign(&self, key: &Key, request: &Value, now: Now) -> Result<(Option<Fence>, String), Failure> {
        let uid = Uid::parse(str_at(request, &["metadata", "uid"]));
        // First, so that no key is at large which nobody could shut out.
        if let Some((board_key, node)) = approval::board_key(request) {
            self.remember_board(&board_key, &node).await?;
        }
        let signed = (self.options.sign)(request, now.wall());
        self.edit(key, Some("status"), (uid, Some(revision(request))), |object| {
            match signed {
                Ok(certificate) => object["status"]["certificate"] = Value::from(certificate),
                Err(message) => {
                    let condition = json!({
                        "type": "Failed", "status": "True", "reason": "SigningFailed", "message": message,
                        "lastUpdateTime": now.stamp(), "lastTransitionTime": now.stamp(),
                    });
                    match object["status"]["conditions"].as_array_mut() {
                        Some(conditions) => conditions.push(condition),
                        None => object["status"]["conditions"] = json!([condition]),
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Writes a board's key down, unless it is known for this node.
    async fn remember_board(&self, board_key: &str, node: &str) -> Result<(), Failure> {
        const CONFIG_MAPS: Resource = Resource::new("", "v1", "configmaps");
        let namespace = Some(boards::NAMESPACE);
        let entry = boards::Entry { node: node.to_owned(), revoked: None };
        let data = json!({ board_key: serde_json::to_string(&entry).unwrap_or_default() });
        match self.client.get(&CONFIG_MAPS, namespace, boards::NAME).await {
            Ok(map) if boards::entries(&map).any(|(known, entry)| known == board_key && entry.node == node) => Ok(()),
            Ok(_) => {
                let patch = (PatchKind::Merge, &json!({ "data": data }));
                let patched = self.client.patch(&CONFIG_MAPS, namespace, boards::NAME, None, patch).await;
                patched.map(drop).map_err(failure)
            }
            Err(error) if error.is_not_found() => {
                let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                    "metadata": { "name": boards::NAME, "namespace": boards::NAMESPACE } });
                self.client.create(&CONFIG_MAPS, namespace, &map).await.map(drop).map_err(failure)
            }
            Err(error) => Err(failure(error)),
        }
    }

    async fn token(
        &self,
        key: &Key,
        uid: Uid,
        account: &str,
        account_uid: Uid,
    ) -> Result<(Option<Fence>, String), Failure> {
        use base64::Engine;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let token = (self.options.account_token)(&key.namespace, account, &account_uid.to_string(), &key.name)
            .map_err(|message| Failure { message, raced: false })?;
        let patch = json!({
            "metadata": { "annotations": { "kubernetes.io/service-account.uid": account_uid.to_string() } },
            "data": {
                "token": encode(token.as_bytes()),
                "ca.crt": encode(self.options.root_ca.as_bytes()),
                "namespace": encode(key.namespace.as_bytes()),
            },
        });
        self.edit(key, None, (uid, None), |secret| {
            // A token that is there is in somebody's hands: only what is beside it changes.
            let held =
                secret.pointer("/data/token").filter(|token| token.as_str().is_some_and(|text| !text.is_empty()));
            let held = held.cloned();
            merge(secret, &patch);
            if let Some(held) = held {
                secret["data"]["token"] = held;
            }
            Ok(())
        })
        .await
    }

    /// Reads what a plan asked for.
    pub(crate) async fn read(self, needs: Vec<Need>, mut reads: Reads) -> Result<Reads, Failure> {
        for need in needs {
            match need {
                Need::Object(key) => {
                    let of = self.resource(key.kind);
                    let object = match self.client.get(&of, space(&key.namespace), &key.name).await {
                        Err(error) if error.is_not_found() => None,
                        answer => Some(answer.map_err(failure)?),
                    };
                    reads.objects.insert(key, object);
                }
                Need::List(kind, namespace) => {
                    let (of, all) = (self.resource(kind), ListOptions::default());
                    let items = match self.client.list(&of, space(&namespace), &all).await {
                        Err(error) if error.is_not_found() => Vec::new(),
                        list => list.map_err(failure)?.items,
                    };
                    reads.lists.insert((kind, namespace), items);
                }
                Need::Access(spec) => {
                    let allowed = self.access(&spec).await.map_err(failure)?;
                    reads.access.insert(spec, allowed);
                }
            }
        }
        Ok(reads)
    }

    async fn access(&self, spec: &str) -> Result<bool, ClientError> {
        let spec: Value = serde_json::from_str(spec).unwrap_or_default();
        let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec });
        let answer = self.client.create(&resource(&ACCESS_REVIEWS), None, &review).await?;
        Ok(answer["status"]["allowed"] == true)
    }
}

fn written(kind: KindId, answer: Result<Value, ClientError>) -> Result<(Option<Fence>, String), Failure> {
    let object = answer.map_err(failure)?;
    let name = str_at(&object, &["metadata", "name"]).to_owned();
    Ok((Some(Fence::Revision(kind, revision(&object))), name))
}

fn failure(error: ClientError) -> Failure {
    let raced = error.is_conflict() || error.is_not_found() || is_namespace_ending(&error);
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Failure { message, raced }
}

/// Nothing new may stand in a namespace that ends; whoever wanted it goes too.
fn is_namespace_ending(error: &ClientError) -> bool {
    let ClientError::Status { status, .. } = error else { return false };
    list_at(status, &["details", "causes"]).iter().any(|cause| cause["reason"] == "NamespaceTerminating")
}

/// Asks the server for every kind that can be listed, watched and deleted, each group in its preferred version.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Kind>, ClientError> {
    let mut found = Vec::new();
    let core = client.call(http::Method::GET, "/api/v1", None).await?;
    collect(&core, "", "v1", &mut found);
    let groups = client.call(http::Method::GET, "/apis", None).await?;
    for group in list_at(&groups, &["groups"]) {
        let (name, version) = (str_at(group, &["name"]), str_at(group, &["preferredVersion", "version"]));
        let list = client.call(http::Method::GET, &format!("/apis/{name}/{version}"), None).await?;
        collect(&list, name, version, &mut found);
    }
    Ok(found)
}

fn collect(list: &Value, group: &str, version: &str, found: &mut Vec<Kind>) {
    for entry in list_at(list, &["resources"]) {
        let plural = str_at(entry, &["name"]);
        let verbs = list_at(entry, &["verbs"]);
        let can = |verb: &str| verbs.iter().any(|known| known == verb);
        // Events are too many and too short-lived to be owned; upstream ignores them too.
        if plural.contains('/') || plural == "events" || !(can("list") && can("watch") && can("delete")) {
            continue;
        }
        found.push(Kind {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            plural: plural.to_owned().into(),
            kind: str_at(entry, &["kind"]).to_owned().into(),
            namespaced: entry["namespaced"] == true,
        });
    }
}
