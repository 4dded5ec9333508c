//! Shell: the admission plugins that upstream enables by default, in its order; each is a pure function, its lookups are done here.

pub mod namespace_lifecycle;

use super::{Answer, ApiError, Call, Part, Registry, Target};
use crate::identity::Identity;
use crate::object::Object;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// A deletion.
    Delete,
}

/// What the plugins know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// What it is about.
    pub target: &'a Target,
    /// Through which subresource.
    pub part: Part,
    /// What it does.
    pub operation: Operation,
}

impl Registry {
    /// Lets the plugins change and judge a write.
    pub(super) async fn admit(
        &self,
        call: &Call,
        target: &Target,
        part: Part,
        operation: Operation,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Answer<()> {
        let attributes = Attributes { identity: &call.identity, target, part, operation };
        if namespace_lifecycle::needs_namespace(&attributes) {
            let namespace = self.lookup("namespaces", "", &target.namespace).await?;
            namespace_lifecycle::judge(&attributes, namespace.as_ref())?;
        }
        namespace_lifecycle::protect(&attributes)?;
        let _ = (object, old, ApiError::no_such_path);
        Ok(())
    }
}
