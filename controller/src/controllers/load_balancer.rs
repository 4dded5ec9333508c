//! Pure: Services of type LoadBalancer get an address of the site's pool; one of the boards announces it. The third duty of the
//! provider `site`.

mod pool;

use core::net::IpAddr;
use std::collections::BTreeSet;

use serde_json::{Value, json};

pub use self::pool::Pool;
use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan, Regarding, Report};
use super::text::Str;
use super::view::network::{BALANCED, Balancer};
use super::view::{Key, View};
use crate::cidr::family_of;
use crate::client::PatchKind;

/// The row. All Services share one key: two addresses given at once must differ.
pub(super) const CONTROLLER: Controller = Controller {
    account: "service-controller",
    component: "service-controller",
    watches: &[KindId::SERVICES],
    keys: |_, change, keys| {
        let concerns = |object: &super::view::Projected| object.as_service().is_some_and(|it| it.balancer.is_some());
        // Whoever goes may leave an address to who waits for one.
        if change.new.iter().chain(&change.old).any(concerns) {
            keys.push(Key::new(KindId::SERVICES, "", ""));
        }
    },
    plan,
};

fn plan(view: &View, _: &Key, context: &Context) -> Plan {
    let pool = &context.options.load_balancer_pool;
    let balanced = view.all(KindId::SERVICES).filter_map(|(key, object)| {
        let service = object.as_service()?;
        Some((service.meta.created, key, service.meta.uid, service.balancer.as_deref()?, &service.families))
    });
    let mut all: Vec<_> = balanced.collect();
    // Who was there first keeps what it has.
    all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let mut taken = BTreeSet::new();
    let kept: Vec<Vec<IpAddr>> =
        all.iter().map(|(_, _, _, balancer, families)| keeps(pool, balancer, families, &mut taken)).collect();
    let mut actions = Vec::new();
    for ((_, key, uid, balancer, families), kept) in all.iter().zip(kept) {
        let regarding = Regarding { key: key.clone(), uid: *uid };
        if !balancer.wanted {
            // It was ours once.
            if balancer.condition.is_some() {
                actions.push(release(&regarding));
            }
            continue;
        }
        let given = complete(pool, balancer, families, kept, &mut taken);
        actions.extend(tell(regarding, balancer, given, &context.now.stamp()));
    }
    if actions.is_empty() { Plan::default() } else { Plan { steps: vec![actions], ..Plan::default() } }
}

/// What a Service holds with good reason, one address of each of its families at most.
fn keeps(pool: &Pool, balancer: &Balancer, families: &[Str], taken: &mut BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let asked = asked(balancer).unwrap_or_default();
    let fits = |ip: &IpAddr, family: &str| {
        let other = |asked: &&IpAddr| family_of(**asked) == family && *asked != ip;
        family_of(*ip) == family && pool.holds(*ip) && !asked.iter().any(|one| other(&one))
    };
    let of_family = |family: &Str| balancer.held.iter().copied().find(|ip| fits(ip, family));
    let held: Vec<IpAddr> = families.iter().filter(|_| balancer.wanted).filter_map(of_family).collect();
    held.into_iter().filter(|ip| taken.insert(*ip)).collect()
}

/// The addresses that a Service asks for.
fn asked(balancer: &Balancer) -> Result<Vec<IpAddr>, String> {
    let texts = balancer.asked.iter().flat_map(|asked| asked.split(','));
    texts.map(|text| text.trim().parse().map_err(|_| format!("{:?} is no IP address", text.trim()))).collect()
}

/// What a Service has from now on, and of which of its families the pool has nothing; or a sentence about why not.
fn complete(
    pool: &Pool,
    balancer: &Balancer,
    families: &[Str],
    kept: Vec<IpAddr>,
    taken: &mut BTreeSet<IpAddr>,
) -> Result<(Vec<IpAddr>, Vec<Str>), String> {
    if pool.0.is_empty() {
        return Err("there is no pool of addresses: start the controller with --load-balancer-pool".into());
    }
    let asked = asked(balancer)?;
    if let Some(ip) = asked.iter().find(|ip| families.iter().all(|family| family_of(**ip) != &**family)) {
        return Err(format!("{ip} is of a family that the Service does not have"));
    }
    let (served, missing): (Vec<&Str>, Vec<&Str>) = families.iter().partition(|family| pool.serves(family));
    let mut given = Vec::new();
    for family in &served {
        let known = kept.iter().copied().find(|ip| family_of(*ip) == &***family);
        let asked = asked.iter().copied().find(|ip| family_of(*ip) == &***family);
        given.push(known.map_or_else(|| choose(pool, family, asked, taken), Ok)?);
    }
    match (given.is_empty(), missing.first()) {
        (true, Some(family)) => Err(format!("the pool has no address of {family}")),
        _ => Ok((given, missing.into_iter().cloned().collect())),
    }
}

