//! Shell: the admission plugins that upstream enables by default, in its order; each is a pure function, its lookups are done here.

pub mod namespace_lifecycle;
pub mod priority;
pub mod service_account;
pub mod tolerations;

use std::time::Duration;

use bramble_store::Revision;
use serde_json::Value;

use super::create::suffix;
use super::{Answer, ApiError, Call, Part, Registry, Target};
use crate::authn::answer as refusal;
use crate::authz::{self, restriction};
use crate::identity::Identity;
use crate::object::Object;

/// How long the creation of a pod waits for the account of a namespace that was just made.
const ACCOUNT_WAIT: Duration = Duration::from_secs(2);

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

impl From<Operation> for restriction::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Create => Self::Create,
            Operation::Update => Self::Update,
            Operation::Delete => Self::Delete,
        }
    }
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

impl Attributes<'_> {
    fn is_about(&self, group: &str, plural: &str) -> bool {
        self.target.kind.group == group && self.target.kind.plural == plural
    }

    /// The same in the words of RBAC.
    fn wanted(&self, subresource: &str) -> authz::Attributes {
        let verb = match self.operation {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
        };
        authz::Attributes {
            verb: verb.to_owned(),
            api_group: self.target.kind.group.to_string(),
            api_version: self.target.kind.version.to_string(),
            resource: self.target.kind.plural.to_string(),
            subresource: subresource.to_owned(),
            namespace: self.target.namespace.clone(),
            name: self.target.name.clone(),
            ..authz::Attributes::default()
        }
    }

    fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(&self.target.kind, &self.target.name, why)
    }
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
        namespace_lifecycle::protect(&attributes)?;
        if namespace_lifecycle::needs_namespace(&attributes) {
            let namespace = self.lookup("namespaces", "", &target.namespace).await?;
            namespace_lifecycle::judge(&attributes, namespace.as_ref())?;
        }
        let created = operation == Operation::Create && part == Part::Whole;
        if created && attributes.is_about("", "pods") {
            self.admit_pod(&attributes, object).await?;
        }
        if created && attributes.is_about("", "nodes") {
            tolerations::taint(object);
        }
        if attributes.is_about("certificates.k8s.io", "certificatesigningrequests") {
            self.admit_signing_request(&attributes, object, old)?;
        }
        if operation != Operation::Delete {
            self.admit_grant(&attributes, object, old)?;
        }
        let given = (operation != Operation::Delete).then_some(&*object);
        self.restrict(&attributes, part.name(), given, old, None).await
    }

    async fn admit_pod(&self, attributes: &Attributes<'_>, pod: &mut Object) -> Answer<()> {
        if service_account::wants_account(pod) {
            let name = service_account::name(pod);
            let account = self.account(&attributes.target.namespace, &name).await?.ok_or_else(|| {
                let namespace = &attributes.target.namespace;
                let why =
                    format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
                attributes.forbidden(&why)
            })?;
            service_account::apply(pod, &account, &suffix());
        } else {
            service_account::judge_mirror(pod).map_err(|why| attributes.forbidden(&why))?;
        }
        let class = match priority::class_of(pod) {
            Some(name) => self.lookup("priorityclasses", "", name).await?,
            None => self.default_priority().await?,
        };
        priority::apply(pod, class.as_ref()).map_err(|why| attributes.forbidden(&why))?;
        tolerations::tolerate(pod);
        Ok(())
    }

    /// A service account; the default one of a young namespace is waited for, as upstream does.
    async fn account(&self, namespace: &str, name: &str) -> Answer<Option<Object>> {
        let waiting = async {
            loop {
                let seen = self.store.revision();
                match self.lookup("serviceaccounts", namespace, name).await {
                    Ok(None) if name == "default" => self.store.wait_for(Revision(seen.0 + 1)).await,
                    other => return other,
                }
            }
        };
        tokio::time::timeout(ACCOUNT_WAIT, waiting).await.unwrap_or(Ok(None))
    }

    async fn default_priority(&self) -> Answer<Option<Object>> {
        let query = bramble_store::ListQuery {
            prefix: "priorityclasses.scheduling.k8s.io/",
            after: None,
            limit: 256,
            at: None,
        };
        let page = self.store.list(query).await.map_err(super::read_error)?;
        let classes =
            page.records.iter().filter_map(|record| super::record::decode(&record.value, record.revision.0).ok());
        Ok(classes.filter(priority::is_default).max_by_key(|class| std::cmp::Reverse(class.integer(&["value"]))))
    }

    fn admit_signing_request(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Answer<()> {
        let mut value = std::mem::take(object).into_value();
        if attributes.operation == Operation::Create {
            authz::signing::stamp(attributes.identity, &mut value);
        }
        let old = old.map(|old| old.clone().into_value());
        let wanted = attributes.wanted(attributes.part.name());
        let judged = self.authorizer.may_certify(
            attributes.identity,
            &wanted,
            attributes.operation.into(),
            &value,
            old.as_ref(),
        );
        *object = Object::from_value(value).unwrap_or_default();
        judged.map_err(|why| attributes.forbidden(&why))
    }

    /// Nobody grants what they do not hold.
    fn admit_grant(&self, attributes: &Attributes<'_>, object: &Object, old: Option<&Object>) -> Answer<()> {
        if attributes.target.kind.group != "rbac.authorization.k8s.io" {
            return Ok(());
        }
        let (new, old) = (object.clone().into_value(), old.map(|old| old.clone().into_value()));
        let wanted = attributes.wanted("");
        let judged = self.authorizer.may_grant(attributes.identity, &wanted, &new, old.as_ref());
        judged.map_err(|refused| refusal::escalation(&attributes.target.kind, &attributes.target.name, &refused))
    }

    /// NodeRestriction: an agent writes what is its own. `pod` is the one that an eviction or a token names.
    pub(super) async fn restrict(
        &self,
        attributes: &Attributes<'_>,
        subresource: &str,
        object: Option<&Object>,
        old: Option<&Object>,
        pod: Option<&Object>,
    ) -> Answer<()> {
        let Some(node) = attributes.identity.node_name() else { return Ok(()) };
        let uid = self.lookup("nodes", "", node).await?.map(|node| node.uid().to_owned());
        let value = |object: Option<&Object>| object.map(|object| Value::Object(object.0.clone()));
        let (object, old, pod) = (value(object), value(old), value(pod));
        let write = restriction::Write {
            operation: attributes.operation.into(),
            attributes: &attributes.wanted(subresource),
            object: object.as_ref(),
            old: old.as_ref(),
            pod: pod.as_ref(),
            node_uid: uid.as_deref(),
        };
        restriction::check(attributes.identity, &write).map_err(|why| attributes.forbidden(&why))
    }
}
