//! Shell: keeps the authoriser's index by watches on the store.

use std::time::Duration;

use bramble_store::{Event, EventKind, ListQuery, ReadError, Record, Revision, Store, Watch, WatchError};
use serde_json::Value;

use super::{Authorizer, FOLLOWED};
use crate::authn::objects::parse;

/// Records of one page: bounds what a list holds in memory at a time.
const PAGE_RECORDS: usize = 256;

/// How long after a failed list the next one is tried: a disk that fails is not asked in a hurry.
const RETRY: Duration = Duration::from_secs(1);

impl Authorizer {
    /// Takes in everything that the store holds and then follows it; returns when the first lists are in. Must be called
    /// within a tokio runtime, where the watches live until the store closes.
    pub async fn follow(&self, store: &Store) -> Result<(), ReadError> {
        for resource in FOLLOWED {
            let after = self.list(store, resource).await?;
            let (authorizer, store) = (self.clone(), store.clone());
            tokio::spawn(async move { authorizer.watch(&store, resource, after).await });
        }
        Ok(())
    }

    async fn list(&self, store: &Store, resource: &str) -> Result<Revision, ReadError> {
        let prefix = format!("{resource}/");
        let (mut objects, mut after, mut at): (Vec<_>, Option<String>, _) = (Vec::new(), None, None);
        loop {
            let query = ListQuery { prefix: &prefix, after: after.as_deref(), limit: PAGE_RECORDS, at };
            let page = store.list(query).await?;
            let revision = page.revision;
            at = Some(revision);
            after = page.records.last().map(|record| record.key.clone());
            objects.extend(page.records.iter().filter_map(read));
            if !page.more || after.is_none() {
                self.replace(resource, &objects);
                return Ok(revision);
            }
        }
    }

    async fn watch(&self, store: &Store, resource: &str, mut after: Revision) {
        let prefix = format!("{resource}/");
        loop {
            let ended = match store.watch(&prefix, after) {
                Ok(watch) => self.take_in(watch, resource).await,
                Err(error) => error,
            };
            if matches!(ended, WatchError::Closed) {
                return;
            }
            match self.list(store, resource).await {
                Ok(revision) => after = revision,
                Err(error) => {
                    tracing::error!(resource, %error, "the authoriser lost sight of the store and tries again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn take_in(&self, mut watch: Watch, resource: &str) -> WatchError {
        loop {
            match watch.next().await {
                Ok(event) => self.apply(resource, &event),
                Err(ended) => return ended,
            }
        }
    }

    fn apply(&self, resource: &str, event: &Event) {
        let Some((namespace, name)) = split(&event.key) else { return };
        let object = match event.kind {
            EventKind::Put => parse(&event.value),
            EventKind::Delete => None,
        };
        match object {
            Some(object) => self.put(resource, namespace, name, &object),
            None => self.remove(resource, namespace, name),
        }
    }
}

fn read(record: &Record) -> Option<(String, String, Value)> {
    let (namespace, name) = split(&record.key)?;
    Some((namespace.to_owned(), name.to_owned(), parse(&record.value)?))
}

/// Namespace and name of a key; the namespace of a cluster-scoped object is empty.
fn split(key: &str) -> Option<(&str, &str)> {
    let (_, rest) = key.split_once('/')?;
    Some(rest.split_once('/').unwrap_or(("", rest)))
}

#[cfg(test)]
mod tests {
    use bramble_store::{Config, Durability, Precondition, Write};
    use serde_json::json;

    use super::*;
    use crate::authz::Attributes;
    use crate::identity::Identity;

    async fn put(store: &Store, key: &str, value: Value) {
        let bytes = [vec![0; 4], value.to_string().into_bytes()].concat();
        store.write(vec![Write::put(key, Precondition::Any, bytes)], Durability::Durable).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_soon_counts() {
        let store = Store::open(Config::memory()).unwrap();
        let rules = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        put(&store, "clusterroles.rbac.authorization.k8s.io/reader", rules).await;
        let authorizer = Authorizer::new();
        authorizer.follow(&store).await.unwrap();
        let ann = Identity::user("ann", &[]);
        let get = Attributes {
            verb: "get".into(),
            resource: "pods".into(),
            namespace: "blue".into(),
            ..Attributes::default()
        };
        assert!(!authorizer.authorize(&ann, &get).is_allowed());
        let bind = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "ann"}]});
        let key = "rolebindings.rbac.authorization.k8s.io/blue/ann";
        put(&store, key, bind).await;
        while !authorizer.authorize(&ann, &get).is_allowed() {
            tokio::task::yield_now().await;
        }
        store.write(vec![Write::delete(key, Precondition::Any)], Durability::Durable).await.unwrap();
        while authorizer.authorize(&ann, &get).is_allowed() {
            tokio::task::yield_now().await;
        }
    }
}