/// An address for who has none of this family, or a sentence about why not.
fn choose(pool: &Pool, family: &str, asked: Option<IpAddr>, taken: &mut BTreeSet<IpAddr>) -> Result<IpAddr, String> {
    let Some(ip) = asked else {
        let free = pool.addresses(family).find(|ip| taken.insert(*ip));
        return free.ok_or_else(|| "no address of the pool is free".into());
    };
    if !pool.holds(ip) {
        return Err(format!("{ip} is not in the pool"));
    }
    if taken.insert(ip) { Ok(ip) } else { Err(format!("{ip} is taken by another Service")) }
}

/// What the Service's status says differently from now on, with an Event.
fn tell(
    regarding: Regarding,
    balancer: &Balancer,
    given: Result<(Vec<IpAddr>, Vec<Str>), String>,
    stamp: &str,
) -> impl Iterator<Item = Action> {
    let written = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let (status, reason, message) = match &given {
        Ok((ips, missing)) => {
            let are = if ips.len() > 1 { "are" } else { "is" };
            let mut message = format!("{} {are} this Service's", written(ips));
            if let Some(family) = missing.first() {
                message.push_str(&format!("; the pool has no address of {family}"));
            }
            ("True", "Allocated", message)
        }
        Err(why) => ("False", "NotAllocated", why.clone()),
    };
    let ips = given.as_ref().map(|(ips, _)| ips.clone()).unwrap_or_default();
    let known = balancer.condition.as_ref().is_some_and(|known| **known == *message) && *balancer.held == *ips;
    let report = Report {
        regarding: regarding.clone(),
        warning: given.is_err(),
        reason: if given.is_ok() { "EnsuredLoadBalancer" } else { "SyncLoadBalancerFailed" },
        message: match &given {
            Ok((ips, _)) => format!("Ensured load balancer: {}", written(ips)),
            Err(why) => format!("Error syncing load balancer: failed to ensure load balancer: {why}"),
        },
    };
    let ingress: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip, "ipMode": "VIP" })).collect();
    let ingress = if ingress.is_empty() { Value::Null } else { Value::Array(ingress) };
    let condition = json!({ "type": BALANCED, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": stamp });
    let body = json!({ "metadata": { "uid": regarding.uid.to_string() },
        "status": { "loadBalancer": { "ingress": ingress }, "conditions": [condition] } });
    let patch = Action::Patch { key: regarding.key, subresource: Some("status"), patch: PatchKind::Strategic, body };
    [patch, Action::Event(report)].into_iter().filter(move |_| !known)
}

fn release(regarding: &Regarding) -> Action {
    let body = json!({ "metadata": { "uid": regarding.uid.to_string() },
        "status": { "loadBalancer": { "ingress": null }, "conditions": [{ "$patch": "delete", "type": BALANCED }] } });
    Action::Patch { key: regarding.key.clone(), subresource: Some("status"), patch: PatchKind::Strategic, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    fn service(name: &str, spec: Value) -> Value {
        let mut spec = spec;
        spec["ports"] = json!([{ "port": 80 }]);
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "default", "name": name }, "spec": spec })
    }

    fn world(pool: &[&str]) -> World {
        let mut world = World::new(&[&CONTROLLER]);
        for range in pool {
            world.options.load_balancer_pool.add(range).unwrap();
        }
        world
    }

    fn address(world: &World, key: &Key) -> String {
        world.objects[key]["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or("-").to_owned()
    }

    fn why(world: &World, key: &Key) -> String {
        world.objects[key]["status"]["conditions"][0]["message"].as_str().unwrap_or("-").to_owned()
    }

    #[test]
    fn every_service_gets_an_address_of_its_own_and_keeps_it() {
        let mut world = world(&["10.0.0.10-10.0.0.11", "10.0.0.20"]);
        let balanced = json!({ "type": "LoadBalancer" });
        let keys: Vec<Key> = ["a", "b"].iter().map(|name| world.put(service(name, balanced.clone()))).collect();
        let plain = world.put(service("plain", json!({ "type": "ClusterIP" })));
        let asks = world.put(service("c", json!({ "type": "LoadBalancer", "loadBalancerIP": "10.0.0.11" })));
        let foreign =
            world.put(service("d", json!({ "type": "LoadBalancer", "loadBalancerClass": "metallb.io/metallb" })));
        world.settle();
        assert_eq!((address(&world, &keys[0]), address(&world, &keys[1])), ("10.0.0.10".into(), "10.0.0.11".into()));
        assert_eq!(why(&world, &asks), "10.0.0.11 is taken by another Service");
        assert_eq!(
            (address(&world, &plain), address(&world, &foreign), why(&world, &foreign)),
            ("-".into(), "-".into(), "-".into())
        );
        world.remove(&keys[1]);
        world.settle();
        assert_eq!(address(&world, &asks), "10.0.0.11");
        let more: Vec<Key> = ["e", "f"].iter().map(|name| world.put(service(name, balanced.clone()))).collect();
        world.settle();
        assert_eq!(
            (address(&world, &more[0]), why(&world, &more[1])),
            ("10.0.0.20".into(), "no address of the pool is free".into())
        );
        assert_eq!(address(&world, &keys[0]), "10.0.0.10");
    }

    #[test]
    fn what_cannot_be_given_is_told_and_what_is_given_up_is_free() {
        let mut world = world(&[]);
        let key = world.put(service("a", json!({ "type": "LoadBalancer" })));
        world.settle();
        assert!(why(&world, &key).contains("--load-balancer-pool"));
        world.options.load_balancer_pool.add("10.0.0.16/31").unwrap();
        let mut changed = world.objects[&key].clone();
        changed["spec"]["loadBalancerIP"] = json!("10.0.1.1");
        world.put(changed.clone());
        world.settle();
        assert_eq!(why(&world, &key), "10.0.1.1 is not in the pool");
        changed = world.objects[&key].clone();
        changed["spec"]["loadBalancerIP"] = json!("10.0.0.17");
        world.put(changed);
        world.settle();
        assert_eq!(address(&world, &key), "10.0.0.17");
        changed = world.objects[&key].clone();
        changed["spec"]["type"] = json!("ClusterIP");
        world.put(changed);
        world.settle();
        assert_eq!((address(&world, &key), why(&world, &key)), ("-".into(), "-".into()));
    }

    /// All of them.
    fn addresses(world: &World, key: &Key) -> Vec<String> {
        let ingress = world.objects[key]["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        ingress.iter().map(|one| one["ip"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_service_of_two_families_gets_an_address_of_each_that_the_pool_has() {
        let mut world = world(&["10.0.0.10-10.0.0.11", "fd99::c8-fd99::c9"]);
        let both = json!({ "type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"] });
        let key = world.put(service("a", both.clone()));
        let six = world.put(service("b", json!({ "type": "LoadBalancer", "ipFamilies": ["IPv6"] })));
        world.settle();
        assert_eq!(
            (addresses(&world, &key), addresses(&world, &six)),
            (vec!["10.0.0.10".into(), "fd99::c8".into()], vec!["fd99::c9".into()])
        );
        assert_eq!(why(&world, &key), "10.0.0.10 and fd99::c8 are this Service's");
        // One family goes, and its address with it; what is left stays.
        let mut changed = world.objects[&key].clone();
        changed["spec"]["ipFamilies"] = json!(["IPv4"]);
        world.put(changed);
        world.settle();
        assert_eq!(addresses(&world, &key), ["10.0.0.10"]);
        let mut asks = both.clone();
        asks["ipFamilies"] = json!(["IPv6", "IPv4"]);
        let mut asks = service("c", asks);
        asks["metadata"]["annotations"] = json!({ "bramble.dev/load-balancer-ip": "10.0.0.11, fd99::c8" });
        let asks = world.put(asks);
        world.settle();
        assert_eq!(addresses(&world, &asks), ["fd99::c8", "10.0.0.11"]);
        let late = world.put(service("d", both));
        world.settle();
        assert_eq!((addresses(&world, &late).len(), why(&world, &late)), (0, "no address of the pool is free".into()));
    }

    #[test]
    fn a_family_that_the_pool_has_not_is_left_out_and_told() {
        let mut world = world(&["10.0.0.10"]);
        let key = world.put(service("a", json!({ "type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"] })));
        let six = world.put(service("b", json!({ "type": "LoadBalancer", "ipFamilies": ["IPv6"] })));
        world.settle();
        assert_eq!(why(&world, &key), "10.0.0.10 is this Service's; the pool has no address of IPv6");
        assert_eq!((addresses(&world, &six).len(), why(&world, &six)), (0, "the pool has no address of IPv6".into()));
    }
}
