//! Pure: a PolicyRule in compact form: what it allows, what it covers, how it is told to people.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Attributes;
use super::names::{Name, Names};

/// `rbac.authorization.k8s.io/v1 PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub(crate) verbs: Box<[Name]>,
    pub(crate) api_groups: Box<[Name]>,
    pub(crate) resources: Box<[Name]>,
    pub(crate) resource_names: Box<[Name]>,
    pub(crate) urls: Box<[Name]>,
}

impl Rule {
    /// From the JSON of one rule; what is missing is empty.
    pub(crate) fn parse(names: &mut Names, value: &Value) -> Rule {
        Rule {
            verbs: names.list(value.get("verbs")),
            api_groups: names.list(value.get("apiGroups")),
            resources: names.list(value.get("resources")),
            resource_names: names.list(value.get("resourceNames")),
            urls: names.list(value.get("nonResourceURLs")),
        }
    }

    /// From a JSON array of rules, as `Role.rules`.
    pub(crate) fn parse_list(names: &mut Names, value: Option<&Value>) -> Box<[Rule]> {
        let Some(items) = value.and_then(Value::as_array) else { return Box::default() };
        items.iter().map(|item| Rule::parse(names, item)).collect()
    }

    /// Back to JSON, empty lists left out.
    pub(crate) fn to_json(&self) -> Value {
        let mut out = serde_json::Map::new();
        let fields = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.urls),
        ];
        for (field, list) in fields {
            if field == "verbs" || !list.is_empty() {
                out.insert(field.into(), json!(list.iter().map(|name| &**name).collect::<Vec<_>>()));
            }
        }
        Value::Object(out)
    }

    /// Whether the rule allows the request.
    pub(crate) fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if attributes.resource.is_empty() {
            return self.urls.iter().any(|url| url_matches(url, &attributes.path));
        }
        has(&self.api_groups, &attributes.api_group)
            && self.resources.iter().any(|own| resource_matches(own, &attributes.resource, &attributes.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|own| **own == *attributes.name))
    }

    /// Whether everything that `other` (a broken-down rule) allows is allowed by this one.
    fn covers(&self, other: &Rule) -> bool {
        let names_covered = self.resource_names.is_empty()
            || (!other.resource_names.is_empty()
                && other.resource_names.iter().all(|n| self.resource_names.contains(n)));
        let resource_covered = |wanted: &Name| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|own| resource_matches(own, resource, subresource))
        };
        other.verbs.iter().all(|verb| has(&self.verbs, verb))
            && other.api_groups.iter().all(|group| has(&self.api_groups, group))
            && other.resources.iter().all(resource_covered)
            && names_covered
            && other.urls.iter().all(|url| self.urls.iter().any(|own| url_matches(own, url)))
    }

    /// The rule as a list of rules with one verb, group, resource and name each.
    fn broken_down(&self) -> Vec<Rule> {
        let one = |name: &Name| Box::from([name.clone()]);
        let mut out = Vec::new();
        let names: Vec<Box<[Name]>> = if self.resource_names.is_empty() {
            vec![Box::default()]
        } else {
            self.resource_names.iter().map(one).collect()
        };
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    out.extend(names.iter().map(|name| Rule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        resource_names: name.clone(),
                        urls: Box::default(),
                    }));
                }
            }
        }
        for url in &self.urls {
            out.extend(self.verbs.iter().map(|verb| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }));
        }
        out
    }

    /// Upstream's one-line form: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
    pub(crate) fn describe(&self) -> String {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = fields
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(field, list)| format!("{field}:{}", quoted(list.iter().map(|name| &**name))))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// A list as Go's `%q` prints it: `["a" "b"]`.
pub(crate) fn quoted<'a>(items: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", items.map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" "))
}

/// Which single rights in `wanted` are covered by none of `held`.
pub(crate) fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::broken_down);
    parts.filter(|part| !held.iter().any(|own| own.covers(part))).collect()
}

/// Single rights joined where only the verb differs, in the order of first appearance.
pub(crate) fn compacted(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        let joined = out.iter_mut().find(|known| {
            rule.urls.is_empty()
                && known.urls.is_empty()
                && known.api_groups == rule.api_groups
                && known.resources == rule.resources
                && known.resource_names == rule.resource_names
        });
        match joined {
            Some(known) => known.verbs = known.verbs.iter().chain(rule.verbs.iter()).cloned().collect(),
            None => out.push(rule),
        }
    }
    out
}

/// The sorted one-line forms of rules, one a line.
pub(crate) fn describe_all(rules: &[Rule]) -> String {
    let lines: BTreeSet<String> = rules.iter().map(Rule::describe).collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn has(list: &[Name], wanted: &str) -> bool {
    list.iter().any(|own| &**own == "*" || &**own == wanted)
}

fn resource_matches(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((own_resource, own_subresource)) => {
            own_subresource == subresource
                && (own_resource == "*" && !subresource.is_empty() || own_resource == resource)
        }
    }
}

fn url_matches(own: &str, path: &str) -> bool {
    own == path || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: Value) -> Rule {
        Rule::parse(&mut Names::default(), &value)
    }

    fn wants(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            api_group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_rule_allows_what_it_says() {
        let pods = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]});
        let named = json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["web"]});
        let any_scale = json!({"verbs": ["get"], "apiGroups": ["*"], "resources": ["*/scale"]});
        let table = [
            (&pods, wants("get", "", "pods", "x"), true),
            (&pods, wants("get", "", "pods/log", "x"), true),
            (&pods, wants("get", "", "pods/exec", "x"), false),
            (&pods, wants("create", "", "pods", ""), false),
            (&pods, wants("get", "apps", "pods", ""), false),
            (&named, wants("delete", "apps", "deployments", "web"), true),
            (&named, wants("delete", "apps", "deployments/status", "web"), true),
            (&named, wants("list", "apps", "deployments", ""), false),
            (&any_scale, wants("get", "apps", "deployments/scale", "x"), true),
            (&any_scale, wants("get", "apps", "deployments", "x"), false),
        ];
        for (value, attributes, allowed) in table {
            assert_eq!(rule(value.clone()).allows(&attributes), allowed, "{value} {attributes:?}");
        }
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let health = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez/*"]}));
        let get = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert!(health.allows(&get("/healthz")));
        assert!(health.allows(&get("/livez/ping")));
        assert!(!health.allows(&get("/livez")));
        assert!(!health.allows(&get("/healthz/etcd")));
    }

    #[test]
    fn what_is_not_covered_is_named_as_upstream_names_it() {
        let held = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))];
        let wanted = [
            rule(json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods"]})),
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})),
        ];
        let missing = compacted(uncovered(&held, &wanted));
        assert_eq!(
            describe_all(&missing),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}\n{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"
        );
        let all = [
            rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
            rule(json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
        ];
        assert!(uncovered(&all, &wanted).is_empty());
    }

    #[test]
    fn a_star_is_covered_only_by_a_star() {
        let held = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "services"]}))];
        let wanted = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*"]}))];
        assert_eq!(uncovered(&held, &wanted).len(), 1);
        let named = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}))];
        let unnamed = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))];
        assert_eq!(uncovered(&named, &unnamed).len(), 1);
        assert!(uncovered(&unnamed, &named).is_empty());
    }
}
