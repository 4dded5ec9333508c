//! Pure: the map of network policies: which pods of this board are closed, and what may pass.
//!
//! ```text
//!  NetworkPolicies, Namespaces, Pods -> model (compact) -> render: sets of peers, a chain for each closed pod
//!                                                            -> units of the same table as the services
//!  forward, new connections -> policies -> @policy-out-* : jump pol-out/<pod>      what matches a rule returns,
//!                                       -> @policy-in-*  : jump pol-in/<pod>       what comes to the end is dropped
//! ```
//! The board itself always reaches its pods, and they it; replies pass because only new connections are looked at.
//!
//! A pod is closed before it is connected, with the addresses that its board gives it (`known`). Policies, labels of
//! namespaces and addresses of pods are kept in the board's checkpoint as long as there is a policy, so that a board
//! that starts without its controller is as closed as before.

mod known;
mod model;
mod render;
mod run;
mod selector;

pub use known::Policies;
pub(crate) use run::run;

/// The units of these policies and pods (of the namespace `d`, whose label is `team: d`), seen from the board `n1`.
#[cfg(test)]
pub(crate) fn units_of(
    policies: &[serde_json::Value],
    pods: &[serde_json::Value],
) -> std::collections::BTreeMap<String, crate::services::unit::Unit> {
    let name = |object: &serde_json::Value| format!("d/{}", object["metadata"]["name"].as_str().unwrap());
    let mut model = model::Model::default();
    let namespace = serde_json::json!({"metadata": {"labels": {"team": "d"}}});
    model.namespaces.insert("d".to_owned(), selector::labels(&namespace));
    model.policies = policies.iter().map(|one| (name(one), model::Policy::parse(one).unwrap())).collect();
    model.pods = pods.iter().map(|one| (name(one), model::Pod::parse(one, "n1").unwrap())).collect();
    render::units(&model::View::of(&model))
}
