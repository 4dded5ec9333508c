//! Pure: the IP families of a Service and its addresses: what is meant where little is said, and upstream's rules and words
//! for what may not be.
//!
//! It is done where addresses are claimed, and not with the other defaults, because it depends on the ranges of the cluster.

use core::net::IpAddr;

use serde_json::Value;

use super::outside::NO_IP;
use crate::cidr::family_of;
use crate::object::Object;
use crate::schema::field_error::FieldError;

const ADDRESSES: &[&str] = &["spec", "clusterIPs"];
const FAMILIES: &[&str] = &["spec", "ipFamilies"];
const POLICY: &[&str] = &["spec", "ipFamilyPolicy"];
const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";
const UNCHANGED: &str = "may not change once set";

/// Fills in the families and their policy, and drops the second address where the policy gave it up. `cluster` are the
/// families that the cluster has addresses of, the first one its primary. What is wrong comes back, and nothing else is
/// checked then.
pub(crate) fn settle(new: &mut Object, old: Option<&Object>, cluster: &[&'static str]) -> Vec<FieldError> {
    if is_external(new) {
        return Vec::new();
    }
    let errors = if old.is_some_and(|old| goes_on_preferring(new, old)) {
        validate(new)
    } else {
        choose_policy(new, old);
        let errors = validate(new);
        if errors.is_empty() { choose_families(new, old, cluster) } else { errors }
    };
    match old {
        Some(old) if errors.is_empty() => validate_update(new, old),
        _ => errors,
    }
}

/// What was allocated stays where an update does not name it; the singular and the plural field say the same.
pub(super) fn keep_addresses(new: &mut Object, old: &Object) {
    if address(new).is_empty() && !address(old).is_empty() {
        new.set(&["spec", "clusterIP"], address(old).to_owned());
    }
    if list(new, ADDRESSES).is_empty() {
        set(new, ADDRESSES, list(old, ADDRESSES));
    }
    // Who changed the one only means the other too.
    if address(new) != address(old) && list(new, ADDRESSES) == list(old, ADDRESSES) {
        let address = address(new).to_owned();
        new.set(ADDRESSES, vec![address]);
    }
}

/// An alias has neither addresses nor families.
pub(super) fn validate_none(service: &Object) -> Vec<FieldError> {
    let set = |path: &&[&str]| match service.get(path) {
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        _ => false,
    };
    let set = [ADDRESSES, FAMILIES, POLICY].into_iter().filter(set);
    set.map(|path| FieldError::forbidden(path.join("."), "may not be set for ExternalName services")).collect()
}

fn is_external(service: &Object) -> bool {
    service.text(&["spec", "type"]) == "ExternalName"
}

fn is_headless(service: &Object) -> bool {
    list(service, ADDRESSES) == ["None"]
}

/// Whose endpoints are somebody else's business: of any family, whatever the cluster has.
fn is_headless_without_selector(service: &Object) -> bool {
    address(service) == "None" && service.map(&["spec", "selector"]).is_none_or(serde_json::Map::is_empty)
}

fn address(service: &Object) -> &str {
    service.text(&["spec", "clusterIP"])
}

fn list(service: &Object, path: &[&str]) -> Vec<String> {
    service.items(path).iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

fn set(service: &mut Object, path: &[&str], items: Vec<String>) {
    if items.is_empty() {
        service.remove(path);
    } else {
        service.set(path, items);
    }
}

fn policy(service: &Object) -> &str {
    service.text(POLICY)
}

fn policy_error(service: &Object, why: &str) -> FieldError {
    FieldError::invalid("spec.ipFamilyPolicy", policy(service), why)
}

/// A Service that prefers two families neither gains nor loses one because the cluster did meanwhile.
fn goes_on_preferring(new: &Object, old: &Object) -> bool {
    new.text(&["spec", "type"]) == old.text(&["spec", "type"])
        && policy(new) == PREFER
        && policy(old) == PREFER
        && [ADDRESSES, FAMILIES].iter().all(|path| list(new, path) == list(old, path))
}

fn choose_policy(new: &mut Object, old: Option<&Object>) {
    if !policy(new).is_empty() {
        return;
    }
    let before = old.map(policy).filter(|before| !before.is_empty());
    let chosen = match before {
        Some(before) => before,
        None if is_headless_without_selector(new) => REQUIRE,
        None => SINGLE,
    };
    new.set(POLICY, chosen.to_owned());
}

fn choose_families(new: &mut Object, old: Option<&Object>, cluster: &[&'static str]) -> Vec<FieldError> {
    let mut errors = old.map(|old| release(new, old)).unwrap_or_default();
    if policy(new) == SINGLE {
        for (path, what) in [(ADDRESSES, "cluster IPs"), (FAMILIES, "IP families")] {
            if list(new, path).len() == 2 {
                let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                errors.push(policy_error(new, &why));
            }
        }
    }
    let addresses = list(new, ADDRESSES);
    let mut families = list(new, FAMILIES);
    for (at, text) in addresses.iter().enumerate().skip(families.len()) {
        let Ok(ip) = text.parse::<IpAddr>() else { break };
        let family = family_of(ip);
        if cluster.contains(&family) {
            families.push(family.to_owned());
        } else {
            let why = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), addresses.clone(), why));
        }
    }
    let free = is_headless_without_selector(new);
    if errors.is_empty() && !free {
        if policy(new) == REQUIRE && cluster.len() < 2 {
            errors.push(policy_error(new, "this cluster is not configured for dual-stack services"));
        }
        let missing = families.iter().enumerate().filter(|(_, family)| !cluster.contains(&family.as_str()));
        errors.extend(missing.map(|(at, family)| {
            FieldError::invalid(format!("spec.ipFamilies[{at}]"), family.as_str(), "not configured on this cluster")
        }));
    }
    if !errors.is_empty() {
        return errors;
    }
    if families.is_empty() {
        families.extend(cluster.first().map(|family| (*family).to_owned()));
    }
    if policy(new) != SINGLE && families.len() == 1 && (free || cluster.len() == 2) {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
    set(new, FAMILIES, families);
    errors
}

/// Who asks for one family gives the second one up; who gives it up has to ask for one.
fn release(new: &mut Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let single = policy(new) == SINGLE;
    for (path, what) in [(ADDRESSES, "cluster IP"), (FAMILIES, "IP family")] {
        let (mut now, before) = (list(new, path), list(old, path));
        if single && now == before && now.len() > 1 {
            now.truncate(1);
            set(new, path, now);
        } else if !single && !now.is_empty() && now.len() < before.len() {
            errors.push(policy_error(new, &format!("must be 'SingleStack' to release the secondary {what}")));
        }
    }
    errors
}

/// What must be true of the fields among each other.
fn validate(service: &Object) -> Vec<FieldError> {
    let (addresses, families) = (list(service, ADDRESSES), list(service, FAMILIES));
    let mut errors = Vec::new();
    let of_all = |why: &str| FieldError::invalid("spec.clusterIPs", addresses.clone(), why);
    match (address(service), addresses.first()) {
        ("", Some(_)) => errors.push(of_all("must be empty when `clusterIP` is not specified")),
        ("", None) => {}
        (_, None) => errors.push(FieldError::required("spec.clusterIPs", "")),
        (single, Some(first)) if single != first => errors.push(of_all("first value must match `clusterIP`")),
        _ => {}
    }
    for (at, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{at}]");
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            errors.push(FieldError::not_supported(&field, family.as_str(), &["IPv4", "IPv6"]));
        }
        if families[..at].contains(family) {
            errors.push(FieldError::duplicate(&field, family.as_str()));
        }
    }
    if !["", SINGLE, PREFER, REQUIRE].contains(&policy(service)) {
        let known = [PREFER, REQUIRE, SINGLE];
        errors.push(FieldError::not_supported("spec.ipFamilyPolicy", policy(service), &known));
    }
    let mut skewed = false;
    for (at, text) in addresses.iter().enumerate() {
        if at == 0 && text == "None" {
            if addresses.len() > 1 {
                skewed = true;
                errors.push(of_all("'None' must be the first and only value"));
            }
        } else if text.parse::<IpAddr>().is_err() {
            skewed = true;
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), text.as_str(), NO_IP));
        }
    }
    if addresses.len() > 2 {
        errors.push(of_all("may only hold up to 2 values"));
    }
    if skewed {
        return errors;
    }
    if addresses.len() > 1 && addresses.iter().all(|text| text.contains(':') == addresses[0].contains(':')) {
        errors.push(of_all("may specify no more than one IP for each IP family"));
    }
    let pairs = addresses.iter().zip(&families).enumerate().filter(|_| !is_headless(service));
    for (at, (text, family)) in pairs {
        if text.contains(':') != (family == "IPv6") {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), text.as_str(), why));
        }
    }
    errors
}

/// The first address and the first family stay what they were; a second one may come and go.
fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if is_external(old) {
        return errors;
    }
    let (headless, was_headless) = (is_headless(new), is_headless(old));
    let (now, before) = (list(new, ADDRESSES), list(old, ADDRESSES));
    if !(headless && was_headless) {
        let compared = if now.len() == before.len() { now.len() } else { 1 };
        for at in (0..compared.min(before.len())).filter(|at| now.get(*at) != Some(&before[*at])) {
            // Not allocated yet where one is added.
            let why = if now.is_empty() { "primary clusterIP can not be unset" } else { UNCHANGED };
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), now.clone(), why));
        }
    }
    let (families, former) = (list(new, FAMILIES), list(old, FAMILIES));
    if !headless && !was_headless {
        let compared = if families.len() == former.len() { families.len() } else { 1 };
        for _ in (0..compared.min(former.len())).filter(|at| families.get(*at) != Some(&former[*at])) {
            errors.push(FieldError::invalid("spec.ipFamilies[0]", families.clone(), UNCHANGED));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
