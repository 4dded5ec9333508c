//! Pure: Services of type LoadBalancer get an address of the site's pool; one of the boards announces it. The third duty of the
//! provider `site`.

use core::net::Ipv4Addr;
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan, Regarding, Report};
use super::view::network::{BALANCED, Balancer};
use super::view::{Key, View};
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

/// The addresses that the site gives to load balancers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool(Vec<(u32, u32)>);

impl Pool {
    /// Adds `192.168.1.240-192.168.1.250`, `192.168.1.240/28` or one address.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let address = |text: &str| text.trim().parse::<Ipv4Addr>().map(u32::from).ok();
        let range = match (text.split_once('-'), text.split_once('/')) {
            (Some((first, last)), _) => address(first).zip(address(last)),
            (_, Some((base, length))) => address(base).zip(length.trim().parse().ok()).and_then(|(base, length)| {
                let rest = u32::MAX.checked_shr(length).unwrap_or_default();
                (length <= 32).then_some((base & !rest, base | rest))
            }),
            _ => address(text).map(|one| (one, one)),
        };
        let range = range.filter(|(first, last)| first <= last);
        self.0.push(
            range.ok_or_else(|| {
                format!("{text:?} is no range of IPv4 addresses, such as 192.168.1.240-192.168.1.250")
            })?,
        );
        Ok(())
    }

    fn holds(&self, ip: Ipv4Addr) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(ip)))
    }

    /// Those that are given without being asked for: in most networks the first and the last of 256 are no host's.
    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let all = self.0.iter().flat_map(|(first, last)| *first..=*last).map(Ipv4Addr::from);
        all.filter(|ip| !matches!(ip.octets()[3], 0 | 255))
    }
}

fn plan(view: &View, _: &Key, context: &Context) -> Plan {
    let pool = &context.options.load_balancer_pool;
    let balanced = view.all(KindId::SERVICES).filter_map(|(key, object)| {
        let service = object.as_service()?;
        Some((service.meta.created, key, service.meta.uid, service.balancer.as_deref()?))
    });
    let mut all: Vec<_> = balanced.collect();
    // Who was there first keeps what it has.
    all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let mut taken = BTreeSet::new();
    let keeps = |balancer: &Balancer, taken: &mut BTreeSet<Ipv4Addr>| {
        let held = balancer.held.filter(|held| balancer.wanted && pool.holds(*held))?;
        (balancer.asked.as_deref().is_none_or(|asked| asked.parse() == Ok(held)) && taken.insert(held)).then_some(held)
    };
    let kept: Vec<Option<Ipv4Addr>> = all.iter().map(|(_, _, _, balancer)| keeps(balancer, &mut taken)).collect();
    let mut actions = Vec::new();
    for ((_, key, uid, balancer), kept) in all.iter().zip(kept) {
        let regarding = Regarding { key: key.clone(), uid: *uid };
        if !balancer.wanted {
            // It was ours once.
            if balancer.condition.is_some() {
                actions.push(release(&regarding));
            }
            continue;
        }
        let given = kept.map_or_else(|| choose(pool, balancer, &mut taken), Ok);
        actions.extend(tell(regarding, balancer, given, &context.now.stamp()));
    }
    if actions.is_empty() { Plan::default() } else { Plan { steps: vec![actions], ..Plan::default() } }
}

/// An address for who has none, or a sentence about why not.
fn choose(pool: &Pool, balancer: &Balancer, taken: &mut BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, String> {
    if pool.0.is_empty() {
        return Err("there is no pool of addresses: start the controller with --load-balancer-pool".into());
    }
    let Some(asked) = balancer.asked.as_deref() else {
        let free = pool.addresses().find(|ip| taken.insert(*ip));
        return free.ok_or_else(|| "no address of the pool is free".into());
    };
    let ip: Ipv4Addr = asked.parse().map_err(|_| format!("{asked:?} is no IPv4 address"))?;
    if !pool.holds(ip) {
        return Err(format!("{ip} is not in the pool"));
    }
    if taken.insert(ip) { Ok(ip) } else { Err(format!("{ip} is taken by another Service")) }
}

/// What the Service's status says differently from now on, with an Event.
fn tell(
    regarding: Regarding,
    balancer: &Balancer,
    given: Result<Ipv4Addr, String>,
    stamp: &str,
) -> impl Iterator<Item = Action> {
    let (status, reason, message) = match &given {
        Ok(ip) => ("True", "Allocated", format!("{ip} is this Service's")),
        Err(why) => ("False", "NotAllocated", why.clone()),
    };
    let known = balancer.condition.as_ref().is_some_and(|known| **known == *message)
        && balancer.held == given.as_ref().ok().copied();
    let report = Report {
        regarding: regarding.clone(),
        warning: given.is_err(),
        reason: if given.is_ok() { "EnsuredLoadBalancer" } else { "SyncLoadBalancerFailed" },
        message: match &given {
            Ok(ip) => format!("Ensured load balancer: {ip}"),
            Err(why) => format!("Error syncing load balancer: failed to ensure load balancer: {why}"),
        },
    };
    let ingress = given.map_or(Value::Null, |ip| json!([{ "ip": ip, "ipMode": "VIP" }]));
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

    #[test]
    fn pools_are_read_in_every_spelling() {
        let mut pool = Pool::default();
        for range in ["10.0.0.10-10.0.0.12", "10.0.1.0/30", "10.0.2.1"] {
            pool.add(range).unwrap();
        }
        assert_eq!(pool.addresses().count(), 7, "10.0.1.0 is for who asks for it");
        for wrong in ["10.0.0.12-10.0.0.10", "10.0.0.0/33", "fd00::1", ""] {
            assert!(pool.add(wrong).unwrap_err().contains("no range"), "{wrong}");
        }
    }
}
