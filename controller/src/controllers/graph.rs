//! Pure: who owns whom, over every kind: keys and uids only, and only of objects that have owners or wait on a cascade.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::kind::{KindId, Kinds};
use super::text::{Str, flag_at, list_at, str_at};
use super::view::Key;
use super::view::meta::Uid;

/// One owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnerRef {
    /// `None` when no known kind is meant: then the owner is never judged absent.
    pub(crate) kind: Option<KindId>,
    pub(crate) name: Str,
    pub(crate) uid: Uid,
    pub(crate) blocks: bool,
}

/// An object that has owners, or that is being deleted with dependents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vertex {
    pub(crate) uid: Uid,
    pub(crate) owners: Box<[OwnerRef]>,
    pub(crate) deleting: bool,
    /// Carries the finalizer `foregroundDeletion`.
    pub(crate) foreground: bool,
    /// Carries the finalizer `orphan`.
    pub(crate) orphan: bool,
}

/// The index.
#[derive(Default)]
pub(crate) struct Graph {
    vertices: BTreeMap<Key, Vertex>,
    dependents: HashMap<Uid, BTreeSet<Key>>,
}

impl Graph {
    /// Takes an object in; answers what stood here before.
    pub(crate) fn put(&mut self, key: &Key, uid: Uid, object: &Value, kinds: &Kinds) -> Option<Vertex> {
        let former = self.remove(key);
        let metadata = &object["metadata"];
        let owners: Box<[OwnerRef]> = list_at(metadata, &["ownerReferences"])
            .iter()
            .map(|owner| OwnerRef {
                kind: kinds.find(str_at(owner, &["apiVersion"]), str_at(owner, &["kind"])),
                name: str_at(owner, &["name"]).into(),
                uid: Uid::parse(str_at(owner, &["uid"])),
                blocks: flag_at(owner, &["blockOwnerDeletion"]),
            })
            .collect();
        let finalizer = |name: &str| list_at(metadata, &["finalizers"]).iter().any(|value| value == name);
        let deleting = metadata.get("deletionTimestamp").is_some_and(|value| !value.is_null());
        let vertex =
            Vertex { uid, owners, deleting, foreground: finalizer("foregroundDeletion"), orphan: finalizer("orphan") };
        if vertex.owners.is_empty() && !(deleting && (vertex.foreground || vertex.orphan)) {
            return former;
        }
        for owner in &vertex.owners {
            self.dependents.entry(owner.uid).or_default().insert(key.clone());
        }
        self.vertices.insert(key.clone(), vertex);
        former
    }

    /// Forgets an object; answers what stood here.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Vertex> {
        let vertex = self.vertices.remove(key)?;
        for owner in &vertex.owners {
            if let Some(keys) = self.dependents.get_mut(&owner.uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        Some(vertex)
    }

    pub(crate) fn vertex(&self, key: &Key) -> Option<&Vertex> {
        self.vertices.get(key)
    }

    /// Objects with an owner reference to `owner`.
    pub(crate) fn dependents(&self, owner: Uid) -> impl Iterator<Item = (&Key, &Vertex)> {
        self.dependents.get(&owner).into_iter().flatten().filter_map(|key| Some((key, self.vertices.get(key)?)))
    }

    /// Objects that name an owner of this kind.
    pub(crate) fn dependents_on_kind(&self, kind: KindId) -> impl Iterator<Item = &Key> {
        self.vertices
            .iter()
            .filter(move |(_, vertex)| vertex.owners.iter().any(|owner| owner.kind == Some(kind)))
            .map(|(key, _)| key)
    }

    /// Vertices of a kind that a finished list did not meet.
    pub(crate) fn not_met(&self, kind: KindId, met: &BTreeSet<(Str, Str)>) -> Vec<(Key, Uid)> {
        self.vertices
            .iter()
            .filter(|(key, _)| key.kind == kind && !met.contains(&(key.namespace.clone(), key.name.clone())))
            .map(|(key, vertex)| (key.clone(), vertex.uid))
            .collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.vertices
            .iter()
            .map(|(key, vertex)| {
                key.name.len()
                    + size_of::<Vertex>()
                    + vertex.owners.len() * (size_of::<OwnerRef>() + 2 * size_of::<Key>())
            })
            .sum()
    }
}
