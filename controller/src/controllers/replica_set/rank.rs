//! Pure: which pods go first when there are too many (upstream's ActivePodsWithRanks, KEP-2185).

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::controllers::text::Str;
use crate::controllers::time::Now;
use crate::controllers::view::Key;
use crate::controllers::view::meta::Uid;
use crate::controllers::view::pod::{Phase, Pod};

/// The `count` pods to delete, first to go first.
pub(super) fn ranked_for_deletion(active: &[(Key, &Pod)], related: &[&Pod], count: usize, now: Now) -> Vec<(Key, Uid)> {
    let mut crowd: HashMap<&Str, usize> = HashMap::new();
    for node in related.iter().filter_map(|pod| pod.node.as_ref()) {
        *crowd.entry(node).or_default() += 1;
    }
    let rank = |pod: &Pod| pod.node.as_ref().and_then(|node| crowd.get(node)).copied().unwrap_or_default();
    let mut pods: Vec<&(Key, &Pod)> = active.iter().collect();
    pods.sort_by(|(_, a), (_, b)| order((a, rank(a)), (b, rank(b)), now.wall()));
    pods.into_iter().take(count).map(|(key, pod)| (key.clone(), pod.meta.uid)).collect()
}

/// Less means: goes first.
fn order((a, a_rank): (&Pod, usize), (b, b_rank): (&Pod, usize), now: i64) -> Ordering {
    let phase = |pod: &Pod| match pod.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    };
    a.node
        .is_some()
        .cmp(&b.node.is_some())
        .then(phase(a).cmp(&phase(b)))
        .then(a.ready.cmp(&b.ready))
        .then(a.deletion_cost.cmp(&b.deletion_cost))
        .then(b_rank.cmp(&a_rank))
        .then_with(|| if a.ready && b.ready { ages(a.ready_since, b.ready_since, now) } else { Ordering::Equal })
        .then(b.restarts.cmp(&a.restarts))
        .then_with(|| ages(a.meta.created, b.meta.created, now))
        .then(a.meta.uid.cmp(&b.meta.uid))
}

/// The younger first, but ages of the same order of magnitude count as equal, so that chance spreads deletions.
fn ages(a: i64, b: i64, now: i64) -> Ordering {
    let magnitude = |since: i64| match now - since {
        // Nanoseconds, as upstream: a second is 2^29.9 of them.
        age if age > 0 => (u128::from(age as u64) * 1_000_000_000).ilog2() as i64,
        _ => -1,
    };
    match (a == 0, b == 0) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        _ => magnitude(a).cmp(&magnitude(b)),
    }
}
